"""`manor watch`: follow what changes."""

from __future__ import annotations

import re
import time
from typing import Final

import click

from manor_bus.peer.events import Synced
from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.messages.bus import RingListed, RingRead
from manor_cli import events, facts
from manor_cli.app import App
from manor_cli.exits import PARTIAL
from manor_cli.kinds import FACTS
from manor_cli.output import line_option
from manor_cli.render import as_json

NOBODY: Final = "-"  # no name begins so: the answer is only who was heard
NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@click.command()
@click.argument("pattern", default="domain.*")
@line_option
@click.option("--once", is_flag=True, help="Print what is there now and end; with 8 when it is not all.")
@click.option("--changes-only", is_flag=True, help="Not what is there now, only what changes.")
@click.option(
    "--since", type=int, help="Begin with the past events after this number (0: all that are kept)."
)
@click.option("-n", "--count", type=click.IntRange(min=1), help="End after so many events.")
@click.pass_obj
def watch(
    app: App, pattern: str, output: str, once: bool, changes_only: bool, since: int | None, count: int | None
) -> int:
    """Follow what is under PATTERN: as it is, then each change.

    Patterns: domain.web, domain.* (one word), device.> (one or more). The global --timeout ends it.
    With -o json each line is one JSON object with CloudEvents names; "data" is null when the object is gone.

    \b
    Example:
      manor watch
      manor watch 'operation.*' -o json
      manor --timeout 60 watch 'device.>' --changes-only
    """
    app.until_left()
    left = count or 0
    pattern = _by_uuid(app, pattern)
    if once:
        _complete(app, pattern)
    if since is not None:
        told = _past(app, pattern, since, output, left)
        if left and told == left:
            return 0
        left -= min(left, told)
    snapshot = not changes_only and since is None
    for change in app.client.watch(pattern, policy="gap", snapshot=snapshot, timeout=app.timeout):
        if isinstance(change, Synced):
            if once:
                return PARTIAL if app.partial else 0
            continue
        now = time.time()
        app.out(
            as_json(events.cloud(change, now), indent=0)
            if output == "json"
            else _line(events.line(change), now)
        )
        left -= 1
        if left == 0:
            break
    return 0


def _complete(app: App, pattern: str) -> None:
    """Find out, and tell, whose word is missing of what owners say is there."""
    kind = pattern.partition(".")[0]
    if kind in FACTS:
        facts.find(app, kind, name=NOBODY)  # type: ignore[arg-type]


def _by_uuid(app: App, pattern: str) -> str:
    """Return the pattern of a domain that was given by its name; subjects have its uuid."""
    kind, _, name = pattern.partition(".")
    if kind != "domain" or not NAME.fullmatch(name) or UUID.fullmatch(name):
        return pattern
    return f"domain.{facts.domain(app, name).uuid}"


def _past(app: App, pattern: str, since: int, output: str, count: int) -> int:
    """Print the events that the broker still keeps, at most `count` (0: all); return how many."""
    told = 0
    while True:
        listed = app.call(RingRead(pattern=pattern, since=since), RingListed)
        for event in listed.events:
            wire = codec.decode(event.envelope, Envelope)
            if output == "json":
                shown = {**events.cloud_of(event.sender, wire, event.at), "n": event.n}
                app.out(as_json(shown, indent=0))
            else:
                app.out(_line(events.line_of(event.sender, wire), event.at))
            told += 1
            if told == count:
                return told
        if not listed.events:
            return told
        since = listed.events[-1].n


def _line(text: str, now: float) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(now))} {text}"
