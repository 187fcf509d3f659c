from manor_bus.broker.admission import AdmissionQueue
from manor_bus.broker.outbox import Outbox, problem, raw, refusal
from manor_bus.broker.sessions import Peer
from manor_bus.wire import codec, envelope
from manor_bus.wire.envelope import Down
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import Kind, ManorError, Origin
from manor_bus.wire.messages import Done
from manor_bus.wire.messages.bus import Reset

ADDRESS = "bus@n1/e"


def sent(outbox):
    return [(conn, codec.decode(frame, Down).items[0]) for conn, frame in outbox.out]


def peer():
    return Peer(b"c", "operator/a", "operator/a@n1/x", envelope.pack_text("x"), "", 0.0, AdmissionQueue(1, 1))


def test_the_brokers_own_messages_carry_its_address():
    outbox, one = Outbox(ADDRESS, "e"), peer()
    outbox.reply(one, "r1", Done())
    [(conn, item)] = sent(outbox)
    assert (conn, item.sender, item.envelope.re, item.envelope.last) == (b"c", ADDRESS, "r1", True)
    assert one.sent == 1


def test_a_refusal_says_that_the_broker_refused_and_nothing_was_delivered():
    outbox = Outbox(ADDRESS, "e")
    outbox.refuse(peer(), "r1", ManorError(Kind.NO_CAPACITY, "full", delivered=True))
    err = sent(outbox)[0][1].envelope.err
    assert (err.kind, err.origin, err.delivered) == (Kind.NO_CAPACITY, Origin.BROKER, False)
    assert refusal(ManorError(Kind.STALE, "old")).delivered is False


def test_a_reset_names_the_epoch_and_the_reason():
    outbox = Outbox(ADDRESS, "e")
    outbox.reset(b"c", "slow")
    wire = sent(outbox)[0][1].envelope
    assert wire.k == Frame.RESET
    assert codec.decode(wire.data, Reset) == Reset(broker_epoch="e", reason="slow")


def test_bodies_are_encoded_and_long_values_shortened():
    assert codec.decode(raw(Reset(broker_epoch="e", reason="slow")), Reset).reason == "slow"
    assert problem("to", "x" * 500, "less").value == "x" * 80
