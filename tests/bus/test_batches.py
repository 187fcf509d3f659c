"""Several messages in one frame, both ways, to who said that it can."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor_bus.broker.switch import LIMITS
from manor_bus.peer.events import Noted, Replied
from manor_bus.wire import codec, envelope
from manor_bus.wire.envelope import BATCH_BYTES_MAX, BATCH_MAX, Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.messages import bus as words
from tests.bus.test_session import BROKER, Line
from tests.testkit.bench import Bench, body
from tests.testkit.chance import SEARCH


def together(*wires):
    [frame] = envelope.batches([codec.encode(wire) for wire in wires])
    return frame


def joined(bench, label="operator/admin", serves=(), batches=True):
    hand = bench.connect(label)
    hello = words.Hello(protocol=(1, 1), instance=f"i{len(bench.hands)}", serves=serves, batches=batches)
    hand.say(Envelope(k=Frame.HELLO, id="h", data=body(hello)))
    hand.frames.clear()
    return hand


def request(number):
    return Envelope(k=Frame.REQ, id=f"r{number}", to="config.get", timeout=1_000)


@SEARCH
@given(st.lists(st.integers(0, 3), max_size=200), st.integers(1, 70_000))
def test_whatever_goes_into_batches_comes_out_in_order_in_frames_that_are_bounded(sizes, unit):
    sent = [codec.encode({"k": 3, "x": b"x" * (size * unit)}) for size in sizes]
    frames = list(envelope.batches(sent))
    got = [
        one for frame in frames for one in (envelope.unbatch(frame) if envelope.is_batch(frame) else [frame])
    ]
    assert got == sent
    assert all(len(frame) <= BATCH_BYTES_MAX + 8 or not envelope.is_batch(frame) for frame in frames)
    assert len(frames) <= 1 + len(sent) // BATCH_MAX + sum(map(len, sent)) * 2 // BATCH_BYTES_MAX


def test_a_batch_is_what_any_encoder_writes():
    wires = [request(1), request(2)]
    plain = [msgpack.unpackb(codec.encode(wire)) for wire in wires]
    assert msgpack.unpackb(together(*wires)) == [0, plain]
    assert envelope.unbatch(msgpack.packb([0, plain])) == [msgpack.packb(one) for one in plain]


def test_the_messages_of_a_batch_are_taken_in_their_order():
    bench = Bench()
    service, caller = bench.join("service/config", ("config.>",)), joined(bench)
    caller.say_bytes(together(request(1), request(2), request(3)))
    assert [down.items[0].envelope.id for down in service.downs[-3:]] == ["r1", "r2", "r3"]
    assert bench.switch.outbox.counters["frames"] == 5


def test_who_said_it_can_gets_what_waits_in_one_frame_and_others_get_it_one_by_one():
    bench = Bench()
    new, old = joined(bench, "service/config", ("config.>",)), joined(bench, batches=False)
    caller = joined(bench)
    for hand in (caller, old):
        hand.say_bytes(together(request(1), request(2)))
    assert [len(new.frames), len(new.downs)] == [2, 5]
    new.say_bytes(
        together(*(Envelope(k=Frame.REP, to=caller.address, re=f"r{n}", last=True) for n in (1, 2)))
    )
    new.say_bytes(together(*(Envelope(k=Frame.REP, to=old.address, re=f"r{n}", last=True) for n in (1, 2))))
    assert (len(caller.frames), len(old.frames)) == (1, 2)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x90", b"\x91\x00", b"\x92\x01\x90", b"\x92\x00\xc0", b"\x93\x00\x90\x00",
        b"\x92\x00" + envelope.array_header(BATCH_MAX + 1) + b"\x81\xa1k\x0b" * (BATCH_MAX + 1),
        b"\x92\x00\x91" + b"\x92\x00\x91\x81\xa1k\x0b",
    ],
)  # fmt: skip
def test_what_is_no_batch_ends_the_session(frame):
    bench = Bench()
    hostile = joined(bench)
    hostile.say_bytes(frame)
    assert hostile.cut


def test_what_follows_a_broken_message_in_a_batch_is_not_looked_at():
    bench = Bench()
    service, hostile = bench.join("service/config", ("config.>",)), joined(bench)
    before = len(service.downs)
    broken = codec.encode({"k": "no"})
    hostile.say_bytes(b"\x92\x00\x92" + broken + codec.encode(request(1)))
    assert hostile.cut
    assert len(service.downs) == before


def welcomed(batches):
    line = Line()
    hello = line.connect()
    done = words.Welcome(
        protocol=1, broker_epoch="e1", address="operator/a@n1/i1", boot_id="boot", heartbeat_ms=1_000,
        limits=LIMITS, batches=batches,
    )  # fmt: skip
    line.hear(Envelope(k=Frame.WELCOME, re=hello.id, data=body(done)))
    line.told()
    return line


@pytest.mark.parametrize(("batches", "count"), [(True, 1), (False, 3)])
def test_a_peer_sends_batches_to_a_broker_that_takes_them(batches, count):
    line = welcomed(batches)
    for _ in range(3):
        line.session.calls.call(Envelope(k=0, to="x.do"), 5.0, line.now)
    assert len(line.session.take()) == count


def test_a_peer_reads_every_message_of_a_batch():
    line = welcomed(True)
    tokens = [line.session.calls.call(Envelope(k=0, to="x.do"), 5.0, line.now) for _ in range(2)]
    asked = line.sent()
    packed = envelope.pack_text(BROKER)
    replies = [
        envelope.single(packed, codec.encode(Envelope(k=Frame.REP, re=wire.id, last=True))) for wire in asked
    ]
    line.session.receive(next(envelope.batches(replies)), line.now)
    assert [event.token for event in line.told() if isinstance(event, Replied)] == tokens


@pytest.mark.parametrize("frame", [b"\xc1", b"\x93\x00\x00", b"\x92\x00\x91\x93\x00\x00\x91\x01"])
def test_a_frame_that_cannot_be_read_is_noted_and_harms_nothing(frame):
    line = welcomed(True)
    line.session.receive(frame, line.now)
    assert [type(event) for event in line.told()] == [Noted]
    assert line.session.greeted
