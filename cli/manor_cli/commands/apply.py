"""`manor apply` and `manor diff`: documents from files to the config service."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from manor_bus.wire import codec
from manor_bus.wire.errors import ManorError, Problem, bad_request
from manor_bus.wire.messages.config import Applied, Apply
from manor_cli import changes, documents, follow, settle
from manor_cli.app import App
from manor_cli.documents import Parsed
from manor_cli.output import output_option

TRANSACTION_BYTES_MAX: Final = 1_000_000  # one message is at most 1 MiB
SUFFIXES: Final = (".yaml", ".yml", ".json")
ORDER: Final = ("ClusterSettings", "Credential", "Node", "Network", "Provider", "Volume", "Domain")
_INDEX: Final = re.compile(r"^documents\[(\d+)\]\.?")
F = TypeVar("F", bound=Callable[..., Any])


def files_option(function: F) -> F:
    """Give a command `-f FILE`, as the argument `files`."""
    option = click.option(
        "-f", "--file", "files", multiple=True, required=True, metavar="FILE",
        help="YAML or JSON file, folder, or - for standard input; may be repeated.",
    )  # fmt: skip
    return option(function)


@click.command()
@files_option
@click.option("--dry-run", is_flag=True, help="Say what would happen and do nothing.")
@click.option("--reason", default="", help="Why; kept in the history.")
@click.option(
    "--chunk", type=click.IntRange(1, 5_000), help="Several transactions of so many documents each."
)
@follow.wait_option
@output_option
@click.pass_obj
def apply(
    app: App, files: Sequence[str], dry_run: bool, reason: str, chunk: int | None, wait: bool, output: str
) -> None:
    """Create or change what documents describe, all or nothing.

    With --wait it returns when domains and volumes are as described; a failed step is an error.
    A document with metadata.revision is only written if that is still its revision.

    \b
    Example:
      manor apply -f web.yaml
      manor apply -f site/ --dry-run
      generate | manor apply -f - --chunk 500
    """
    parsed = read(files)
    applied = []
    for batch in batches(parsed, chunk):
        applied.append(_apply(app, batch, dry_run=dry_run, reason=reason))
    done = tuple(change for one in applied for change in one.changes)
    whole = Applied(revision=applied[-1].revision if applied else 0, changes=done)
    changes.told(app, whole, output, dry_run=dry_run)
    if wait and not dry_run:
        settle.wait(app, done)


@click.command()
@files_option
@output_option
@click.pass_obj
def diff(app: App, files: Sequence[str], output: str) -> None:
    """Show how documents differ from what is stored.

    \b
    Example:
      manor diff -f web.yaml
    """
    changes.told(app, _apply(app, read(files), dry_run=True, reason=""), output, dry_run=True)


def read(files: Sequence[str]) -> list[Parsed]:
    """Read all documents of files, folders and standard input."""
    parsed = [document for source in files for document in _source(source)]
    if not parsed:
        raise bad_request(
            f"there are no documents in {', '.join(files)}", hint="`manor apply --help` has examples"
        )
    seen: dict[tuple[str, str], Parsed] = {}
    for document in parsed:
        before = seen.setdefault((document.kind, document.name), document)
        if before is not document:
            where = Problem(path=document.place(""), reason=f"stands at {before.place('')} already")
            raise bad_request(f"{document.kind} {document.name} is described twice", where)
    return parsed


def _source(source: str) -> Iterator[Parsed]:
    if source == "-":
        with click.open_file(source, "rb") as stream:
            yield from documents.parse(_text(stream.read(), "stdin"), "stdin")
        return
    path = Path(source)
    if not path.exists():
        raise bad_request(f"there is no file {source}", hint="`-` stands for standard input")
    inside = path.iterdir() if path.is_dir() else ()
    files = sorted(file for file in inside if file.suffix in SUFFIXES and file.is_file())
    for file in files if path.is_dir() else [path]:
        yield from documents.parse(_text(file.read_bytes(), str(file)), str(file))


def _text(content: bytes, source: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = Problem(path=f"{source}:{line}", reason="not UTF-8")
        raise bad_request(f"{source} cannot be read", problem) from None


def batches(parsed: Sequence[Parsed], chunk: int | None) -> list[list[Parsed]]:
    """Return the documents of each transaction: all in one, or `chunk` each, users last."""
    if chunk is not None:
        known = [*ORDER, *sorted({document.kind for document in parsed} - set(ORDER))]
        ordered = sorted(parsed, key=lambda document: known.index(document.kind))
        return [ordered[at : at + chunk] for at in range(0, len(ordered), chunk)]
    size = sum(len(codec.encode(document.content)) for document in parsed)
    if size > TRANSACTION_BYTES_MAX:
        fitting = max(1, len(parsed) * TRANSACTION_BYTES_MAX // size * 9 // 10)
        raise bad_request(
            f"{len(parsed)} documents are {size} bytes, one transaction takes {TRANSACTION_BYTES_MAX}",
            hint=f"use several transactions: --chunk {fitting}",
        )
    return [list(parsed)]


def _apply(app: App, parsed: Sequence[Parsed], *, dry_run: bool, reason: str) -> Applied:
    """Post one transaction; problems come back with file and line."""
    contents = tuple(document.content for document in parsed)
    request = Apply(documents=contents, dry_run=dry_run, reason=reason)
    try:
        return app.call(request, Applied, key=follow.new_id(), timeout=max(app.budget, 30.0))
    except ManorError as error:
        error.problems = tuple(placed(problem, parsed) for problem in error.problems)
        raise


def placed(problem: Problem, parsed: Sequence[Parsed]) -> Problem:
    """Put file and line before the path of a problem (`documents[3].spec.cpu`)."""
    match = _INDEX.match(problem.path)
    if match is None or int(match[1]) >= len(parsed):
        return problem
    document, path = parsed[int(match[1])], problem.path[match.end() :]
    place = f"{document.place(path)} {document.kind}/{document.name} {path}".rstrip()
    return Problem(path=place, reason=problem.reason, value=problem.value, allowed=problem.allowed)
