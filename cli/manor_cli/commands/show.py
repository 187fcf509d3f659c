"""`manor get` (what was asked for) and `manor list` (what is there)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from manor_cli import facts, names, views
from manor_cli.app import App
from manor_cli.exits import PARTIAL
from manor_cli.kinds import DOCUMENTS, document_kind, singular, unknown
from manor_cli.listing import LISTS
from manor_cli.output import answering, show
from manor_cli.render import as_json, as_yaml, whole


@click.command("list")
@click.argument("kind", required=False, default="domain")
@click.option("-l", "--selector", default="", help="Only what has these labels: key=value,key!=value,key.")
@click.option("--partial", is_flag=True, help="End with 0 also when somebody's word is missing.")
@answering
def list_(app: App, kind: str, selector: str, partial: bool, output: str) -> int:
    """List what is there: domains, or things of another KIND.

    KIND: nodes, services, providers, resources, volumes, devices, backends, operations, or a kind of
    document. When it is not all there is, stderr says whose word is missing, and the exit code is 8.

    \b
    Example:
      manor list
      manor list -o json
      manor list nodes
      manor list -l tier=web -o name
    """
    wanted = singular(kind)
    if wanted in LISTS:
        view, rows = LISTS[wanted]
        show(app, view, rows(app, selector), output)
    elif wanted in (name.lower() for name in DOCUMENTS):
        _documents(app, document_kind(kind), (), selector, output)
    else:
        raise unknown(kind, (*LISTS, "network", "credential"))
    return PARTIAL if app.partial and not partial else 0


@click.command()
@names.documents_argument("[KIND] [NAME]...", required=False)
@click.option("-l", "--selector", default="", help="Only what has these labels: key=value,key!=value,key.")
@click.option("--revision", type=int, help="As it was at this revision of the store (one NAME).")
@answering
def get(app: App, words: tuple[str, ...], selector: str, revision: int | None, output: str) -> None:
    """Get documents: what was asked for. `-o yaml` is what `manor apply` takes.

    With `-o wide` domains also show their state and which changes wait for their next start.

    \b
    Example:
      manor get
      manor get domain web -o yaml
      manor get domain web -o wide
      manor get domain web --revision 12 -o yaml
    """
    named = names.documents(words) if words else []
    if revision is not None and len(named) != 1:
        raise click.UsageError("--revision needs exactly one NAME")
    kind = document_kind(words[0]) if words and not named else ""
    _documents(app, kind, named, selector, output, revision)


def _documents(
    app: App,
    kind: str,
    named: Sequence[tuple[str, str]],
    selector: str,
    output: str,
    revision: int | None = None,
) -> None:
    """Print the named documents, or all of a kind."""
    from manor_bus.wire.messages import config

    asked = [config.Get(kind=kind, name=name, revision=revision) for kind, name in named]
    found = (
        [app.call(one, config.Got).document for one in asked]
        if asked
        else facts.documents(app, kind, selector)
    )
    one = len(named) == 1
    if output == "yaml":
        app.out(as_yaml(found, many=True).rstrip())
    elif output == "json":
        app.out(as_json(whole(found[0]) if one else [whole(document) for document in found]))
    else:
        rows = [views.document_row(document) for document in found]
        if output == "wide":
            _observed(app, rows)
        show(app, views.DOCUMENTS, rows, output)


def _observed(app: App, rows: list[dict[str, Any]]) -> None:
    """Add to the rows of domains what is observed of them."""
    if not any(row["kind"] == "Domain" for row in rows):
        return
    statuses = {status.name: status for status in facts.domains(app)}
    for row in rows:
        status = statuses.get(row["name"]) if row["kind"] == "Domain" else None
        if status is not None:
            row |= {"state": status.state.value, "pending": whole(status.pending)}
