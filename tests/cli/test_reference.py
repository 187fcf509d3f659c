import re
from pathlib import Path

from manor_cli import reference
from manor_cli.main import COMMANDS

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_page_of_all_commands_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == reference.page(), (
        "run python -m manor_cli.reference docs/cli.md"
    )


def test_every_command_has_its_chapter():
    chapters = re.findall(r"^## manor (\w+)$", reference.page(), re.MULTILINE)
    assert sorted(chapters) == sorted(COMMANDS)


def test_subcommands_have_theirs_below():
    assert "### manor service replace\n" in reference.page()


def test_every_row_of_a_table_has_its_columns():
    for table in re.findall(r"(?:^\|.*\|\n)+", reference.page(), re.MULTILINE):
        assert len({re.sub(r"\\\|", "", row).count("|") for row in table.splitlines()}) == 1, table


def test_the_page_can_be_written(tmp_path):
    reference.main([str(tmp_path / "cli.md")])
    assert (tmp_path / "cli.md").read_text() == reference.page()
