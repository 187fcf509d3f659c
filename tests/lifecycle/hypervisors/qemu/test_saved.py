from __future__ import annotations

import msgspec
import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.documents import DomainSpec
from manor_lifecycle.hypervisors.qemu.record import Record
from manor_lifecycle.hypervisors.qemu.saved import HEADER_BYTES, Header, check, decode, encode

HEADER = Header(id="i1",
    record=Record(
        uuid="u1", name="web", incarnation=1, spec=DomainSpec(), uid=0, machine="pc-q35-7.2",
        accelerator="tcg",
        cpus=1, memory_mib=64, slots=3, created=1.0,
    ),
    version="7.2", length=100, sha256="d1",
)  # fmt: skip
SIZE = HEADER_BYTES + HEADER.length


def test_the_header_is_read_back() -> None:
    block = encode(HEADER)
    assert len(block) == HEADER_BYTES
    assert decode(block, SIZE, "/saved") == HEADER


@pytest.mark.parametrize(
    ("block", "size"),
    [
        (b"", 0),
        (b"x" * HEADER_BYTES, SIZE),
        (encode(HEADER)[:-1], SIZE),
        (encode(HEADER).replace(b'"length"', b'"lenght"'), SIZE),
        (encode(HEADER), SIZE - 1),
        (encode(HEADER), SIZE + 1),
    ],
)
def test_a_file_that_is_not_whole_is_never_used(block: bytes, size: int) -> None:
    with pytest.raises(ManorError) as refused:
        decode(block, size, "/saved")
    assert refused.value.kind is Kind.BAD_REQUEST
    assert "/saved" in refused.value.message


def test_another_stream_than_the_one_written_is_never_used() -> None:
    check(HEADER, "d1", "/saved")
    with pytest.raises(ManorError):
        check(HEADER, "d2", "/saved")


def test_what_does_not_fit_is_refused_before_it_is_written() -> None:
    spec = DomainSpec(extra={"large": "x" * HEADER_BYTES})
    with pytest.raises(ManorError, match="larger"):
        encode(msgspec.structs.replace(HEADER, record=msgspec.structs.replace(HEADER.record, spec=spec)))
