"""What is read off a process, and what is made of many readings. No section of its own."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


def cpu_us(pid: int) -> float:
    """Microseconds on a CPU of all threads of a process so far: exact even on a loaded machine."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((thread / "schedstat").read_text(encoding="ascii").split()[0])
        except FileNotFoundError:
            continue  # it ended between two reads
    return total / 1000


@dataclass(frozen=True)
class Memory:
    """Of one process, in MiB. `pss` shares out what several processes map; sums of it are honest."""

    rss: float
    pss: float


def memory(pid: int) -> Memory:
    """Read the kernel's own sums."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return Memory(rss=kib["Rss"] / 1024, pss=kib["Pss"] / 1024)


@dataclass(frozen=True)
class Spread:
    """The median of some readings, and the range the middle half of them lies in."""

    median: float
    low: float
    high: float


def spread(readings: Iterable[float]) -> Spread:
    """Median and quartiles (the extremes when there are fewer than four readings)."""
    ordered = sorted(readings)
    if len(ordered) < 4:
        return Spread(statistics.median(ordered), ordered[0], ordered[-1])
    low, middle, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return Spread(middle, low, high)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ratio of two things measured in the same rounds, round by round: load that both saw cancels out."""
    return spread(mine / other for mine, other in zip(ours, theirs, strict=True))
