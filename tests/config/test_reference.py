from __future__ import annotations

import re
import runpy
from pathlib import Path

import yaml

from manor_config.documents import KINDS, Parsed, parse

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "documents.md"
made = runpy.run_path(str(DOCS / "makers" / "documents.py"))["page"]


def test_the_page_of_all_documents_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == made(), "run make docs"


def test_every_kind_has_its_chapter_and_every_row_its_columns() -> None:
    page = made()
    assert [*re.findall(r"^## (\w+)$", page, re.MULTILINE)] == ["metadata", *KINDS]
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {re.sub(r"`[^`]*`", "", row).count("|") for row in rows} == {6}


def test_the_example_on_the_page_is_a_document() -> None:
    [example] = re.findall(r"```yaml\n(.*?)```", made(), re.DOTALL)
    assert isinstance(parse(yaml.safe_load(example)), Parsed)
