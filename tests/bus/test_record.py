"""Recordings, and that one played again into a broker gives the same."""

import io
import struct

import msgpack
import pytest

from manor_bus import record
from manor_bus.wire import codec, envelope
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import Kind, ManorError
from tests.testkit.bench import Bench


def recording(*frames, **header):
    file = io.BytesIO()
    record.begin(file, record.Header(began=1.5, recorder="operator/a@n1/i", pattern=">", **header))
    for at, frame in frames:
        record.write(file, at, frame)
    return file


def frame(*sent):
    items = [envelope.item(envelope.pack_text(sender), wire) for sender, wire in sent]
    return envelope.batch(1, 0, envelope.array_header(len(items)) + b"".join(items))


def read(file):
    file.seek(0)
    header, entries = record.read(file)
    return header, list(entries)


def test_what_was_written_is_read_byte_for_byte_with_its_time():
    sent = msgpack.packb({"k": 7, "subject": "x.a", "own": [1, {"z": b""}]})
    header, entries = read(recording((0.25, frame(("a@n/1", sent))), (1.0, frame())))
    assert (header.version, header.began, header.pattern) == (record.VERSION, 1.5, ">")
    assert [entry.at for entry in entries] == [0.25, 1.0]
    [item] = entries[0].frame.items
    assert (item.sender, bytes(item.envelope)) == ("a@n/1", sent)


def test_a_recording_that_was_cut_off_ends_with_its_last_whole_frame():
    whole = recording((0.1, frame()), (0.2, frame(("a@n/1", codec.encode({"k": 7}))))).getvalue()
    for cut in range(1, 20):
        _, entries = read(io.BytesIO(whole[:-cut]))
        assert [entry.at for entry in entries] == [0.1]


@pytest.mark.parametrize("content", [b"", b"nonsense" * 10, b"manor-recording\n", b"manor-recording\n\0\0"])
def test_what_is_no_recording_is_refused(content):
    with pytest.raises(ManorError) as caught:
        record.read(io.BytesIO(content))
    assert caught.value.kind is Kind.BAD_REQUEST


def test_a_recording_of_another_version_is_refused():
    with pytest.raises(ManorError, match="version 9"):
        read(recording(version=9))


def test_a_damaged_length_is_refused_before_anything_is_read():
    file = recording((0.0, frame()))
    file.write(struct.pack(">Id", 2**32 - 1, 1.0))
    with pytest.raises(ManorError, match="damaged"):
        read(file)


def test_a_damaged_frame_is_refused():
    with pytest.raises(ManorError):
        read(recording((0.0, b"\xc1")))


def story():
    """Some traffic, seen by a tap; returns the recording."""
    bench = Bench()
    tap = bench.join("operator/recorder")
    tap.subscribe(">", tap=True, window=10_000, window_bytes=1_000_000)
    service = bench.join("service/lifecycle", ("lifecycle.>",), ("operation.*",))
    caller = bench.join("operator/admin")
    for number in range(5):
        caller.ask("lifecycle.domain.start", f"r{number}", timeout=500)
        service.publish("operation.a", number)
        bench.flush()
        bench.now += 0.1
        if number != 3:
            service.reply(caller.address, f"r{number}")
    caller.ask("config.get", "absent")
    bench.wait(1.0)
    file = recording()
    for down, raw in zip(tap.downs, tap.frames, strict=True):
        if down.sid == 1:
            record.write(file, 0.0, raw)
    return file


def replay(file):
    """Say what the peers of a recording said to a new broker; return what it sent to each of them."""
    _, entries = read(file)
    bench, hands = Bench(), {}
    passed = [
        (item.sender, codec.decode(bytes(item.envelope), Envelope), bytes(item.envelope))
        for entry in entries
        for item in entry.frame.items
        if not item.sender.startswith("bus@")
    ]
    served = {wire.to.partition(".")[0] for _, wire, _ in passed if wire.k == Frame.REQ}
    for sender in dict.fromkeys(sender for sender, _, _ in passed):
        label, _, place = sender.partition("@")
        room = label.partition("/")[2]
        hands[sender] = hand = bench.connect(label)
        hand.hello(place.partition("/")[2], (f"{room}.>",) if room in served else ())
    for sender, _, sent in passed:
        hands[sender].say_bytes(sent)
        bench.flush()
    return {sender: hand.frames for sender, hand in hands.items()}, {s: h.downs for s, h in hands.items()}


def test_a_recording_played_into_a_new_broker_gives_the_same_every_time():
    file = story()
    frames, downs = replay(file)
    assert replay(file)[0] == frames
    caller = next(seen for sender, seen in downs.items() if sender.startswith("operator/admin"))
    answers = [d.items[0].envelope for d in caller if d.items[0].envelope.k == Frame.REP]
    assert [(wire.re, wire.err and wire.err.kind) for wire in answers] == [
        ("r0", None), ("r1", None), ("r2", None), ("r4", None), ("absent", Kind.UNAVAILABLE),
    ]  # fmt: skip
