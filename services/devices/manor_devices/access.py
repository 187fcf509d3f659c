"""Let the user of a domain's process use a file: an entry of its access control list, taken back later.

An ACL entry leaves owner and mode alone, several domains can read one image, and nothing must be remembered
to take it back. Format of the extended attribute: Linux, include/uapi/linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterable
from functools import partial
from typing import Final

from manor_bus.wire.errors import Kind, ManorError, denied_state
from manor_devices import storage
from manor_devices.processes import run, user
from manor_host import privileges

XATTR: Final = "system.posix_acl_access"
DEFAULT: Final = "system.posix_acl_default"
VERSION: Final = 2
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NO_ID: Final = 0xFFFF_FFFF
READ, WRITE = 4, 2
PROBE_S: Final = 10.0

Entry = tuple[int, int, int]  # tag, permissions, user or group


def decode(content: bytes) -> list[Entry]:
    """Return the entries of an encoded list."""
    return [(tag, perm, who) for tag, perm, who in struct.iter_unpack("<HHI", content[4:])]


def encode(entries: Iterable[Entry]) -> bytes:
    """Return the encoded list, in the order the kernel asks for."""
    ordered = sorted(entries, key=lambda entry: (entry[0], entry[2]))
    return struct.pack("<I", VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in ordered)


def minimal(mode: int) -> list[Entry]:
    """Return the list that says the same as a file's mode."""
    return [(USER_OBJ, mode >> 6 & 7, NO_ID), (GROUP_OBJ, mode >> 3 & 7, NO_ID), (OTHER, mode & 7, NO_ID)]


def changed(entries: list[Entry], uid: int, permissions: int) -> list[Entry]:
    """Return the list with the entry of a user set, or removed (permissions 0)."""
    kept = [entry for entry in entries if entry[0] != MASK and entry[:1] + entry[2:] != (USER, uid)]
    named = [*kept, (USER, permissions, uid)] if permissions else kept
    if not any(tag in (USER, GROUP) for tag, _, _ in named):
        return named
    mask = 0
    for tag, perm, _ in named:
        if tag in (USER, GROUP_OBJ, GROUP):
            mask |= perm
    return [*named, (MASK, mask, NO_ID)]


async def grant(path: str, uid: int, *, write: bool) -> None:
    """Make a file usable for a user. Raises `denied_state` when it still is not (a folder in the way)."""
    if uid == os.geteuid() or not privileges.may(privileges.SETUID) or await _may(path, uid, write=write):
        return
    await storage.ask(path, partial(_change, path, uid, READ | WRITE if write else READ))
    if not await _may(path, uid, write=write):
        raise denied_state(
            f"the domain's user {uid} cannot {'write' if write else 'read'} {path}",
            hint=await storage.ask(path, partial(_advice, path)),
        )


async def revoke(path: str, uid: int) -> None:
    """Take the permission back. The file may be gone."""
    if uid and privileges.may(privileges.SETUID):
        try:
            await storage.ask(path, partial(_change, path, uid, 0))
        except FileNotFoundError:
            return


def share(folder: str, uid: int) -> None:
    """Make a folder of ours one in which a user makes files, and we may use these; others pass nowhere.

    Raises OSError where there are no access control lists and we may not give it away either.
    """
    theirs, ours = (changed(minimal(0o700), one, 7) for one in (uid, os.geteuid()))
    try:
        os.setxattr(folder, XATTR, encode(theirs))
        os.setxattr(folder, DEFAULT, encode(ours))
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        os.chown(folder, uid, -1)


def _change(path: str, uid: int, permissions: int) -> None:
    try:
        entries = decode(os.getxattr(path, XATTR))
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
        entries = minimal(stat.S_IMODE(os.stat(path).st_mode))
    wanted = changed(entries, uid, permissions)
    if sorted(wanted) == sorted(entries):
        return
    try:
        os.setxattr(path, XATTR, encode(wanted))
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EROFS, errno.EPERM):
            raise


async def _may(path: str, uid: int, *, write: bool) -> bool:
    """Ask the kernel as that user: modes, lists and all folders on the way count."""
    question = ["test", "-r", path, "-a", "-w", path] if write else ["test", "-r", path]
    try:
        await run(question, PROBE_S, uid=uid)
    except ManorError as error:
        if error.kind is not Kind.DENIED_STATE:  # it was not answered
            raise
        return False
    return True


def _advice(path: str) -> str:
    if os.stat(path).st_uid != os.geteuid() != 0:
        return f"What is not in a pool must be this service's: chown {user()} {path}"
    closed = [str(folder) for folder in _folders(path) if not os.stat(folder).st_mode & stat.S_IXOTH]
    if closed:
        return f"Let others pass through {closed[0]}: chmod o+x {closed[0]}"
    return "Its file system has no access control lists: give the file to that user, or move it."


def _folders(path: str) -> list[str]:
    folders: list[str] = []
    while (parent := os.path.dirname(path)) != path:
        folders.append(parent)
        path = parent
    return folders[::-1]
