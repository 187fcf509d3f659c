"""Watches inside the pure session: snapshots asked, told, asked again; no socket, no loop."""

import pytest

from manor_bus.peer.events import Change, Synced, Watched
from manor_bus.peer.watches import AGAIN_S
from manor_bus.wire import codec, envelope
from manor_bus.wire.envelope import Envelope, Kind
from manor_bus.wire.errors import ErrorBody
from manor_bus.wire.errors import Kind as ErrorKind
from manor_bus.wire.messages import bus as words
from manor_bus.wire.messages import node
from manor_bus.wire.messages.lifecycle import Operation, OperationState
from tests.bus.test_session import Line
from tests.testkit.bench import body

OWNER = "service/lifecycle@n1/i7"
TYPE = "lifecycle.operation.v1"


def value(step):
    return Operation(id="a", kind="start", target="web", uuid="u", state=OperationState.RUNNING, step=step)


class Watching:
    """A session that watches one pattern, and its broker and owner by hand."""

    def __init__(self):
        self.line = Line()
        self.line.welcome(self.line.connect())
        self.line.told()
        self.sid = self.line.session.watch("operation.*")
        [asked] = self.line.sent()
        self.life = codec.decode(asked.data, words.Subscribe).sid
        self.answer(
            asked,
            words.Subscribed(
                sid=self.life, seq=0, owners=(words.Owner(address=OWNER, owns=("operation.*",)),)
            ),
        )

    def answer(self, asked, message, sender="bus@n1/e1"):
        kind = Kind.PART if isinstance(message, node.SnapshotPart) else Kind.REP
        self.line.hear(Envelope(k=kind, re=asked.id, last=kind == Kind.REP, data=body(message)), sender)

    def refuse(self, asked):
        err = ErrorBody(kind=ErrorKind.UNAVAILABLE, message="gone")
        self.line.hear(Envelope(k=Kind.REP, re=asked.id, last=True, err=err))

    def event(self, n, rev, step):
        sent = Envelope(
            k=Kind.PUB, subject="operation.a", type=TYPE, epoch="e1", rev=rev, data=body(value(step))
        )
        item = envelope.item(envelope.pack_text(OWNER), codec.encode(sent))
        self.line.session.receive(envelope.batch(self.life, n, b"\x91" + item), self.line.now)

    def snapshot(self, asked, rev, step):
        item = node.SnapshotItem(subject="operation.a", rev=rev, type=TYPE, value=body(value(step)))
        self.answer(asked, node.SnapshotPart(items=(item,)), OWNER)
        self.answer(asked, node.SnapshotDone(epoch="e1", rev=rev), OWNER)

    def told(self):
        told = [one for event in self.line.told() if isinstance(event, Watched) for one in event.changes]
        return [one.value.step if isinstance(one, Change) else "synced" for one in told]


@pytest.fixture
def watching():
    return Watching()


def test_a_live_watch_asks_every_owner_for_its_snapshot_and_tells_it(watching):
    [asked] = watching.line.sent()
    assert (asked.k, asked.to) == (Kind.REQ, "srv.snapshot@n1/i7")
    watching.snapshot(asked, 3, "three")
    assert watching.told() == ["three", "synced"]


def test_what_passes_before_the_snapshot_is_told_after_it_and_only_if_newer(watching):
    [asked] = watching.line.sent()
    watching.event(0, 3, "old")
    watching.event(1, 4, "new")
    assert watching.told() == []
    watching.snapshot(asked, 3, "three")
    assert watching.told() == ["three", "new", "synced"]


def test_an_owner_that_cannot_be_asked_keeps_nobody_waiting_and_is_asked_again(watching):
    [asked] = watching.line.sent()
    watching.refuse(asked)
    assert watching.told() == ["synced"]
    assert watching.line.wait(AGAIN_S - 0.01) == []
    [again] = [wire for wire in watching.line.wait(0.01) if wire.k == Kind.REQ]
    watching.snapshot(again, 3, "three")
    assert watching.told() == ["three", "synced"]


def test_a_part_that_is_none_ends_that_snapshot_and_it_is_asked_again(watching):
    [asked] = watching.line.sent()
    watching.line.hear(Envelope(k=Kind.PART, re=asked.id, data=body({"items": 7})), OWNER)
    assert [wire.k for wire in watching.line.sent()] == [Kind.CANCEL]
    assert watching.told() == ["synced"]
    assert [wire.to for wire in watching.line.wait(AGAIN_S) if wire.k == Kind.REQ] == ["srv.snapshot@n1/i7"]


def test_after_losses_it_subscribes_anew_once_a_second_at_most(watching):
    [asked] = watching.line.sent()
    watching.snapshot(asked, 3, "three")
    watching.told()
    watching.event(5, 9, "later")
    kinds = [wire.k for wire in watching.line.wait(0)]
    assert kinds == [Kind.UNSUB, Kind.SUB]
    assert watching.told() == ["later"]


def test_who_stops_watching_withdraws_what_is_asked(watching):
    [asked] = watching.line.sent()
    watching.line.session.unsubscribe(watching.sid)
    withdrawn = {wire.k: wire.re for wire in watching.line.sent()}
    assert withdrawn[Kind.CANCEL] == asked.id
    watching.snapshot(asked, 3, "three")
    assert watching.line.told() == []


def test_a_watch_without_snapshots_asks_nobody():
    line = Line()
    line.welcome(line.connect())
    line.told()
    line.session.watch("operation.*", snapshot=False)
    [asked] = line.sent()
    done = words.Subscribed(sid=codec.decode(asked.data, words.Subscribe).sid, seq=0, owners=())
    line.hear(Envelope(k=Kind.REP, re=asked.id, last=True, data=body(done)))
    assert [event.changes for event in line.told()] == [[Synced()]]
    assert line.sent() == []
