"""What an unexpected exception becomes: one refusal that says who must act, and where the details are."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import MappingProxyType
from typing import Final

from manor_bus import VERSION
from manor_bus.wire.errors import Kind, ManorError

_PATH: Final = (Kind.BAD_REQUEST, "check the path; nothing stands there that could be used so")
_RIGHTS: Final = (
    Kind.FORBIDDEN,
    "`ls -ld` shows whose it is; who owns the node may give you a key: manor credential add operator/NAME",
)
_FULL: Final = (Kind.NO_CAPACITY, "free space there (see `df -h`), or name another place")
_LIMIT: Final = (Kind.NO_CAPACITY, "a limit of this user or machine is reached: see `ulimit -a`")
_DISK: Final = (Kind.UNAVAILABLE, "the file system or its server does not answer: see `dmesg` and `mount`")
_READ_ONLY: Final = (Kind.DENIED_STATE, "the file system is read-only: see `mount`, or name another place")

BY_NUMBER: Final = MappingProxyType(
    {
        **dict.fromkeys((errno.EACCES, errno.EPERM), _RIGHTS),
        **dict.fromkeys(
            (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
             errno.EINVAL, errno.ESPIPE, errno.ENXIO, errno.ETXTBSY),
            _PATH,
        ),
        **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _FULL),
        **dict.fromkeys((errno.EMFILE, errno.ENFILE, errno.ENOMEM), _LIMIT),
        **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.EREMOTEIO), _DISK),
        errno.EROFS: _READ_ONLY,
    }
)  # fmt: skip


def known(error: BaseException) -> ManorError | None:
    """Return a refusal as it is, and what an error of the system is to a person; None for a fault of ours."""
    if isinstance(error, ManorError):
        return error
    if isinstance(error, MemoryError):
        return ManorError(_LIMIT[0], "there is not enough memory for this", hint=_LIMIT[1])
    found = BY_NUMBER.get(error.errno or 0) if isinstance(error, OSError) else None
    if found is None or not isinstance(error, OSError):
        return None
    kind, hint = found
    places = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return ManorError(kind, f"{places or 'a file'}: {error.strerror}", hint=hint, delivered=False)


def fault(error: BaseException, place: str) -> ManorError:
    """Return how a fault of the program is told; `place` says where its details are."""
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return ManorError(Kind.INTERNAL, message, hint=f"this is a bug; {place}")


def traced(error: BaseException) -> str:
    """Return the traceback, and which program it is of."""
    lines = traceback.format_exception(error)
    return f"manor {VERSION}, Python {sys.version.split()[0]}\n" + "".join(lines).rstrip()


def kept(error: BaseException, folder: Path | None) -> str:
    """Write the traceback to the log of this program, or to a file of its own; say where."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = f"{moment} {traced(error)}\n"
    for make in (_logged, _apart):
        try:
            return f"the details are in {make(text, folder)}; please report them"
        except OSError:
            continue
    return "repeat it with `manor --debug` to see the details; please report them"


def _logged(text: str, folder: Path | None) -> str:
    if folder is None:
        raise FileNotFoundError
    path = str(folder / "cli.log")
    with open(path, "a", opener=private) as file:
        file.write(text)
    return path


def _apart(text: str, _folder: Path | None) -> str:
    with tempfile.NamedTemporaryFile("w", prefix="manor-", suffix=".log", delete=False) as file:
        file.write(text)
        return file.name


def private(path: str, flags: int) -> int:
    """Open a file that only its owner reads."""
    return os.open(path, flags, 0o600)
