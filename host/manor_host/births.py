"""Processes that are born elsewhere: in a container that stays while the service that wants them is replaced.

A container's processes end with it, whatever process ids it shares. So one small program, `python -m
manor_host.births SOCKET`, is the first process of a container of its own; a service that shares its process
ids and volumes asks it for each process. A connection is one process: the request with its descriptors goes
there; who it is and a pid descriptor come back; that this was taken goes there; its exit status comes back.
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
TAKEN: Final = b"taken"
NAMESPACE: Final = "/proc/self/ns/pid"


async def ask(
    place: Path, argv: Sequence[str], *, output: int, descriptors: Sequence[int], variables: Mapping[str, str]
) -> Watched:
    """Have a process born at `place`, as `processes.launch` would here. Raises OSError when it cannot be.

    Who does not wait for the answer has no process.
    """
    wish = {"argv": list(argv), "numbers": list(descriptors), "variables": dict(variables)}
    wish["namespace"] = os.readlink(NAMESPACE)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    given: list[int] = []
    made.setblocking(False)
    try:
        async with asyncio.timeout(ANSWER_S):
            await asyncio.get_running_loop().sock_connect(made, str(place))
            socket.send_fds(made, [json.dumps(wish).encode()], [output, *descriptors])
            await _readable(made)
        content, given, _, _ = socket.recv_fds(made, MESSAGE_MAX, 1)
        identity = _who(place, content)
        made.send(TAKEN)
        return Watched(identity, given[0], made)
    except BaseException:
        for descriptor in (made.detach(), *given):
            os.close(descriptor)
        raise


def _who(place: Path, content: bytes) -> Identity:
    answer = json.loads(content or b'{"error": "it ended"}')
    if "error" in answer:
        raise OSError(f"{place}: {answer['error']}")
    return Identity(answer["pid"], answer["ticks"], clock.boot_id())


async def _readable(link: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(link, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(link)


class Births:
    """The other side. `_ends`: the living, and what waits for the exit status of each."""

    def __init__(self, place: Path) -> None:
        place.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(place))
        place.chmod(0o600)
        self._listener.listen()
        self._ends: dict[int, asyncio.Future[int]] = {}
        self._attending: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Until SIGTERM; then everybody is asked to end, and waited for as long as our container is."""
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        loop.add_signal_handler(signal.SIGTERM, over.set)
        loop.add_reader(self._listener, self._accept)
        await over.wait()
        loop.remove_reader(self._listener)
        for pid in self._ends:
            os.kill(pid, signal.SIGTERM)  # not waited for yet: the number is nobody else's
        await asyncio.gather(*self._attending)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._attend(connection))
        self._attending.add(task)
        task.add_done_callback(self._attending.discard)

    async def _attend(self, connection: socket.socket) -> None:
        """One process from its wish to its end. One whose answer nobody took is ended at once: whoever asked
        has been told nothing, or has given up."""
        with connection, suppress(OSError):  # whoever asked is gone; the process is found again by what it is
            try:
                async with asyncio.timeout(ANSWER_S):
                    await _readable(connection)
                pid = self._born(connection)
            except (OSError, ValueError, KeyError) as error:
                connection.send(json.dumps({"error": str(error)}).encode())
                return
            end = self._ends[pid]
            if not await self._is_taken(connection, pid) and not end.done():
                os.kill(pid, signal.SIGKILL)
            connection.send(str(await end).encode())

    def _born(self, connection: socket.socket) -> int:
        content, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_MAX, DESCRIPTORS_MAX)
        pid = _born(content, descriptors)
        self._ends[pid] = asyncio.get_running_loop().create_future()
        return pid

    async def _is_taken(self, connection: socket.socket, pid: int) -> bool:
        pidfd = os.pidfd_open(pid)
        try:
            answer = json.dumps({"pid": pid, "ticks": started_ticks(pid)}).encode()
            socket.send_fds(connection, [answer], [pidfd])
            async with asyncio.timeout(ANSWER_S):
                await _readable(connection)
            return connection.recv(len(TAKEN)) == TAKEN
        except OSError:
            return False
        finally:
            os.close(pidfd)

    def _reap(self) -> None:
        """Take every end; as the first process of its container, also those of strangers."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if (end := self._ends.pop(pid, None)) is not None:
                    end.set_result(os.waitstatus_to_exitcode(status))


def _born(content: bytes, descriptors: list[int]) -> int:
    """Start a process with the descriptors, which are closed here, under the numbers that they had where they
    came from."""
    try:
        return _spawned(json.loads(content), descriptors)
    finally:
        for one in descriptors:
            os.close(one)


def _spawned(wish: dict[str, Any], descriptors: list[int]) -> int:
    if wish["namespace"] != os.readlink(NAMESPACE):
        raise OSError("the birthplace has process ids of its own: share them (compose: `pid: service:runs`)")
    output, *given = tuple(descriptors)
    above = max([2, *wish["numbers"]]) + 1  # clear of the numbers that are wanted
    for one in (output, output, *given):
        descriptors.append(fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, above))
    actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    for one, number in zip(descriptors[1 + len(given) :], (1, 2, *wish["numbers"]), strict=True):
        actions.append((os.POSIX_SPAWN_DUP2, one, number))
    variables = {"PATH": PATH, "LANG": "C.UTF-8", **wish["variables"]}
    argv, ignored = wish["argv"], (signal.SIGPIPE, signal.SIGXFSZ)  # by Python, not by its children
    return os.posix_spawnp(argv[0], argv, variables, file_actions=actions, setsid=True, setsigdef=ignored)


def main() -> None:
    """Serve the births of one container."""
    os.umask(0o077)
    os.chdir("/")
    asyncio.run(Births(Path(sys.argv[1])).serve())


if __name__ == "__main__":
    main()
