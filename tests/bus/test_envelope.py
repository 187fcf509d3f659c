"""The one frame, its reading by the broker, and what is put around it on the way down."""

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor_bus.wire import codec, envelope
from manor_bus.wire.envelope import Down, Envelope, Kind
from manor_bus.wire.errors import ErrorBody, ManorError
from manor_bus.wire.errors import Kind as ErrorKind
from tests.testkit.chance import SEARCH
from tests.testkit.promises import RawDown


def test_the_numbers_of_the_kinds_are_frozen():
    assert {kind.name: int(kind) for kind in Kind} == {
        "HELLO": 1, "WELCOME": 2, "REQ": 3, "PART": 4, "REP": 5, "CANCEL": 6, "PUB": 7, "SUB": 8,
        "UNSUB": 9, "CREDIT": 10, "PING": 11, "DRAIN": 12, "RESET": 13,
    }  # fmt: skip


def test_an_envelope_of_our_own_is_read_and_its_body_left_alone():
    wire = Envelope(
        k=3, id="a", to="x.y", timeout=5, data=msgspec.Raw(codec.encode({"deep": [[1], {"a": b""}]}))
    )
    assert envelope.read(codec.encode(wire)) == wire


def test_an_envelope_of_another_encoder_with_unknown_keys_is_read():
    frame = msgpack.packb({"k": 7, "subject": "x", "tenant": {"a": [1]}, "data": {"b": 2}, "zz": None})
    wire = envelope.read(frame)
    assert (wire.k, wire.subject) == (7, "x")
    assert codec.decode(wire.data, object) == {"b": 2}


@pytest.mark.parametrize(
    "frame",
    [
        b"", b"\xc0", b"\x80", b"\x90", b"\x81\xa1k\xa11",
        msgpack.packb({"id": "x"}), msgpack.packb({"k": "3"}), msgpack.packb({"k": 3, "id": 5}),
        msgpack.packb({"k": 3, "source": 5}), msgpack.packb({"k": 3, "epoch": 1}),
        msgpack.packb({"k": 3, "err": "no"}), msgpack.packb({"k": 3, "err": {"kind": "fun", "message": ""}}),
        msgpack.packb({"k": 3, "time": "now"}), msgpack.packb({"k": 3, 5: 1}), msgpack.packb([3]),
        b"\x82\xa1k\x03\xa1k\x03", b"\x83\xa1k\x03\xa1x\x01\xa1x\x01",
                        b"\x82\xa1k\x03\xa4data" + b"\x91" * 9_000, b"\x81\xa1k\x03\x00",
    ],
)  # fmt: skip
def test_a_frame_that_is_no_envelope_is_refused(frame):
    with pytest.raises((codec.Malformed, ManorError)):
        envelope.read(frame)


def test_errors_travel_in_the_envelope():
    err = ErrorBody(kind=ErrorKind.STALE, message="old", delivered=None)
    assert envelope.read(codec.encode(Envelope(k=5, err=err))).err == err


def test_what_goes_down_holds_the_senders_bytes_untouched():
    sent = msgpack.packb({"k": 3, "own": [1, 2], "data": {"a": 1}})
    for deadline in (0, 123_456_789):
        frame = envelope.single(envelope.pack_text("a@n/1"), sent, deadline)
        down = codec.decode(frame, RawDown)
        assert (down.sid, down.n) == (0, deadline)
        assert [(item.sender, bytes(item.envelope)) for item in down.items] == [("a@n/1", sent)]


@SEARCH
@given(
    sid=st.integers(1, 2**31), n=st.integers(0, 2**62), count=st.integers(0, 70),
    superseded=st.integers(0, 2**40),
)  # fmt: skip
def test_a_batch_is_one_array_that_any_decoder_reads(sid, n, count, superseded):
    items = [envelope.item(envelope.pack_text(f"s{i}"), codec.encode({"k": 7})) for i in range(count)]
    frame = envelope.batch(sid, n, envelope.array_header(count) + b"".join(items), superseded)
    expected = [sid, n, [[f"s{i}", {"k": 7}] for i in range(count)], *([superseded] if superseded else [])]
    assert msgpack.unpackb(frame) == expected
    assert codec.decode(frame, Down).superseded == superseded


@pytest.mark.parametrize("count", [0, 15, 16, 65_535, 65_536])
def test_the_head_of_an_array_is_as_short_as_it_can_be(count):
    head = envelope.array_header(count)
    assert msgpack.unpackb(head + b"\x01" * count) == [1] * count
    assert len(head) == (1 if count < 16 else 3 if count < 65_536 else 5)
