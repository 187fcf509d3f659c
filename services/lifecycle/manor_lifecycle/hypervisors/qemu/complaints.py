"""What QEMU's refusals mean: whose fault it is, which disk and file by name, and what to do. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from manor_bus.wire.errors import Kind, ManorError
from manor_lifecycle.hypervisors.qemu.record import Record, of_node

NODE: Final = re.compile(r'"(?:node-name|file|drive)": "([fpt]\d+)"')
FILE: Final = re.compile(r"Could not open '([^']+)'|using the image \[([^\]]+)\]|\"filename\": \"([^\"]+)\"")
LOCK: Final = re.compile(r'Failed to get (?:shared )?"[\w ]+" lock|Failed to lock byte')
BACKING: Final = re.compile(r"[Cc]ould not open backing file")

# What it says, the kind, what that means ({disk} and {file} are filled in), what to do: the first that fits.
TABLE: Final[tuple[tuple[str, Kind, str, str], ...]] = (
    (
        r"annot allocate memory|cannot set up guest memory|unable to map backing store",
        Kind.NO_CAPACITY,
        "this node has no memory left for it",
        "Free memory on this node, or give the domain less.",
    ),
    (
        r"No space left on device|Disk quota exceeded",
        Kind.NO_CAPACITY,
        "the file system of {file} is full",
        "Free space there, then start the domain again.",
    ),
    (
        r"marked as corrupt|Image is corrupt|corrupt image",
        Kind.DENIED_STATE,
        "the image of {disk}, {file}, is corrupt",
        "Copy it, then mend it with: qemu-img check -r all; or bring it back from a backup.",
    ),
    (
        r"is not in qcow2 format|[Cc]ould not (?:read|parse) (?:qcow2|the) header|[Uu]nsupported qcow2",
        Kind.DENIED_STATE,
        "{file} of {disk} is no whole qcow2 image",
        "Bring it back from a backup, or say the format that it has.",
    ),
    (
        r"No such file or directory",
        Kind.DENIED_STATE,
        "{file} of {disk} is not there",
        "Bring the file back, or name the right one.",
    ),
    (
        r"Permission denied|Operation not permitted",
        Kind.DENIED_STATE,
        "the process of the domain may not open {file} of {disk}",
        "Look at the permissions of the file and of the folders above it, and at AppArmor or SELinux.",
    ),
    (
        r"Stale file handle|Input/output error|Transport endpoint",
        Kind.UNAVAILABLE,
        "the storage of {disk}, {file}, does not work",
        "Look at the kernel's log and at the server behind that mount.",
    ),
    (
        r"[Ff]ailed to connect|Connection refused|server closed|[Ff]ailed to negotiate",
        Kind.UNAVAILABLE,
        "the provider of {disk} does not answer",
        "Look at its provider: manor list providers.",
    ),
    (
        r"Address already in use",
        Kind.DENIED_STATE,
        "the address of its screen is in use",
        "Choose another spec.graphics.port, or none.",
    ),
    (
        r"KVM kernel module|failed to initialize kvm",
        Kind.UNAVAILABLE,
        "this node's KVM does not work",
        "Look at /dev/kvm and its permissions, or set the option accelerator to tcg.",
    ),
    (
        r"device requires \d+ bytes",
        Kind.DENIED_STATE,
        "the firmware's variables do not fit the firmware",
        "Remove the variables of the domain; its boot entries are then found anew.",
    ),
)


def explain(
    record: Record, words: str, holder: Callable[[str], str], backing: Callable[[str], str]
) -> ManorError:
    """Return the error for what QEMU said when it refused to start a guest or to take a device.

    `holder` says who has a file open, `backing` what an image calls its backing file; both may not know.
    """
    last = re.sub(r"\n(?=Is another process)", " ", words.strip()).rpartition("\n")[2]
    node = NODE.search(last)
    files = [next(filter(None, found)) for found in FILE.findall(last)]
    file = files[-1] if files else ""
    disk = of_node(record, node[1]) if node else ""
    paths = {one.device.id: str(one.descriptor.args.get("path", "")) for one in record.plugged}
    disk = disk or next((name for name, path in paths.items() if path and path == file), "")
    where = f"disk {disk}" if disk else "a disk"
    said = re.sub(r"^\S*qemu-system\S*: (?:-\w+ \S.*?\}: )?", "", last)
    if LOCK.search(last):
        file = file or paths.get(disk, "")
        who = holder(file) or "another process"
        message = f"{record.name}: {file} of {where} is in use by {who}"
        return ManorError(Kind.DENIED_STATE, message, hint="End that program, or detach the disk there.")
    if BACKING.search(last):
        overlay = paths.get(disk, "")
        written = backing(overlay) if overlay else ""
        message = (
            f"{record.name}: the image of {where}, {overlay}, stands on {written or file}, which is {file}"
        )
        hint = "Bring that file back; if it has moved, tell the image with: qemu-img rebase -u."
        return ManorError(Kind.DENIED_STATE, f"{message}: {said.rpartition(': ')[2]}", hint=hint)
    for pattern, kind, meaning, hint in TABLE:
        if re.search(pattern, last):
            text = meaning.format(disk=where, file=file or paths.get(disk, "") or "a file")
            return ManorError(kind, f"{record.name}: {text} ({said})", hint=hint)
    hint = "Change the document; the whole text is in the log of its last run."
    return ManorError(Kind.BAD_REQUEST, f"QEMU refuses {record.name}: {said}", hint=hint)
