"""Child processes: started, asked one JSON line at a time, ended by their own id. Used by every section."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

START_S = 30.0
ANSWER_S = 120.0


class Child:
    """A process of ours that speaks JSON lines: `{"ready": …}` first, then one answer for each question."""

    def __init__(self, module: str, *words: str, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        self.pid = self._process.pid
        self._name = " ".join((module, *words[:2]))

    def ask(self, **question: Any) -> None:
        """Post one question; `answer` waits for what it says."""
        pipe = _pipe(self._process.stdin)
        pipe.write(json.dumps(question) + "\n")
        pipe.flush()

    def answer(self, within: float = ANSWER_S) -> dict[str, Any]:
        """Wait for the next line."""
        pipe = _pipe(self._process.stdout)
        ready, _, _ = select.select([pipe], [], [], within)
        line = pipe.readline() if ready else ""
        if not line:
            message = f"{self._name} said nothing within {within:.0f} s (exit code {self._process.poll()})"
            raise RuntimeError(message)
        found: dict[str, Any] = json.loads(line)
        return found

    def run(self, **question: Any) -> dict[str, Any]:
        """Ask and wait."""
        self.ask(**question)
        return self.answer()

    def end(self) -> None:
        """End it by its process id."""
        end(self._process)


def _pipe(pipe: Any) -> TextIO:
    assert pipe is not None
    found: TextIO = pipe
    return found


def end(process: subprocess.Popen[Any]) -> None:
    """Ask a process to end, insist after five seconds, and close our ends of its pipes."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def wait_for(what: str, there: Callable[[], bool], within: float = START_S) -> None:
    """Look every 10 ms until something is there."""
    end_at = time.monotonic() + within
    while not there():
        if time.monotonic() >= end_at:
            message = f"{what} did not come within {within:.0f} s"
            raise RuntimeError(message)
        time.sleep(0.01)


@contextlib.contextmanager
def running(command: list[str], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """Keep a server running; its words go to `log`. Yields its process id."""
    with log.open("wb") as words:
        process = subprocess.Popen(
            command, stdout=words, stderr=words, env={**os.environ, **(environment or {})}
        )
        try:
            yield process.pid
        finally:
            end(process)


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """A child's side: say that it is ready, then answer questions until the other side closes the pipe."""
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
