"""The bytes of every message, today and ever before, read by this code and by the other common decoder."""

import msgpack
import pytest

from manor_bus.wire import codec
from tests.bus import golden

SHAPES = golden.shapes()
KNOWN = [(name, frame) for name, old in golden.known().items() for frame in old]


@pytest.mark.parametrize(("name", "frame"), KNOWN, ids=[name for name, _ in KNOWN])
def test_every_message_that_was_ever_sent_is_read_and_written_in_the_same_bytes(name, frame):
    shape = SHAPES[name.removesuffix(" bare")]
    codec.check(frame)
    assert codec.encode(codec.decode(frame, shape)) == frame


@pytest.mark.parametrize(("name", "frame"), KNOWN, ids=[name for name, _ in KNOWN])
def test_the_other_decoder_reads_the_same_and_what_it_writes_is_read_back(name, frame):
    shape = SHAPES[name.removesuffix(" bare")]
    plain = msgpack.unpackb(frame)
    assert plain == codec.decode(frame, object)
    assert codec.decode(msgpack.packb(plain), shape) == codec.decode(frame, shape)
    codec.check(msgpack.packb(plain))


def test_the_golden_bytes_are_up_to_date():
    known = golden.known()
    stale = [name for name, frame in golden.present().items() if frame not in known.get(name, [])]
    assert not stale, "a message changed: if fields were only added, run `python -m tests.bus.golden`"


def test_no_message_disappears():
    assert {name.removesuffix(" bare") for name in golden.known()} <= set(SHAPES)


def test_a_field_added_by_a_newer_version_is_ignored():
    for name, frame in KNOWN:
        plain = msgpack.unpackb(frame)
        newer = msgpack.packb({**plain, "addedlater": [1, {"x": b"y"}]})
        shape = SHAPES[name.removesuffix(" bare")]
        assert codec.decode(newer, shape) == codec.decode(frame, shape)
