"""The sockets behind the broker's ROUTER: a duplicate of each descriptor, to end a peer or notice its end.

libzmq tells the number of a connection's descriptor with every frame, and in its events. The number may
belong to a later connection by the time it is looked at, so a connection is known by the inode of its socket.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid


@dataclass(slots=True, eq=False)
class Connection:
    """One connection. `key` and `label` are empty until its first frame."""

    source: int  # libzmq's descriptor
    end: socket.socket  # our duplicate
    inode: int
    conn: bytes = b""
    key: str = ""
    label: str = ""
    where: str = ""
    ending: bool = False

    def shut(self) -> None:
        """End it for both sides; libzmq then notices by itself."""
        self.ending = True
        with suppress(OSError):  # it may have ended by itself
            self.end.shutdown(socket.SHUT_RDWR)

    def over(self) -> bool:
        """Whether the other side has closed, or libzmq has."""
        try:
            return self.end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"" or self.reused()
        except BlockingIOError:
            return self.reused()
        except OSError:
            return True

    def reused(self) -> bool:
        """Whether libzmq has closed its descriptor."""
        return _inode(self.source) != self.inode

    def backlog(self) -> int:
        """Bytes that one of the two sides has not read."""
        waiting = 0
        for request in (termios.FIONREAD, termios.TIOCOUTQ):
            waiting += int.from_bytes(fcntl.ioctl(self.end, request, bytes(4)), "little")
        return waiting


@dataclass
class Connections:
    """All connections of one broker."""

    by_conn: dict[bytes, Connection] = field(default_factory=dict)
    by_source: dict[int, Connection] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self.by_source.values()))

    def accepted(self, source: int) -> Connection | None:
        """Take a descriptor libzmq names; None when it is closed already."""
        known = self.by_source.get(source)
        if known is not None:
            if not known.reused():
                return known
            self.forget(known)
        try:
            end = socket.socket(fileno=os.dup(source))
        except OSError:
            return None
        made = self.by_source[source] = Connection(source, end, os.fstat(end.fileno()).st_ino)
        return made

    def admit(self, conn: bytes, source: int, key: str, label: str, address: str) -> Connection | None:
        """Take the first frame of a connection; None when it is over already.

        `address` is libzmq's Peer-Address: `localhost:uid:gid:pid` on ipc, else the network address.
        """
        found = self.accepted(source)
        where = address.removeprefix("localhost:")
        if found is None or found.ending or (found.conn and found.conn != conn) or not _fits(found, where):
            return None
        found.conn, found.key, found.label, found.where = conn, key, label, where
        self.by_conn[conn] = found
        return found

    def forget(self, gone: Connection) -> None:
        """Close our duplicate."""
        if self.by_source.get(gone.source) is gone:
            del self.by_source[gone.source]
        if self.by_conn.get(gone.conn) is gone:
            del self.by_conn[gone.conn]
        gone.end.close()

    def close(self) -> None:
        """Forget all."""
        for connection in self:
            self.forget(connection)


def _inode(descriptor: int) -> int:
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return 0


def _fits(connection: Connection, where: str) -> bool:
    """Whether the process the kernel names at the other end is the one libzmq saw at the beginning."""
    end = connection.end
    if end.family != socket.AF_UNIX:
        return True
    pid, uid, gid = _CREDENTIALS.unpack(
        end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return where == f"{uid}:{gid}:{pid}"
