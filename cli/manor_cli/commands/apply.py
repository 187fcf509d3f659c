"""`manor apply` and `manor diff`: documents from files to the config service."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import click

from manor_bus.wire import codec
from manor_bus.wire.errors import ManorError, Problem, bad_request
from manor_bus.wire.messages.config import Applied, Apply, Change
from manor_cli import changes, documents, follow, settle
from manor_cli.app import App
from manor_cli.documents import Parsed
from manor_cli.output import answering, reason_option
from manor_cli.render import clean

TRANSACTION_BYTES_MAX: Final = 1_000_000  # one message is at most 1 MiB
DOCUMENTS_MAX: Final = 1_000  # of one transaction, as config takes them
SKIPPED_TOLD: Final = 8
SUFFIXES: Final = (".yaml", ".yml", ".json")
ORDER: Final = ("ClusterSettings", "Credential", "Node", "Network", "Provider", "Volume", "Domain")
_INDEX: Final = re.compile(r"^documents\[(\d+)\]\.?")
F = TypeVar("F", bound=Callable[..., Any])


def files_option(function: F) -> F:
    """Give a command files, by -f or by themselves, as the argument `files`, and --exit-code."""

    def gather(context: click.Context, _: click.Parameter, more: tuple[str, ...]) -> tuple[str, ...]:
        found = (*context.params.pop("named", ()), *more)
        if not found and not context.resilient_parsing:
            raise click.UsageError("name a file: -f FILE, or - for standard input", context)
        return found

    place = click.Path(allow_dash=True)
    wrapped = click.argument("files", metavar="[FILE]...", nargs=-1, type=place, callback=gather)(function)
    wrapped = click.option(
        "-f", "--file", "named", multiple=True, metavar="FILE", type=place, is_eager=True,
        help="YAML or JSON file, folder, or - for standard input; may be repeated.",
    )(wrapped)  # fmt: skip
    return click.option(
        "--exit-code", is_flag=True, help="End with 0: no difference, 1: some; errors have codes above."
    )(wrapped)


@click.command()
@files_option
@click.option("--dry-run", is_flag=True, help="Say what would happen and do nothing.")
@reason_option
@click.option(
    "--chunk", type=click.IntRange(1, 5_000), help="Several transactions of so many documents each."
)
@follow.wait_option
@answering
def apply(
    app: App, files: Sequence[str], dry_run: bool, reason: str, chunk: int | None, wait: bool, output: str,
    exit_code: bool,
) -> int:  # fmt: skip
    """Create or change what documents describe, all or nothing.

    With --wait it returns when domains and volumes are as described; a failed step is an error.
    A document with metadata.revision is only written if that is still its revision.

    \b
    Example:
      manor apply -f web.yaml
      manor apply site/ --dry-run
      generate | manor apply -f - --chunk 500
    """
    app.told_apart = exit_code
    done = _all(app, read(app, files), chunk, output, dry_run=dry_run, reason=reason)
    if wait and not dry_run:
        settle.wait(app, done)
    return int(exit_code and changes.any_of(done))


def _all(
    app: App, parsed: Sequence[Parsed], chunk: int | None, output: str, *, dry_run: bool, reason: str = ""
) -> tuple[Change, ...]:
    """Post all transactions and tell what each did, as it did it; programs get one list."""
    applied: list[Applied] = []
    many = batches(parsed, chunk, fit=dry_run)
    for at, batch in enumerate(many):
        context = earlier(batch, [one for before in many[:at] for one in before]) if dry_run else []
        try:
            answer = _apply(app, [*context, *batch], dry_run=dry_run, reason=reason)
        except ManorError as error:
            if at and not dry_run:
                _partly(error, at, len(many), sum(map(len, many[:at])))
            raise
        applied.append(Applied(revision=answer.revision, changes=answer.changes[len(context) :]))
        if output in ("table", "wide"):
            changes.told(app, applied[-1], output, dry_run=dry_run)
    done = tuple(change for one in applied for change in one.changes)
    if output not in ("table", "wide"):
        changes.told(app, Applied(revision=applied[-1].revision, changes=done), output, dry_run=dry_run)
    return done


def _partly(error: ManorError, at: int, count: int, written: int) -> None:
    """Say what had been written before one of several transactions was refused."""
    error.message = f"transaction {at + 1} of {count}: {error.message}"
    error.hint = f"the {written} documents before it were written; correct these and apply again"


def earlier(batch: Sequence[Parsed], before: Sequence[Parsed]) -> list[Parsed]:
    """Return those documents of earlier transactions that these name: a dry run has not written them."""
    known = {document.name: document for document in before}
    needed: dict[str, Parsed] = {}
    left: list[Any] = [document.content for document in batch]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str) and value in known and value not in needed:
            needed[value] = known[value]
            left.append(known[value].content)
    return [document for document in before if needed.get(document.name) is document]


@click.command()
@files_option
@answering
def diff(app: App, files: Sequence[str], output: str, exit_code: bool) -> int:
    """Show how documents differ from what is stored.

    \b
    Example:
      manor diff -f web.yaml
      manor diff site/ --exit-code
    """
    app.told_apart = exit_code
    done = _all(app, read(app, files), None, output, dry_run=True)
    return int(exit_code and changes.any_of(done))


def read(app: App, files: Sequence[str]) -> list[Parsed]:
    """Read all documents of files, folders and standard input."""
    parsed = [document for source in files for document in _source(app, source)]
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


def _source(app: App, source: str) -> Iterator[Parsed]:
    if source == "-":
        with click.open_file(source, "rb") as stream:
            yield from documents.parse(_text(stream, "stdin"), "stdin")
        return
    path = Path(source)
    if not path.exists():
        reason = "is a link that leads nowhere" if path.is_symlink() else "is not there"
        raise bad_request(f"the file {source} {reason}", hint="`-` stands for standard input")
    for file in _inside(app, path) if path.is_dir() else [path]:
        with file.open("rb") as stream:
            yield from documents.parse(_text(stream, str(file)), str(file))


def _inside(app: App, folder: Path) -> list[Path]:
    """Return the files of a folder that hold documents; what is not read is said."""
    skipped = {file: why for file in sorted(folder.iterdir()) if (why := _unread(file))}
    if skipped:
        told = [f"{file.name} ({why})" for file, why in list(skipped.items())[:SKIPPED_TOLD]]
        more = f" and {len(skipped) - SKIPPED_TOLD} more" if len(skipped) > SKIPPED_TOLD else ""
        app.note(clean(f"note: not read in {folder}: {', '.join(told)}{more}"))
    return [file for file in sorted(folder.iterdir()) if file not in skipped]


def _unread(file: Path) -> str:
    """Say why a file of a folder is not read; empty when it is."""
    if file.name.startswith("."):
        return "hidden"
    if not file.exists():
        return "leads nowhere"
    if file.is_dir():
        return "a folder"
    if file.suffix not in SUFFIXES:
        return "no .yaml, .yml or .json"
    return "" if file.is_file() else "no regular file"


def _text(stream: IO[bytes], source: str) -> str:
    """Read a text, and of one that is too large no more than shows it."""
    content = stream.read(documents.TEXT_BYTES_MAX + 1)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = Problem(path=f"{source}:{line}", reason="not UTF-8")
        raise bad_request(f"{source} cannot be read", problem) from None


def batches(parsed: Sequence[Parsed], chunk: int | None, *, fit: bool = False) -> list[list[Parsed]]:
    """Return the documents of each transaction: all in one, or `chunk` each, users last.

    What is too much for one is refused, or, if it shall `fit`, divided.
    """
    size = sum(len(codec.encode(document.content)) for document in parsed)
    fitting = min(max(1, len(parsed) * TRANSACTION_BYTES_MAX // max(size, 1) * 9 // 10), DOCUMENTS_MAX)
    if chunk is None and (size > TRANSACTION_BYTES_MAX or len(parsed) > DOCUMENTS_MAX):
        if not fit:
            raise bad_request(
                f"{len(parsed)} documents of {size} bytes are too much for one transaction, which takes "
                f"{DOCUMENTS_MAX} documents and {TRANSACTION_BYTES_MAX} bytes",
                hint=f"use several transactions: --chunk {fitting}",
            )
        chunk = fitting
    if chunk is None:
        return [list(parsed)]
    known = [*ORDER, *sorted({document.kind for document in parsed} - set(ORDER))]
    ordered = sorted(parsed, key=lambda document: known.index(document.kind))
    return [ordered[at : at + chunk] for at in range(0, len(ordered), chunk)]


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
    value = document.written.get(path, problem.value)  # as it stands in the file, not as it was read
    return Problem(path=place, reason=problem.reason, value=value, allowed=problem.allowed)
