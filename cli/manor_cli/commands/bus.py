"""`manor bus`: look at the bus itself."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import click

from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope, Kind
from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages import bus as words
from manor_cli import events, recording, views
from manor_cli.app import App
from manor_cli.output import answering, line_option, lines, show
from manor_cli.recording import Recorded
from manor_cli.render import View, as_json, clean, whole

RECORDED_MAX = 1_000_000


@click.group()
def bus() -> None:
    """Look at the bus: peers, messages, policy, recordings.

    \b
    Example:
      manor bus top
      manor bus tap 'lifecycle.>'
    """


@bus.command()
@click.argument("what", type=click.Choice(["peers", "calls", "watches"]), default="peers")
@click.option("--interval", type=click.FloatRange(min=0.2), default=1.0, show_default=True, help="Seconds.")
@click.option("--once", is_flag=True, help="Print once and end, as without a terminal.")
@answering
def top(app: App, what: str, interval: float, once: bool, output: str) -> None:
    """Show peers, calls under way, or subscriptions; on a terminal again and again until Ctrl-C.

    \b
    Example:
      manor bus top
      manor bus top calls --once -o json
    """
    if once or not app.terminal or output not in ("table", "wide"):
        view, rows = _rows(app, what)
        show(app, view, rows, output)
        return
    while True:
        view, rows = _rows(app, what)
        shown = lines(app, view, rows, wide=output == "wide") if rows else [view.empty]
        app.out("\x1b[H\x1b[J" + "\n".join(shown[: shutil.get_terminal_size().lines - 1]))
        time.sleep(interval)


def _rows(app: App, what: str) -> tuple[View, list[dict[str, Any]]]:
    if what == "calls":
        calls = app.call(words.Pending(), words.PendingListed).pending
        return views.PENDING, [whole(one) for one in calls]
    if what == "watches":
        subs = app.call(words.Subs(), words.SubsListed).subs
        return views.SUBSCRIPTIONS, [whole(one) for one in subs]
    peers = app.call(words.Peers(), words.PeersListed).peers
    return views.PEERS, [whole(one) for one in peers]


@bus.command()
@click.argument("pattern", default=">")
@line_option
@click.option("-n", "--count", type=click.IntRange(min=1), help="End after so many messages.")
@click.pass_obj
def tap(app: App, pattern: str, output: str, count: int | None) -> None:
    """Print every message that passes under PATTERN: calls, replies and events. Operators only.

    \b
    Example:
      manor bus tap 'lifecycle.>'
    """
    app.until_left()
    for number, (sender, wire) in enumerate(app.client.items(pattern, tap=True, timeout=app.timeout), 1):
        told = events.cloud_of(sender, wire, time.time()) if output == "json" else None
        app.out(as_json(told, indent=0) if told else events.line_of(sender, wire))
        if number == count:
            return


@bus.command()
@click.argument("label")
@click.argument("verb", type=click.Choice(["serve", "publish", "call", "watch"]))
@click.argument("subject")
@click.pass_obj
def explain(app: App, label: str, verb: Any, subject: str) -> None:
    """Say what the policy decides, and by which rule: may LABEL do VERB on SUBJECT?

    \b
    Example:
      manor bus explain observer/grafana call lifecycle.domain.start
    """
    told = app.call(words.Explain(label=label, verb=verb, subject=subject), words.Explained)
    app.out(f"{'allowed' if told.allowed else 'denied'}: {clean(told.rule)}")


@bus.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--pattern", default=">", show_default=True, help="What to record.")
@click.option("--events-only", is_flag=True, help="No calls and replies.")
@click.option("-n", "--count", type=click.IntRange(1, RECORDED_MAX), default=RECORDED_MAX, help="At most.")
@click.pass_obj
def record(app: App, file: Path, pattern: str, events_only: bool, count: int) -> None:
    """Record what passes into FILE until Ctrl-C, the global --timeout or --count. Nothing else is disturbed.

    \b
    Example:
      manor --timeout 60 bus record incident.record
    """
    number, began = 0, time.monotonic()
    with file.open("wb") as written:
        try:
            for sender, wire in app.client.items(pattern, tap=not events_only, timeout=app.timeout):
                at = round(time.monotonic() - began, 6)
                recording.write(written, Recorded(at, sender, codec.encode(wire)))
                number += 1
                if number >= count:
                    break
        except KeyboardInterrupt:
            app.note("")
    app.out(f"{file}: {number} messages")


@bus.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--speed", type=click.FloatRange(min=0), default=0.0, help="1: as it was, 10: faster, 0: at once."
)
@click.option("--send", is_flag=True, help="Make the recorded calls again, as ourselves, with new ids.")
@line_option
@click.pass_obj
def replay(app: App, file: Path, speed: float, send: bool, output: str) -> None:
    """Print a recording as `tap` would have; with --send make its calls again.

    \b
    Example:
      manor bus replay incident.record --speed 10
      manor bus replay incident.record --send
    """
    began = time.monotonic()
    for recorded in recording.read(file):
        if speed:
            time.sleep(max(0.0, recorded.at / speed - (time.monotonic() - began)))
        wire = codec.decode(recorded.envelope, Envelope)
        if send and wire.k == Kind.REQ:
            _again(app, wire)
        elif not send:
            told = as_json(events.cloud_of(recorded.sender, wire, recorded.at), indent=0)
            app.out(told if output == "json" else events.line_of(recorded.sender, wire))


def _again(app: App, wire: Envelope) -> None:
    """Make one recorded call again; a refusal is told and does not end the replay."""
    subject = wire.to.partition("@")[0]
    try:
        reply = app.client.raw_call(subject, codec.decode(wire.data, object), timeout=app.budget)
    except ManorError as error:
        app.out(f"{clean(subject)}: {error.kind.value}: {clean(error.message)}")
    else:
        app.out(f"{clean(subject)}: {clean(as_json(whole(reply), indent=0))}")
