"""Every command line that the product advises exists: hints of all rooms against click's own commands."""

import ast
import re
from pathlib import Path

import click
import pytest

from manor_cli.main import COMMANDS, GROUPS, MEANT, manor
from tests.cli.fake import run

ROOT = Path(__file__).parents[2]
FILES = sorted({*ROOT.glob("*/manor_*/**/*.py"), *ROOT.glob("services/*/manor_*/**/*.py")})
ADVICE = re.compile(r"\bmanor ((?:-|[a-z])[^`;,()'\"]*)")
NO_COMMANDS = {"is", "runs"}  # words after the name of the product
OPTION = re.compile(r"(?<![\w-])--?[a-zA-Z][a-z-]*")


def said(tree):
    """All texts but docstrings; what is filled in is X."""
    silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [one.value if isinstance(one, ast.Constant) else "X" for one in node.values]
            silent |= {id(one) for one in node.values}
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.lineno, node.value


def advised():
    """Yield every command line in the product's texts, and where it stands."""
    for file in FILES:
        for line, text in said(ast.parse(file.read_text(encoding="utf-8"))):
            for match in ADVICE.finditer(text):
                if match[1].split()[0] not in NO_COMMANDS:
                    yield f"{file.name}:{line}", match[1]


def options(command, context):
    return {name for one in command.get_params(context) for name in (*one.opts, *one.secondary_opts)}


def fault(advice):
    """Say what is wrong with a command line; empty when it exists."""
    command: click.Command = manor
    context = click.Context(manor)
    allowed = options(manor, context)
    for word in advice.split():
        if OPTION.fullmatch(word):
            if word not in allowed:
                return f"no option {word} of {command.name}"
        elif isinstance(command, click.Group):
            if word in ("X", "...", "--help") or word.isupper():
                return ""
            found = command.get_command(context, word.rstrip(".:"))
            if found is None:
                return f"no command {word}"
            command, context = found, click.Context(found)
            allowed = options(manor, context) | options(command, context)
    return ""


def test_every_command_line_that_the_product_advises_exists():
    found = list(advised())
    assert len(found) > 50
    assert [(place, advice, fault(advice)) for place, advice in found if fault(advice)] == []


@pytest.mark.parametrize(("word", "here"), MEANT.items())
def test_a_word_of_another_tool_leads_to_what_it_is_here(word, here):
    assert word not in COMMANDS
    assert fault(here) == ""
    ran = run(word, "x")
    assert ran.code == 2
    assert f"`manor {here}`" in ran.err


def test_the_short_help_names_every_command_once_in_its_group():
    named = " ".join(names for modules in GROUPS.values() for names in modules.values()).split()
    assert sorted(named) == sorted(COMMANDS)
    ran = run()
    assert ran.code == 0
    assert len(ran.out.splitlines()) < 15
    assert all(len(line) <= 100 for line in ran.out.splitlines())


@pytest.mark.parametrize(
    "advice", ["lits", "shutdown web --force-after", "volume make x", "list --timeout-s 5", "device remove"]
)
def test_a_command_line_that_does_not_exist_is_seen(advice):
    assert fault(advice) != ""


def hints():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                yield from ((f"{file.name}:{line}", text) for line, text in said(node.value))


def every(group, context):
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield command
        if isinstance(command, click.Group):
            yield from every(command, context)


KNOWN = set().union(*(options(one, click.Context(one)) for one in every(manor, click.Context(manor))))
KNOWN |= options(manor, click.Context(manor)) | {"--help"}


def test_every_option_that_a_hint_names_is_one_of_a_command():
    named = [(place, set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))) for place, text in hints()]
    assert [(place, words - KNOWN) for place, words in named if words - KNOWN] == []
