"""Calls that came to us: one run for all attempts with one idempotency key, and the same answer again. Pure.

Within one run of a service this alone makes a retry harmless; across a crash the service itself must know
the key (design page "The bus", section Requests).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

import msgspec

from manor_bus.errors import ErrorBody

REMEMBERED_MAX: Final = 1_024
REMEMBERED_BYTES_MAX: Final = 8_388_608

Key = tuple[str, str, str]  # label, type, idempotency key


@dataclass(frozen=True)
class Answer:
    """What was answered: a body or an error."""

    data: msgspec.Raw
    err: ErrorBody | None


@dataclass
class _Run:
    waiting: list[tuple[str, str]] = field(default_factory=list)  # sender, id


class Inbox:
    """Runs under way and recent answers."""

    def __init__(self) -> None:
        self._runs: dict[Key, _Run] = {}
        self._answers: OrderedDict[Key, Answer] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._runs)

    def ask(self, key: Key, sender: str, request: str) -> Answer | bool:
        """Take a call: True = run it, False = joined a run under way, or the answer it got before."""
        run = self._runs.get(key)
        if run is not None:
            run.waiting.append((sender, request))
            return False
        known = self._answers.get(key)
        if known is not None:
            return known
        self._runs[key] = _Run([(sender, request)])
        return True

    def waiting(self, key: Key) -> list[tuple[str, str]]:
        """List who waits for a run."""
        run = self._runs.get(key)
        return list(run.waiting) if run is not None else []

    def finish(self, key: Key, answer: Answer, *, remember: bool) -> list[tuple[str, str]]:
        """End a run; returns who must be answered."""
        waiting = self._runs.pop(key).waiting
        if remember:
            self._answers[key] = answer
            self._bytes += len(answer.data)
            while len(self._answers) > REMEMBERED_MAX or self._bytes > REMEMBERED_BYTES_MAX:
                self._bytes -= len(self._answers.popitem(last=False)[1].data)
        return waiting

    def withdraw(self, sender: str, request: str) -> Key | None:
        """Somebody gave up; returns the run for which nobody waits any more."""
        for key, run in self._runs.items():
            if (sender, request) in run.waiting:
                run.waiting.remove((sender, request))
                return key if not run.waiting else None
        return None
