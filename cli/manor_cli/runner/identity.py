"""What a state directory knows of itself, in node.json: its id, and where it was when a node last began.

A copy of it (`cp -a`, a restored backup, a snapshot mounted beside) has the records of runs that are the
original's. It is told from one that was moved by this: of a copy the original is still there, or another
directory stands at the same place, or it is another machine.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from manor_bus.wire.errors import bad_request, conflict
from manor_cli.runner import present
from manor_host import durable, processes

FILE: Final = "node.json"
MACHINE: Final = Path("/etc/machine-id")
STATE_ID: Final = "MANOR_STATE_ID"  # in the environment of each guest
OF_RUNS: Final = ("lifecycle/*/*/record.json", "lifecycle/fake/*.guest", "devices/records")


class Known(msgspec.Struct, frozen=True):
    """What was written down: `name` is that of the node, `former` are those it had."""

    id: str
    machine: str = ""
    device: int = 0
    inode: int = 0
    path: str = ""
    name: str = ""
    former: tuple[str, ...] = ()


class Verdict(StrEnum):
    """What a state directory is, seen from what it knows of itself."""

    SAME = "same"
    MOVED = "moved"
    COPY = "copy"


def judge(known: Known, here: Known, *, original: bool) -> Verdict:
    """Compare what was written down with what is there. `original`: it is still where it was, and not here.

    The number of a device may be another after each boot, that of an inode may not.
    """
    if known.machine and here.machine and known.machine != here.machine:
        return Verdict.COPY
    if known.path == here.path:
        return Verdict.SAME if known.inode == here.inode else Verdict.COPY
    return Verdict.COPY if original else Verdict.MOVED


def establish(directory: Path, *, adopt: bool = False) -> list[str]:
    """Write down what the directory is; returns what is new. Raises `conflict` for a copy, unless `adopt`.

    A copy that is adopted gets an id of its own, and what belongs to runs of the original is forgotten.
    """
    known = read(directory)
    here = _here(directory, known)
    verdict = judge(known, here, original=_is_there(known, directory)) if known else Verdict.SAME
    if adopt and verdict is not Verdict.COPY:
        raise bad_request(f"{directory} is no copy, so there is nothing to adopt")
    if verdict is Verdict.COPY and not adopt and known:
        message = f"{directory} is a copy: this node was at {known.path}"
        hint = "start the original, or make this a node of its own: manor up --adopt-copy"
        raise conflict(message + ("" if known.machine == here.machine else " on another machine"), hint=hint)
    if adopt:
        forgotten = [path for pattern in OF_RUNS for path in directory.glob(pattern) if path.is_file()]
        for path in forgotten:
            path.unlink()
        here = msgspec.structs.replace(here, id=_fresh())
    if here != known:
        write(directory, here)
    if known is None or adopt:
        return [f"created identity {here.id}" + (", runs of the original are forgotten" if adopt else "")]
    return (
        [f"the state directory was {known.path} and is {here.path} now"] if verdict is Verdict.MOVED else []
    )


def named(directory: Path, name: str) -> None:
    """Remember the name of the node, and which it had before."""
    known = read(directory)
    if known is not None and known.name != name:
        former = [one for one in (*known.former, known.name) if one not in ("", name)]
        write(directory, msgspec.structs.replace(known, name=name, former=tuple(dict.fromkeys(former))))


def read(directory: Path) -> Known | None:
    """Return what was written down; None when nothing was, or it was lost."""
    try:
        return msgspec.json.decode(durable.read(directory / FILE) or b"", type=Known)
    except msgspec.MsgspecError:
        return None


def write(directory: Path, known: Known) -> None:
    """Write it down, whole and synced."""
    durable.replace(directory / FILE, msgspec.json.format(msgspec.json.encode(known)) + b"\n", 0o644)


def _here(directory: Path, known: Known | None) -> Known:
    """Return what would be written down now; a lost id is that of the guests, which have it, too."""
    stat, path = directory.stat(), os.path.realpath(directory)
    machine = (durable.read(MACHINE) or b"").decode("ascii", "replace").strip()
    before = known or Known(_told(directory))
    return Known(before.id, machine, stat.st_dev, stat.st_ino, path, before.name, before.former)


def _told(directory: Path) -> str:
    told = (processes.environment(one.pid).get(STATE_ID, "") for one in present.guests(directory))
    return next(filter(None, told), "") or _fresh()


def _is_there(known: Known, directory: Path) -> bool:
    """Say whether the original is still where it was; what cannot be seen may be there."""
    try:
        before = Path(known.path)
        if not before.is_dir() or before.samefile(directory):
            return False
        other = read(before)
    except OSError:
        return True
    return other is not None and other.id == known.id


def _fresh() -> str:
    return os.urandom(16).hex()
