"""Processes that are born elsewhere: in a container that stays while the service that wants them is replaced.

A container's processes end with it, whatever process ids it shares. So one small program, `python -m
manor_host.births SOCKET`, is the first process of a container of its own; a service that shares its process
ids and volumes asks it for each process. A connection is one process: the request with its descriptors goes
there; who it is and a pid descriptor come back, and, when it is over, its exit status.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from manor_host import clock
from manor_host.processes import PATH, Identity, Watched, started_ticks

ANSWER_S: Final = 10.0
MESSAGE_MAX: Final = 1 << 17  # bytes; below what a socket takes at once
DESCRIPTORS_MAX: Final = 250  # Linux, include/net/scm.h: SCM_MAX_FD is 253
NAMESPACE: Final = "/proc/self/ns/pid"


def ask(
    place: Path, argv: Sequence[str], *, output: int, descriptors: Sequence[int], variables: Mapping[str, str]
) -> Watched:
    """Have a process born at `place`, as `processes.launch` would here. Raises OSError when it cannot be."""
    wish = {"argv": list(argv), "numbers": list(descriptors), "variables": dict(variables)}
    wish["namespace"] = os.readlink(NAMESPACE)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        made.settimeout(ANSWER_S)
        made.connect(str(place))
        socket.send_fds(made, [json.dumps(wish).encode()], [output, *descriptors])
        content, given, _, _ = socket.recv_fds(made, MESSAGE_MAX, 1)
        made.setblocking(False)
        answer = json.loads(content or b'{"error": "it ended"}')
    except BaseException:
        made.close()
        raise
    if "error" in answer:
        made.close()
        raise OSError(f"{place}: {answer['error']}")
    return Watched(Identity(answer["pid"], answer["ticks"], clock.boot_id()), given[0], made)


class Births:
    """The other side: `born` are the living, with the connection that wants to know how each ends."""

    def __init__(self, place: Path) -> None:
        place.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(place))
        place.chmod(0o600)
        self._listener.listen()
        self.born: dict[int, socket.socket] = {}
        self._last = asyncio.Event()

    async def serve(self) -> None:
        """Until SIGTERM; then everybody is asked to end, and waited for."""
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        loop.add_signal_handler(signal.SIGTERM, over.set)
        loop.add_reader(self._listener, self._take)
        await over.wait()
        loop.remove_reader(self._listener)
        self._last.clear()
        for pid in self.born:
            os.kill(pid, signal.SIGTERM)  # not waited for yet: the number is nobody else's
        if self.born:
            await self._last.wait()

    def _take(self) -> None:
        connection, _ = self._listener.accept()
        descriptors: list[int] = []
        try:
            connection.settimeout(ANSWER_S)
            content, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_MAX, DESCRIPTORS_MAX)
            pid = _born(json.loads(content), descriptors)
        except (OSError, ValueError, KeyError) as error:
            with suppress(OSError):
                connection.send(json.dumps({"error": str(error)}).encode())
            connection.close()
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self.born[pid] = connection
        pidfd = os.pidfd_open(pid)
        with suppress(OSError):  # whoever asked is gone; the process is found again by what it is
            answer = json.dumps({"pid": pid, "ticks": started_ticks(pid)}).encode()
            socket.send_fds(connection, [answer], [pidfd])
        os.close(pidfd)

    def _reap(self) -> None:
        """Take every end; as the first process of its container, also those of strangers."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if (connection := self.born.pop(pid, None)) is not None:
                    with suppress(OSError):
                        connection.send(str(os.waitstatus_to_exitcode(status)).encode())
                    connection.close()
                    if not self.born:
                        self._last.set()


def _born(wish: dict[str, Any], descriptors: Sequence[int]) -> int:
    """Start a process with the descriptors under the numbers that they had where they came from."""
    if wish["namespace"] != os.readlink(NAMESPACE):
        raise OSError("the birthplace has process ids of its own: share them (compose: `pid: service:runs`)")
    output, *given = descriptors
    actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    above = max([2, *wish["numbers"]]) + 1
    aside = [
        fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, above) for one in (output, output, *given)
    ]  # clear of the numbers that are wanted
    try:
        actions += [
            (os.POSIX_SPAWN_DUP2, one, number)
            for one, number in zip(aside, (1, 2, *wish["numbers"]), strict=True)
        ]
        variables = {"PATH": PATH, "LANG": "C.UTF-8", **wish["variables"]}
        argv, ignored = wish["argv"], (signal.SIGPIPE, signal.SIGXFSZ)  # by Python, not by its children
        return os.posix_spawnp(argv[0], argv, variables, file_actions=actions, setsid=True, setsigdef=ignored)
    finally:
        for one in aside:
            os.close(one)


def main() -> None:
    """Serve the births of one container."""
    os.umask(0o077)
    os.chdir("/")
    asyncio.run(Births(Path(sys.argv[1])).serve())


if __name__ == "__main__":
    main()
