"""Names on the command line: bare, or as `-o name` prints them (`domain/web`); completed live."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import click

from manor_bus.wire.errors import Problem, bad_request
from manor_cli.app import App
from manor_cli.kinds import DOCUMENTS, document_kind, singular

COMPLETE_S: Final = 2.0
F = TypeVar("F", bound=Callable[..., Any])


def bare(kind: str, word: str) -> str:
    """Return the name in a word; `bad_request` when the word names a thing of another kind."""
    before, slash, name = word.partition("/")
    if slash and singular(before) != kind:
        problem = Problem(path="NAME", value=word, reason=f"names no {kind}", allowed=f"NAME or {kind}/NAME")
        raise bad_request(f"{word!r} does not name a {kind}", problem)
    return name if slash else word


def argument(
    kind: str, parameter: str = "name", *, many: bool = False, required: bool = True
) -> Callable[[F], F]:
    """Give a command the name of a thing, or several of them, as an argument."""

    def read(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        if many:
            return tuple(dict.fromkeys(bare(kind, word) for word in value))
        return bare(kind, value or "")

    return click.argument(
        parameter,
        metavar=kind.upper() if parameter != "name" else "NAME..." if many else "NAME",
        nargs=-1 if many else 1,
        required=required,
        callback=read,
        shell_complete=lambda context, _, begun: completed(context, kind, begun),
    )


def documents_argument(metavar: str = "KIND NAME...", *, required: bool = True) -> Callable[[F], F]:
    """Give a command the argument `words`: a kind and names, or kind/name as often as wanted."""
    return click.argument(
        "words",
        metavar=metavar,
        nargs=-1,
        required=required,
        shell_complete=lambda context, _, begun: _completed_word(context, begun),
    )


def documents(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return the kind and name of each document that words name."""
    if "/" in words[0]:
        if others := [word for word in words if "/" not in word]:
            problem = Problem(path="NAME", value=others[0], reason="of which kind?", allowed="KIND/NAME")
            raise bad_request(f"{others[0]!r} does not say its kind", problem)
        pairs = [word.split("/", 1) for word in words]
        return list(dict.fromkeys((document_kind(kind), name) for kind, name in pairs))
    kind = document_kind(words[0])
    return list(dict.fromkeys((kind, bare(kind.lower(), word)) for word in words[1:]))


def document(words: Sequence[str]) -> tuple[str, str]:
    """Return the one document that words name."""
    found = documents(words) if words else []
    if len(found) != 1:
        raise click.UsageError("name one document: KIND NAME, or KIND/NAME")
    return found[0]


# -- completion ----------------------------------------------------------------------------------------------


def completed(context: click.Context, kind: str, begun: str) -> list[str]:
    """Return the names that are there and begin as the word does; none when nobody can be asked."""
    app = App()
    app.configure(directory=context.find_root().params.get("directory") or "", timeout=COMPLETE_S)
    prefix = f"{kind}/" if begun.startswith(f"{kind}/") else ""
    try:
        there = sorted(set(_there(app, kind)))
    except Exception:  # a key press is no place for an error
        return []
    finally:
        app.close()
    return [f"{prefix}{name}" for name in there if f"{prefix}{name}".startswith(begun)]


def _completed_word(context: click.Context, begun: str) -> list[str]:
    before = context.params.get("words") or ()
    kinds = [kind.lower() for kind in DOCUMENTS]
    if before and "/" not in before[0]:
        return completed(context, singular(before[0]), begun)
    kind, slash, _ = begun.partition("/")
    if slash:
        return completed(context, kind, begun)
    return [kind for kind in kinds if kind.startswith(begun)]


def _there(app: App, kind: str) -> Iterable[str]:
    """Return the names of a kind: of what is there, or else of what is written down."""
    from manor_bus.wire.messages.config import List, Listed
    from manor_cli.listing import LISTS

    if kind in LISTS and kind != "volume":
        view, rows = LISTS[kind]
        return (row[view.name] for row in rows(app, ""))
    return (one.metadata.name for one in app.call(List(kind=document_kind(kind)), Listed).documents)
