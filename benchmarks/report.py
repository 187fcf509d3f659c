"""What a section hands back, the table at the end, and the file that keeps it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from benchmarks.measure import Spread

RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """One measured figure: `value` in `unit` (`x` for a ratio), and what the design page asks of it."""

    name: str
    value: Spread
    unit: str
    target: float | None = None
    wanted: Literal["at most", "at least"] = "at most"

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None when there is none."""
        if self.target is None:
            return None
        return (
            self.value.median <= self.target if self.wanted == "at most" else self.value.median >= self.target
        )


@dataclass(frozen=True)
class Section:
    """One comparison: the table of what was measured, and the figures that matter."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    rounds: int
    seconds: float  # of one measurement within a round
    quick: bool


Run = Callable[[Plan], Section]


def number(value: float) -> str:
    """Three significant digits, thousands apart."""
    if value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}" if value >= 1 else f"{value:.2f}"


def cell(value: Spread) -> str:
    """A median with its middle half."""
    return f"{number(value.median)} [{number(value.low)}..{number(value.high)}]"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table, aligned so that it also reads well on a terminal."""
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    lines = [head, tuple("-" * width for width in widths), *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def show(section: Section) -> str:
    """One section as text."""
    parts = (
        [f"## {section.title}", table(section.head, section.rows)]
        if section.rows
        else [f"## {section.title}"]
    )
    return "\n\n".join([*parts, *section.notes])


def summary(sections: list[Section]) -> str:
    """Every figure with its target."""
    rows: list[tuple[str, ...]] = []
    for figure in (figure for section in sections for figure in section.figures):
        target = f"{figure.wanted} {number(figure.target)}" if figure.target is not None else ""
        met = {True: "met", False: "NOT met", None: ""}[figure.met]
        rows.append((figure.name, f"{cell(figure.value)} {figure.unit}", target, met))
    return "## Summary\n\n" + table(("figure", "measured", "target", ""), rows)


def machine() -> dict[str, str]:
    """What a reader must know to compare."""
    cpus = [line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    versions = {name: metadata.version(name) for name in ("pyzmq", "msgspec", "msgpack", "nats-py", "click")}
    return {
        "processor": f"{len(cpus)} x {cpus[0].partition(': ')[2]}" if cpus else platform.machine(),
        "memory": f"{int(_read('/proc/meminfo').split()[1]) // 1024} MiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load before": " ".join(_read("/proc/loadavg").split()[:3]),
        "nats-server": _nats_version(),
        **versions,
    }


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def _nats_version() -> str:
    program = shutil.which("nats-server", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        return "absent"
    outcome = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return outcome.stdout.strip().rpartition(" ")[2]


def save(plan: Plan, facts: dict[str, str], sections: list[Section]) -> Path:
    """Keep everything as JSON; results stay out of the repository."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / time.strftime("%Y%m%dT%H%M%S.json", time.gmtime())
    kept = {"machine": facts, "plan": asdict(plan), "sections": [asdict(section) for section in sections]}
    path.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    return path
