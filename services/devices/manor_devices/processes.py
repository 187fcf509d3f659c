"""Run a program to its end: arguments as a list, never a shell, always a deadline, resources limited."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import resource
import signal
from collections.abc import Sequence
from typing import Final

from manor_bus.wire.errors import Kind, ManorError, unavailable

OUTPUT_BYTES_MAX: Final = 1_048_576
ADDRESS_SPACE_MAX: Final = 4 << 30  # an image made to exhaust its reader ends the reader, not the node
KILL_S: Final = 5.0
NOBODY: Final = 65_534


async def run(argv: Sequence[str], timeout_s: float, *, uid: int = 0, limited: bool = True) -> str:
    """Return what the program wrote to its standard output.

    `uid` other than 0: run as that user, without groups, where the service may. Raises `unavailable` when
    the program is not installed, `timeout` (the program is killed), `denied_state` with the last line it
    wrote to its standard error when it failed. What runs as the service's own user has its memory limited
    unless it is told otherwise.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=OUTPUT_BYTES_MAX,
            start_new_session=True,
            user=uid or None,
            group=NOBODY if uid else None,
            extra_groups=() if uid else None,
        )
    except (FileNotFoundError, PermissionError) as error:
        raise unavailable(
            f"the program {argv[0]} cannot be run: {error.strerror}",
            delivered=True,
            hint=f"Install {argv[0]} on this node.",
        ) from None
    if limited and not uid:
        _limit(process.pid)
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    except TimeoutError:
        raise ManorError(
            Kind.TIMEOUT,
            f"{argv[0]} {argv[1]} did not end within {timeout_s:.0f} s and was killed",
            hint="Look whether the storage below it answers.",
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            with contextlib.suppress(TimeoutError):  # it may wait in the kernel, for a disk that is dead
                async with asyncio.timeout(KILL_S):
                    await asyncio.shield(process.wait())
    if process.returncode != 0:
        raise _failure(argv, process.returncode or 0, err.decode(errors="replace"))
    return out[:OUTPUT_BYTES_MAX].decode(errors="replace")


def user() -> str:
    """Return who this service is on this machine."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _limit(pid: int) -> None:
    try:
        resource.prlimit(pid, resource.RLIMIT_AS, (ADDRESS_SPACE_MAX, ADDRESS_SPACE_MAX))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
    except ProcessLookupError:
        return  # it has ended already


def _failure(argv: Sequence[str], code: int, written: str) -> ManorError:
    lines = written.strip().splitlines()
    why = lines[-1] if lines else f"exit code {code}"
    if code < 0:
        why = f"killed by {signal.Signals(-code).name}" + (f": {lines[-1]}" if lines else "")
    return ManorError(Kind.DENIED_STATE, f"{argv[0]} {argv[1]} failed: {why[:500]}")
