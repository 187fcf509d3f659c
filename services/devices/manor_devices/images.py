"""Disk images through qemu-img. Formats are always explicit; what an image says of itself is not trusted."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from manor_bus.wire.errors import ManorError, Problem, bad_request, denied_state, not_found
from manor_devices import storage
from manor_devices.magic import HEAD_BYTES, TAIL_BYTES, recognise
from manor_devices.processes import run, user

QUICK_S: Final = 20.0
LONG_S: Final = 3_600.0  # a full copy or a preallocation
CHAIN_MAX: Final = 32
FORMATS: Final = ("raw", "qcow2")


@dataclass(frozen=True, slots=True)
class Layer:
    """One image of a chain, top first. Sizes in bytes; `identity` is equal for all names of one file."""

    path: str
    format: str
    size: int
    used: int
    identity: str
    block: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """What a file or block device shows from outside. `holds`: whose format its bytes are, if known."""

    path: str
    identity: str
    block: bool
    size: int
    sealed: bool  # read-only for its owner, or as a device
    holds: str = ""


class _Qcow2(msgspec.Struct, frozen=True, rename="kebab"):
    data_file: str | None = None


class _Specific(msgspec.Struct, frozen=True):
    data: _Qcow2 = _Qcow2()


class _Shown(msgspec.Struct, frozen=True, rename="kebab"):
    virtual_size: int
    actual_size: int = 0
    backing_filename: str = ""
    backing_filename_format: str = ""
    format_specific: _Specific = _Specific()


def identify(path: str, field: str = "source") -> tuple[str, str]:
    """Return (resolved path, identity) of an image file or block device, or raise what is wrong with it."""
    if not os.path.isabs(path) or "\0" in path:
        raise _refused(field, path, "must be an absolute path")
    resolved = os.path.realpath(path)
    try:
        found = os.stat(resolved)
    except (FileNotFoundError, NotADirectoryError):
        raise not_found(f"there is no file {path}", hint="Check the path, or make the image first.") from None
    except OSError as error:
        raise _refused(field, path, error.strerror) from None
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISBLK(found.st_mode):
        raise _refused(field, path, "is a directory" if stat.S_ISDIR(found.st_mode) else "is not a file")
    return resolved, identity_of(found)


def identity_of(found: os.stat_result) -> str:
    """Return what is equal for all names of one file or block device."""
    if stat.S_ISBLK(found.st_mode):
        return f"block:{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    return f"{found.st_dev}:{found.st_ino}"


def look(path: str, field: str = "source") -> Look:
    """Look at an image file or block device. May hang as long as its file system does."""
    resolved, identity = identify(path, field)
    try:
        with open(resolved, "rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            size = file.seek(0, os.SEEK_END)
            head = os.pread(file.fileno(), HEAD_BYTES, 0)
            tail = os.pread(file.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES))
    except PermissionError:
        raise denied_state(
            f"{path} cannot be read by this service", hint=f"Give it to its user: chown {user()} {resolved}"
        ) from None
    except OSError as error:
        raise _refused(field, path, error.strerror) from None
    block = stat.S_ISBLK(found.st_mode)
    sealed = _sealed(found.st_rdev) if block else not found.st_mode & stat.S_IWUSR
    return Look(resolved, identity, block, size, sealed, recognise(head, tail))


def takes_direct_io(path: str) -> bool:
    """Say whether a file can be read past the page cache; not all file systems can do that."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC))
    except OSError as error:
        return error.errno != errno.EINVAL
    return True


def _sealed(device: int) -> bool:
    """Return whether the kernel lets nobody write a block device."""
    switch = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/ro")
    try:
        return switch.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False


async def chain(path: str, format_: str, field: str = "source") -> tuple[Layer, ...]:
    """Return the image and all images below it. Each must say the format of the next; none may reach out."""
    layers: list[Layer] = []
    named = ""
    while path:
        try:
            resolved, identity = await storage.ask(path, partial(identify, path, field))
        except ManorError as error:
            raise _bottomless(layers[-1].path, named, path, error) if layers else error from None
        if any(layer.identity == identity for layer in layers) or len(layers) == CHAIN_MAX:
            raise _refused(field, path, "its chain of backing files has no end")
        shown = await _show(resolved, format_, field)
        layers.append(Layer(resolved, format_, shown.virtual_size, shown.actual_size, identity))
        path, format_ = _below(resolved, shown, field)
        named = shown.backing_filename
    return tuple(layers)


def _bottomless(overlay: str, named: str, resolved: str, error: ManorError) -> ManorError:
    """Say of what an image is half missing, and what not to do about it."""
    return ManorError(
        error.kind,
        f"{overlay} stands on its backing file {named!r}, which cannot be used: {error.message} ({resolved})",
        problems=error.problems,
        hint="Put that file back as it was (an empty one in its place would be garbage), or say where it is: "
        f"qemu-img rebase -u -f qcow2 -F FORMAT -b PATH {overlay}",
    )


async def create(
    path: Path,
    format_: str,
    size_mib: int,
    *,
    below: tuple[str, str] | None = None,
    preallocate: bool = False,
) -> None:
    """Make an empty image, or a qcow2 image over another (path, format)."""
    options = ["-o", "preallocation=falloc"] if preallocate else []
    backing = ["-b", below[0], "-F", below[1]] if below else []
    argv = ["qemu-img", "create", "-q", "-f", format_, *options, *backing, "--", str(path), f"{size_mib}M"]
    await run(argv, LONG_S if preallocate else QUICK_S)


async def copy(source: str, source_format: str, path: Path, format_: str) -> None:
    """Make a full copy."""
    argv = ["qemu-img", "convert", "-q", "-U", "-f", source_format, "-O", format_, "--", source, str(path)]
    await run(argv, LONG_S)


async def grow(path: Path, format_: str, size_mib: int) -> None:
    """Make an image larger; qemu-img refuses to shrink it."""
    await run(["qemu-img", "resize", "-q", "-f", format_, "--", str(path), f"{size_mib}M"], QUICK_S)


async def _show(path: str, format_: str, field: str) -> _Shown:
    if format_ not in FORMATS:
        raise _refused(field, path, f"format {format_!r} is not one of {', '.join(FORMATS)}")
    out = await run(["qemu-img", "info", "-U", "--output=json", "-f", format_, "--", path], QUICK_S)
    try:
        return msgspec.json.decode(out, type=_Shown)
    except msgspec.MsgspecError as error:
        raise _refused(field, path, f"qemu-img does not understand it: {error}") from None


def _below(path: str, shown: _Shown, field: str) -> tuple[str, str]:
    if shown.format_specific.data.data_file is not None:
        raise _refused(field, path, "keeps its content in another file (data-file), which is not allowed")
    if not shown.backing_filename:
        return "", ""
    if not shown.backing_filename_format:
        raise bad_request(
            f"{path} has a backing file whose format it does not say",
            _problem(field, path, "the format would have to be guessed from what a guest may have written"),
            hint=f"Say it: qemu-img rebase -u -b {shown.backing_filename} -F raw|qcow2 {path}",
        )
    backing = os.path.join(os.path.dirname(path), shown.backing_filename)
    if ":" in shown.backing_filename.partition("/")[0]:
        raise _refused(field, path, f"its backing file {shown.backing_filename!r} is not a file of this node")
    return backing, shown.backing_filename_format


def _problem(field: str, value: str, reason: str) -> Problem:
    return Problem(path=field, reason=reason, value=value)


def _refused(field: str, path: str, reason: str | None) -> ManorError:
    return bad_request(f"{path}: {reason}", _problem(field, path, reason or "cannot be read"))
