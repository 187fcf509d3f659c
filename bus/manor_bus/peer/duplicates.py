"""Calls that came to us: one run for all attempts with one idempotency key, and the same answer again. Pure.

Within one run of a service this alone makes a retry harmless; across a crash the service itself must know
the key (design page "The bus", section Requests).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

import msgspec

from manor_bus.wire.errors import ErrorBody, Kind

REMEMBERED_MAX: Final = 1_024
REMEMBERED_BYTES_MAX: Final = 8_388_608
# Errors after which a retry with the same key shall do it again instead of hearing them once more.
_PASSING: Final = frozenset((Kind.INTERNAL, Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.NO_CAPACITY))

Key = tuple[str, str, str]  # label, type, idempotency key


@dataclass(frozen=True)
class Answer:
    """What was answered: a body or an error."""

    data: msgspec.Raw
    err: ErrorBody | None


@dataclass(eq=False)
class Run:
    """One execution, and who waits for its answer: senders and the ids of their requests."""

    key: Key
    waiting: list[tuple[str, str]] = field(default_factory=list)


class DuplicateCache:
    """Runs under way and recent answers."""

    def __init__(self) -> None:
        self._runs: dict[Key, Run] = {}
        self._answers: OrderedDict[Key, Answer] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._runs)

    def ask(self, key: Key, sender: str, request: str) -> Run | Answer:
        """Take a call: returns the run that answers it, maybe a new one, or the answer it got before."""
        run = self._runs.get(key)
        if run is None:
            known = self._answers.get(key)
            if known is not None:
                return known
            run = self._runs[key] = Run(key)
        run.waiting.append((sender, request))
        return run

    def finish(self, run: Run, answer: Answer, *, changes: bool) -> list[tuple[str, str]]:
        """End a run; returns who must be answered. What changed something is remembered."""
        self.forget(run)
        if changes and (answer.err is None or answer.err.kind not in _PASSING):
            before = self._answers.pop(run.key, None)
            self._answers[run.key] = answer
            self._bytes += len(answer.data) - (len(before.data) if before is not None else 0)
            while len(self._answers) > REMEMBERED_MAX or self._bytes > REMEMBERED_BYTES_MAX:
                self._bytes -= len(self._answers.popitem(last=False)[1].data)
        return run.waiting

    def forget(self, run: Run) -> None:
        """Let nobody join a run any more: the next attempt begins a new one."""
        if self._runs.get(run.key) is run:
            del self._runs[run.key]

    def withdraw(self, sender: str, request: str) -> Run | None:
        """Somebody gave up; returns the run for which nobody waits any more."""
        for run in self._runs.values():
            if (sender, request) in run.waiting:
                run.waiting.remove((sender, request))
                return None if run.waiting else run
        return None
