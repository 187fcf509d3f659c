import re
import runpy
from pathlib import Path

from manor_cli.main import COMMANDS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "cli.md"
made = runpy.run_path(str(DOCS / "makers" / "commands.py"))["page"]


def test_the_page_of_all_commands_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == made(), "run make docs"


def test_every_command_has_its_chapter():
    chapters = re.findall(r"^## manor (\w+)$", made(), re.MULTILINE)
    assert sorted(chapters) == sorted(COMMANDS)


def test_subcommands_have_theirs_below():
    assert "### manor service replace\n" in made()


def test_every_row_of_a_table_has_its_columns():
    for table in re.findall(r"(?:^\|.*\|\n)+", made(), re.MULTILINE):
        assert len({re.sub(r"\\\|", "", row).count("|") for row in table.splitlines()}) == 1, table
