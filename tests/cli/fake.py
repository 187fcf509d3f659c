"""A bus that answers what it was told to, and a way to run the program against it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.discovery import Entry, Find, Found, FoundPart
from manor_bus.wire.messages.lifecycle import DomainStatus, Operation, OperationState, State
from manor_cli.app import App
from manor_cli.main import main

NOW = 1_800_000_000.0


@dataclass
class FakeClient:
    """Answers calls from a table request type -> reply, ManorError, or function of the request."""

    answers: Mapping[type[Message], Any] = field(default_factory=dict)
    parts: Mapping[type[Message], Iterable[Any]] = field(default_factory=dict)
    changes: list[Any] = field(default_factory=list)
    messages: list[tuple[str, Any]] = field(default_factory=list)
    asked: list[Message] = field(default_factory=list)
    raw: list[tuple[str, Any, str]] = field(default_factory=list)
    published: list[tuple[str, str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    at: list[str] = field(default_factory=list)
    timeouts: list[float] = field(default_factory=list)
    patterns: list[tuple[str, bool]] = field(default_factory=list)
    closed: int = 0
    same_clock: bool = True

    def call(
        self,
        request: Message,
        reply: type[Any],
        *,
        timeout: float,
        key: str = "",
        at: str = "",
        on_part: Callable[[Any], None] | None = None,
    ) -> Any:
        self.asked.append(request)
        self.keys.append(key)
        self.at.append(at)
        self.timeouts.append(timeout)
        for part in self.parts.get(type(request), ()):
            if on_part is not None:
                on_part(part)
        return self._answer(self.answers[type(request)], request)

    def raw_call(self, to: str, data: Any, *, timeout: float, key: str = "", on_part: Any = None) -> Any:
        self.raw.append((to, data, key))
        for part in self.parts.get(str, ()):  # type: ignore[call-overload]
            on_part(part)
        return self._answer(self.answers[str], data)  # type: ignore[index]

    def publish(self, subject: str, type_name: str, data: Any, *, timeout: float = 5.0) -> None:
        self.published.append((subject, type_name, data))

    def watch(
        self, pattern: str, *, policy: Any = "coalesce", snapshot: bool = True, timeout: float | None = None
    ) -> Iterator[Any]:
        self.patterns.append((pattern, snapshot))
        yield from self.changes

    def items(
        self, pattern: str, *, tap: bool = False, policy: Any = "gap", timeout: float | None = None
    ) -> Iterator[Any]:
        self.patterns.append((pattern, tap))
        yield from self.messages

    def close(self) -> None:
        self.closed += 1

    @staticmethod
    def _answer(answer: Any, request: Any) -> Any:
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, ManorError):
            raise answer
        return answer


@dataclass
class Ran:
    """What a run of the program printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)


def run(
    *arguments: str,
    client: FakeClient | None = None,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    typed: str = "",
    tty: bool = False,
) -> Ran:
    """Run the program in this process; without a client there is nobody to connect to."""
    settings = {"MANOR_DIR": str(directory or "/nowhere/manor"), **(environment or {})}
    app = App(connect=(lambda _: client) if client is not None else None, environment=settings, tty=tty)
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    before = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(typed.encode()), "utf-8")
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(arguments, app)
    finally:
        sys.stdin = before
    return Ran(code, _text(out), _text(err))


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    content: bytes = stream.buffer.getvalue()  # type: ignore[attr-defined]
    return content.decode()


def domain(name: str = "web", state: State = State.RUNNING, **more: Any) -> DomainStatus:
    """Return the status of a domain."""
    given = {"generation": 7, "node": "n1", "hypervisor": "fake", "cpus": 2, "memory_mib": 512, **more}
    return DomainStatus(name=name, uuid=f"uuid-of-{name}", state=state, **given)


def fact(status: DomainStatus) -> Entry:
    """Return a status as discovery keeps it."""
    return Entry(fact=status, owner="service/lifecycle@n1/1", since=NOW)


def discovery(*statuses: DomainStatus, **more: Any) -> FakeClient:
    """Return a bus whose discovery knows these domains."""
    part = FoundPart(entries=tuple(fact(status) for status in statuses))
    answers = {Find: Found(count=len(statuses)), **more.pop("answers", {})}
    return FakeClient(answers, {Find: [part], **more.pop("parts", {})}, **more)


def operation(state: OperationState = OperationState.DONE, **more: Any) -> Operation:
    """Return an operation."""
    given = {"id": "op-1", "kind": "start", "target": "web", "uuid": "u", "state": state, **more}
    return Operation(**given)
