"""`manor call` and `manor publish`: any message of the bus by hand, to script and to learn the protocol."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import click
import msgspec

from manor_bus.wire.errors import Problem, bad_request
from manor_bus.wire.messages.catalogue import CALL_BY_SUBJECT
from manor_cli.app import App
from manor_cli.render import as_json, whole


@click.command()
@click.argument("subject")
@click.argument("body", default="{}")
@click.option("--key", default="", help="Idempotency key; a repetition with the same one has one effect.")
@click.option("--at", default="", help="Node, or node/instance, that shall answer.")
@click.option("--compact", is_flag=True, help="Each answer in one line.")
@click.pass_obj
def call(app: App, subject: str, body: str, key: str, at: str, compact: bool) -> None:
    """Post a call by hand; print its replies as JSON.

    SUBJECT says who answers, BODY is a JSON text.

    `manor schema` lists the subjects, `manor schema SUBJECT` says what BODY has. `-` reads it from stdin.

    \b
    Example:
      manor call lifecycle.domain.start '{"name": "web"}'
      manor call bus.peers
    """
    indent = 0 if compact else 2
    content = _checked(subject, _json(body))
    to = f"{subject}@{at}" if at else subject
    reply = app.client.raw_call(
        to,
        content,
        timeout=app.budget,
        key=key,
        on_part=lambda part: app.out(as_json(whole(part), indent=indent)),
    )
    app.out(as_json(whole(reply), indent=indent))


@click.command()
@click.argument("subject")
@click.argument("body", default="{}")
@click.option("--type", "type_name", default="", help="Name of its schema (default: SUBJECT.v1).")
@click.pass_obj
def publish(app: App, subject: str, body: str, type_name: str) -> None:
    """Publish news by hand.

    Operators may do so under operator.NAME; BODY is a JSON text.

    \b
    Example:
      manor publish operator.admin.note '{"text": "maintenance at noon"}'
    """
    app.client.publish(subject, type_name or f"{subject}.v1", _json(body), timeout=app.budget)


def _json(text: str) -> Any:
    """Read a JSON text from the command line, or from standard input."""
    if text == "-":
        with click.open_file("-", "rb") as stream:
            text = stream.read().decode(errors="replace")
    try:
        json.loads(text, object_pairs_hook=_once)
        return msgspec.json.decode(text)  # which refuses all the rest
    except ValueError as error:
        problem = Problem(path="BODY", value=text[:80], reason=str(error))
        raise bad_request(
            "BODY is not JSON", problem, hint='put it in single quotes: \'{"name": "web"}\''
        ) from None


def _once(pairs: list[tuple[str, Any]]) -> None:
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        reason = f"the key {twice[0]!r} stands twice in one object"
        raise ValueError(reason)


def _checked(subject: str, content: Any) -> Any:
    """Read the values as the request's type if it is known: base64 text becomes bytes, errors have paths."""
    entry = CALL_BY_SUBJECT.get(subject)
    if entry is None:
        return content
    try:
        return msgspec.convert(content, entry.request, builtin_types=())
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        problem = Problem(path=path.strip("`.") or "BODY", reason=reason)
        raise bad_request(f"BODY does not fit {subject}", problem, hint=f"manor schema {subject}") from None
