"""The pages are true: links lead somewhere, bytes decode to what is written beside them, commands run."""

import json
import os
import re
import runpy
import subprocess
from pathlib import Path

import click
import msgpack
import pytest

from manor_cli import main as manor_main

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(page):
    return str(page.relative_to(ROOT))


def text(page):
    return page.read_text(encoding="utf-8")


def prose(page):
    """A page without its code."""
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", text(page)))


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


def test_the_map_of_the_docs_names_every_page():
    docs = ROOT / "docs"
    named = set(re.findall(r"\]\(([^)#]+)\)", text(docs / "README.md")))
    there = {str(file.relative_to(docs)) for file in docs.rglob("*") if file.is_file()}
    decisions = {one for one in there if one.startswith("decisions/")}
    assert there - decisions - {"README.md"} <= named
    assert "decisions" in named or not decisions


def test_designs_of_what_does_not_exist_say_so():
    for page in sorted((ROOT / "docs" / "design").glob("*.md")):
        assert text(page).splitlines()[0].endswith("(not built)"), page.name


def commands(kind):
    """The shell blocks of each page in one script, by what stands behind `sh`: nothing, `demo` or `dry`."""
    scripts = {
        name(page): "\n".join(
            block
            for language, mode, block in FENCE.findall(text(page))
            if language == "sh" and mode.strip() == kind
        )
        for page in PAGES
    }
    return [pytest.param(script, id=page) for page, script in scripts.items() if script]


def run(script, timeout):
    outcome = subprocess.run(
        ["bash", "-eu", "-c", script],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert outcome.returncode == 0, outcome.stdout[-5000:]
    return outcome.stdout


@pytest.mark.system
@pytest.mark.parametrize("script", commands(""))
def test_every_command_on_a_page_works(script):
    run(
        f'trap \'test -z "${{MANOR_DIR-}}" || {{ manor down; rm -r "$MANOR_DIR"; }} >&2\' EXIT\n{script}', 300
    )


@pytest.mark.qemu
@pytest.mark.parametrize("script", commands("demo"))
def test_the_demo_runs_as_the_page_says(script):
    assert "All of it happened as told" in run(script, 600)


@pytest.mark.system
@pytest.mark.parametrize("script", commands("install"))
def test_the_install_lines_make_a_folder_in_which_every_program_starts(script, tmp_path):
    run(script.replace("/opt/manor", str(tmp_path / "manor")), 300)
    bin_ = tmp_path / "manor" / "bin"
    assert run(f"{bin_}/manor version", 60)
    for program in ("bus", "config", "discovery", "lifecycle", "devices"):
        assert os.access(bin_ / f"manor-{program}", os.X_OK)
    run(f"cd / && {bin_}/python -c 'import manor_bus.peer.serving, manor_lifecycle, manor_devices'", 60)


@pytest.mark.parametrize("script", commands("dry"))
def test_what_a_page_says_to_make_can_be_made(script):
    assert run(script.replace("make ", "make -n "), 60)


def test_the_front_page_shows_the_demo_and_the_tests():
    front = text(ROOT / "README.md")
    assert "make demo" in front
    assert "make test" in front


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_a_page_names_exists(page):
    for spelled in re.findall(r"(?:`|^)manor ((?:[a-z][a-z-]* ?)+)", text(page), re.MULTILINE):
        command: click.Command = manor_main.manor
        for word in spelled.split():
            if not isinstance(command, click.Group):
                break
            found = command.get_command(click.Context(command), word)
            assert found is not None, f"manor {spelled}"
            command = found


def generator():
    """docs/generate.py, which is no module of a room."""
    return runpy.run_path(str(ROOT / "docs" / "generate.py"))


@pytest.mark.parametrize(
    "page", ["messages.md", "asyncapi.yaml", "documents.md", "lifecycle.md", "devices.md"]
)
def test_what_is_made_from_the_code_is_up_to_date(page):
    assert generator()["pages"]()[page] == text(ROOT / "docs" / page), "run `make docs`"


def byte_examples():
    """Pairs of a hex block and the JSON block after it, of the wire page."""
    blocks = FENCE.findall(text(ROOT / "docs" / "wire.md"))
    return [
        pytest.param(shown, blocks[at + 1][2], id=f"example {at}")
        for at, (language, _, shown) in enumerate(blocks)
        if language == "hex"
    ]


@pytest.mark.parametrize(("shown", "meaning"), byte_examples())
def test_every_byte_on_the_wire_page_means_what_is_written_below_it(shown, meaning):
    assert msgpack.unpackb(bytes.fromhex(shown)) == json.loads(meaning)


def test_the_wire_page_has_its_byte_examples():
    assert len(byte_examples()) >= 5
