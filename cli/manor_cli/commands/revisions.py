"""`manor delete`, `history`, `rollback`: what becomes of a document."""

from __future__ import annotations

from collections.abc import Sequence

import click

from manor_bus.wire.messages import config
from manor_bus.wire.messages.lifecycle import DomainDelete
from manor_cli import changes, follow, names, views
from manor_cli.app import App
from manor_cli.output import answering, reason_option, show
from manor_cli.render import whole


@click.command()
@names.documents_argument()
@click.option("--force", is_flag=True, help="A domain that still runs or is saved is ended first.")
@click.option("--dry-run", is_flag=True, help="Say what would happen and do nothing.")
@reason_option
@follow.wait_option
@answering
def delete(
    app: App, words: Sequence[str], force: bool, dry_run: bool, reason: str, wait: bool, output: str
) -> int:
    """Delete documents: domains one by one, then all others in one transaction.

    Refused while something uses one, naming by whom.

    \b
    Example:
      manor delete domain web db
      manor delete domain/web volume/web-root
    """
    found = names.documents(words)
    if not found:
        raise click.UsageError("name what to delete: KIND NAME..., or KIND/NAME...")
    domains = [name for kind, name in found if kind == "Domain" and not dry_run]
    others = [(kind, name) for kind, name in found if name not in domains or kind != "Domain"]
    outcomes = follow.Outcomes(app, output, alone=len(found) == 1)

    def end(name: str) -> DomainDelete:
        return DomainDelete(name=name, force=force, reason=reason)

    follow.post(app, domains, end, outcomes, wait=wait)
    if others:
        with outcomes.of(", ".join(f"{kind.lower()}/{name}" for kind, name in others)):
            references = tuple(config.Reference(kind=kind, name=name) for kind, name in others)
            request = config.Delete(references=references, reason=reason, dry_run=dry_run)
            applied = app.call(request, config.Applied, key=follow.new_id())
            outcomes.rows += [changes.row(change) for change in applied.changes]
            if output not in ("json", "yaml"):
                changes.told(app, applied, output, dry_run=dry_run)
    if output in ("json", "yaml") and (others or not outcomes.alone):
        show(app, views.CHANGES, outcomes.rows, output)
    return outcomes.code


@click.command()
@names.documents_argument("KIND NAME")
@click.option("-n", "--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="At most.")
@answering
def history(app: App, words: Sequence[str], limit: int, output: str) -> None:
    """Show the revisions of a document: when, by whom, why, what.

    \b
    Example:
      manor history domain web -o wide
    """
    kind, name = names.document(words)
    listed = app.call(config.History(kind=kind, name=name, limit=limit), config.HistoryListed)
    show(app, views.HISTORY, [whole(entry) for entry in listed.entries], output)
    if output == "wide":
        for entry in listed.entries:
            app.out(f"revision {entry.revision}:")
            changes.diff(app, entry.diff)
    if listed.compacted:
        app.note(f"note: revisions up to {listed.compacted} are no longer kept")


@click.command()
@names.documents_argument("KIND NAME")
@click.argument("revision", type=int)
@reason_option
@answering
def rollback(app: App, words: Sequence[str], revision: int, reason: str, output: str) -> None:
    """Write a document as it was at REVISION once more.

    \b
    Example:
      manor history domain web
      manor rollback domain web 12
    """
    kind, name = names.document(words)
    request = config.Rollback(kind=kind, name=name, revision=revision, reason=reason)
    changes.post(app, request, output)
