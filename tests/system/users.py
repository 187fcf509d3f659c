"""Programs as other unix users, for tests that root runs: each sees our interpreter and sources, also where
these lie beneath a folder that is root's alone."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can be several users: run this test as root"
)


def as_user(uid: int, groups: Sequence[int] = (), *, capabilities: Sequence[str] = ()) -> list[str]:
    """Return what to write before a command so that it runs as a user with these groups, the first of them
    its own, and with these capabilities alone, which reach the programs it starts unless it sees to that."""
    kept = "".join(f",+{name}" for name in capabilities)
    command = ["setpriv", "--reuid", str(uid), "--regid", str(groups[0] if groups else uid)]
    command += ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
    for what in ("inh-caps", "bounding-set", "ambient-caps"):
        command += [f"--{what}", f"-all{kept}"]
    return [*_opened(), *command, "--no-new-privs", "--"]


def _opened() -> list[str]:
    """Return the beginning of a command that sees our folders although those above are closed."""
    wanted = [Path(sys.base_prefix), SOURCES]
    closed = sorted({top for folder in wanted for top in _closed(folder)})
    if not closed:
        return []
    top, lines = closed[0], []
    inside = [folder for folder in wanted if folder.is_relative_to(top)]
    for number, folder in enumerate(inside):
        lines.append(f"mkdir -p /tmp/.seen-$$-{number}")
        lines.append(f"mount --bind {shlex.quote(str(folder))} /tmp/.seen-$$-{number}")
    lines.append(f"mount -t tmpfs -o mode=755 none {shlex.quote(str(top))}")
    for number, folder in enumerate(inside):
        lines.append(f"mkdir -p {shlex.quote(str(folder))}")
        lines.append(f"mount --move /tmp/.seen-$$-{number} {shlex.quote(str(folder))}")
        lines.append(f"rmdir /tmp/.seen-$$-{number}")
    script = "\n".join([*lines, 'exec "$@"'])
    return ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh"]


def _closed(folder: Path) -> Iterator[Path]:
    return (one for one in (folder, *folder.parents) if not one.stat().st_mode & 0o001)
