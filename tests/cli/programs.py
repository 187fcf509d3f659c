"""Small real processes to supervise, find and end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from manor_host import processes

SLEEP = "import time\nwhile True: time.sleep(60)"
DEAF = (
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\n" + SLEEP
)


SERVES = "import fcntl, sys\nlock = open(sys.argv[1], 'a')\nfcntl.flock(lock, fcntl.LOCK_EX)\n"


def serving(folder: Path, name: str) -> tuple[str, ...]:
    """Return the command of a program that keeps the lock of a service, as services do."""
    (folder / name).mkdir(exist_ok=True)
    return (sys.executable, "-c", SERVES + SLEEP, str(folder / name / "lock"))


def module(folder: Path, name: str, text: str = SLEEP) -> Path:
    """Write a module that `python -m` can run from a folder."""
    (folder / f"{name}.py").write_text(text)
    return folder


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return an environment in which modules of a folder are found first."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "MANOR_DIR": str(folder), **more}


def start(*arguments: str, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a Python process; the caller ends it."""
    return seen(subprocess.Popen([sys.executable, *arguments], env=dict(env), stdout=subprocess.PIPE))


def seen(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """Wait until the kernel tells the arguments of a process: a moment after its program was loaded."""
    while not processes.command_line(process.pid):
        assert process.poll() is None
    return process
