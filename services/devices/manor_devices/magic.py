"""What the first and last bytes of a file say that it is. Looked at only to refuse, never to choose: a guest
may have written them. Pure.

Sources of the numbers: QEMU, docs/interop/qcow2.rst, qed_spec.rst, block/{vmdk,vdi,vpc,vhdx}.c; LUKS on-disk
format 1.2.3, section 2.1; ECMA-119, section 8.1.2.
"""

from __future__ import annotations

from typing import Final

HEAD_BYTES: Final = 0x8006
TAIL_BYTES: Final = 512
MARKS: Final[tuple[tuple[str, int, bytes], ...]] = (
    ("qcow2", 0, b"QFI\xfb"),
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vdi", 0x40, b"\x7f\x10\xda\xbe"),
    ("vhdx", 0, b"vhdxfile"),
    ("vhd", 0, b"conectix"),
    ("qed", 0, b"QED\0"),
    ("luks", 0, b"LUKS\xba\xbe"),
    ("iso", 0x8001, b"CD001"),
)
WAYS_OUT: Final = {
    "qcow2": "Write format: qcow2 at the disk",
    "iso": "Write device: cdrom or readonly: true at the disk",
}


def recognise(head: bytes, tail: bytes) -> str:
    """Return the name of the format that the bytes are those of; empty: none that is known."""
    for name, at, mark in MARKS:
        if head[at : at + len(mark)] == mark:
            return name
    return "vhd" if tail.startswith(b"conectix") else ""  # a fixed one says it at its end


def way_out(found: str) -> str:
    """Say what to write, for a file that would be handed to a guest as raw without anybody having said so."""
    convert = "Convert it (qemu-img convert -O qcow2 …) and write format: qcow2 at the disk"
    return f"{WAYS_OUT.get(found, convert)}, or format: raw if the guest shall have these bytes as they are."
