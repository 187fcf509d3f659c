"""`manor delete`, `history`, `rollback`: what becomes of a document."""

from __future__ import annotations

import click

from manor_bus.wire.messages import config
from manor_bus.wire.messages.lifecycle import DomainDelete
from manor_cli import changes, follow, views
from manor_cli.app import App
from manor_cli.kinds import document_kind
from manor_cli.output import output_option, show
from manor_cli.render import whole


@click.command()
@click.argument("kind")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="A domain that still runs or is saved is ended first.")
@click.option("--dry-run", is_flag=True, help="Say what would happen and do nothing.")
@click.option("--reason", default="", help="Why; kept in the history.")
@follow.wait_option
@output_option
@click.pass_obj
def delete(
    app: App,
    kind: str,
    names: tuple[str, ...],
    force: bool,
    dry_run: bool,
    reason: str,
    wait: bool,
    output: str,
) -> None:
    """Delete documents.

    Refused while something uses one, naming by whom.

    \b
    Example:
      manor delete domain web
      manor delete volume web-root web-swap
    """
    wanted = document_kind(kind)
    if wanted == "Domain" and not dry_run:
        for name in names:
            follow.post(app, DomainDelete(name=name, force=force, reason=reason), wait=wait, form=output)
        return
    references = tuple(config.Reference(kind=wanted, name=name) for name in names)
    request = config.Delete(references=references, reason=reason, dry_run=dry_run)
    changes.told(app, app.call(request, config.Applied), output, dry_run=dry_run)


@click.command()
@click.argument("kind")
@click.argument("name")
@click.option("-n", "--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="At most.")
@output_option
@click.pass_obj
def history(app: App, kind: str, name: str, limit: int, output: str) -> None:
    """Show the revisions of a document: when, by whom, why, what.

    \b
    Example:
      manor history domain web -o wide
    """
    wanted = document_kind(kind)
    listed = app.call(config.History(kind=wanted, name=name, limit=limit), config.HistoryListed)
    show(app, views.HISTORY, [whole(entry) for entry in listed.entries], output)
    if output == "wide":
        for entry in listed.entries:
            app.out(f"revision {entry.revision}:")
            changes.diff(app, entry.diff)
    if listed.compacted:
        app.note(f"note: revisions up to {listed.compacted} are no longer kept")


@click.command()
@click.argument("kind")
@click.argument("name")
@click.argument("revision", type=int)
@click.option("--reason", default="", help="Why; kept in the history.")
@output_option
@click.pass_obj
def rollback(app: App, kind: str, name: str, revision: int, reason: str, output: str) -> None:
    """Write a document as it was at REVISION once more.

    \b
    Example:
      manor history domain web
      manor rollback domain web 12
    """
    wanted = document_kind(kind)
    request = config.Rollback(kind=wanted, name=name, revision=revision, reason=reason)
    changes.told(app, app.call(request, config.Applied), output)
