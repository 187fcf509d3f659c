"""What is sent in the comparisons: real messages of the catalogue, of about 300 bytes."""

from __future__ import annotations

from typing import Final

from manor_bus.wire import codec
from manor_bus.wire.messages.lifecycle import DomainShow, DomainStatus, Operation, OperationState, State

SHOW: Final = DomainShow(name="web-frontend-17")
STATUS: Final = DomainStatus(
    name="web-frontend-17", uuid="8b7f2c1e-0d4a-4f6b-9a53-6d1f0c2b7e90", state=State.RUNNING, generation=2,
    node="node1", hypervisor="qemu", incarnation=7, revision=12, cpus=4, memory_mib=4096,
    started=1_760_000_000.25, run="always", allowed=("shutdown", "reboot", "pause", "save", "destroy"),
)  # fmt: skip
OPERATIONS: Final = tuple(
    Operation(
        id="7f3a9c52e1d04b68", kind="start", target="web-frontend-17", uuid=STATUS.uuid,
        state=OperationState.RUNNING, step="plug-disks", progress=progress, created=1_760_000_000.25,
        who="operator/admin@node1/3f2a9c52e1d04b68", deadline=1_760_000_060.25, reason="make bench",
    )
    for progress in (0.25, 0.75)
)  # fmt: skip
SHOW_BYTES: Final = codec.encode(SHOW)
STATUS_BYTES: Final = codec.encode(STATUS)
OPERATION_BYTES: Final = codec.encode(OPERATIONS[0])


def operation(number: int) -> tuple[str, Operation]:
    """The subject and body of one event: sixteen objects take turns, each event is a change."""
    return f"operation.bench{number & 15}", OPERATIONS[number >> 4 & 1]
