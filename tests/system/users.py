"""Programs as other unix users, for tests that root runs: each sees our interpreter and sources, also where
these lie beneath a folder that is root's alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote

import pytest

SOURCES = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can be several users: run this test as root"
)


def as_user(
    uid: int,
    groups: Sequence[int] = (),
    *,
    capabilities: Sequence[str] = (),
    hidden: Sequence[Path] = (),
    writable: Sequence[Path] | None = None,
) -> list[str]:
    """Return what to write before a command so that it runs as a user with these groups, the first of them
    its own, and with these capabilities alone, which reach the programs it starts unless it sees to that.
    `hidden` are closed to it; of the file system only `writable` can be written (None: all)."""
    kept = "".join(f",+{name}" for name in capabilities)
    command = ["setpriv", "--reuid", str(uid), "--regid", str(groups[0] if groups else uid)]
    command += ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
    for what in ("inh-caps", "bounding-set", "ambient-caps"):
        command += [f"--{what}", f"-all{kept}"]
    lines = [*_opened(), *(f"mount -t tmpfs -o mode=000 none {quote(str(one))}" for one in hidden)]
    if writable is not None:
        lines += [f"mount --bind {quote(str(one))} {quote(str(one))}" for one in writable]
        lines.append("mount -o remount,bind,ro /")
    if lines:
        script = "\n".join([*lines, 'exec "$@"'])
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh", *command]
    return [*command, "--no-new-privs", "--"]


def _opened() -> Iterator[str]:
    """Yield what makes our folders seen although those above are closed."""
    wanted = [Path(sys.base_prefix), SOURCES]
    closed = sorted({top for folder in wanted for top in _closed(folder)})
    if not closed:
        return
    inside = [str(folder) for folder in wanted if folder.is_relative_to(closed[0])]
    for number, folder in enumerate(inside):
        yield f"mkdir -p /tmp/.seen-$$-{number}"
        yield f"mount --bind {quote(folder)} /tmp/.seen-$$-{number}"
    yield f"mount -t tmpfs -o mode=755 none {quote(str(closed[0]))}"
    for number, folder in enumerate(inside):
        yield f"mkdir -p {quote(folder)}"
        yield f"mount --move /tmp/.seen-$$-{number} {quote(folder)}"
        yield f"rmdir /tmp/.seen-$$-{number}"


def _closed(folder: Path) -> Iterator[Path]:
    return (one for one in (folder, *folder.parents) if not one.stat().st_mode & 0o001)
