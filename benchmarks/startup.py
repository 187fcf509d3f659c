"""How long the command line takes to start, beside the bare imports it cannot do without."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.measure import ratios, spread
from benchmarks.node import node
from benchmarks.report import Figure, Plan, Section, cell

HEAD: Final = ("command", "ms")
CLICK: Final = "python -c 'import click'"
IMPORTS: Final = "python -c 'import zmq, msgpack, click'"
VERSION: Final = "manor version"
LIST: Final = "manor list"
NOTES: Final = (
    "`manor list` includes its round trips to the broker and to discovery, on a node without domains.",
)


def timed(command: list[str], environment: Mapping[str, str]) -> float:
    """Run one command to its end; returns seconds."""
    program = str(Path(sys.executable).with_name(command[0]))
    start = time.perf_counter()
    subprocess.run(
        [program, *command[1:]],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - start


def run(plan: Plan) -> Section:
    """Run every command once in every round."""
    commands = {
        "python -c pass": ["python", "-c", "pass"],
        CLICK: ["python", "-c", "import click"],
        IMPORTS: ["python", "-c", "import zmq, msgpack, click"],
        VERSION: ["manor", "version"],
        LIST: ["manor", "list"],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    with node() as running:
        for turn in range(4 if plan.quick else 3 * plan.rounds):
            for name, command in commands.items():
                seconds = timed(command, {**os.environ, **running.environment})
                if turn:  # the first one fills the caches
                    taken[name].append(seconds * 1000)
    figures = [
        Figure(f"start-up, {VERSION} / {CLICK}", ratios(taken[VERSION], taken[CLICK]), "x", 1.15),
        Figure(f"start-up, {LIST} / {IMPORTS}", ratios(taken[LIST], taken[IMPORTS]), "x", 1.2),
    ]
    rows: list[tuple[str, ...]] = [(name, cell(spread(each))) for name, each in taken.items()]
    return Section("Start of the command line", HEAD, rows, figures, list(NOTES))
