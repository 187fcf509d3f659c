"""A view and the owners it follows: whatever is lost, late or replaced, in the end they are equal."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor_bus.peer.view import (
    Change,
    Fetch,
    Noted,
    OwnerSeen,
    Synced,
    View,
    principal,
)  # fmt: skip
from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.messages.bus import Owner, OwnerChanged
from manor_bus.wire.messages.node import SnapshotItem
from tests.testkit.bench import body
from tests.testkit.chance import SEARCH

A, B, OTHER = "service/x@n1/a", "service/x@n1/b", "service/y@n1/c"


def owner(address):
    return Owner(address=address, owns=("x.*",))


def came(address):
    return OwnerChanged(owner=owner(address), present=True)


def left(address):
    return OwnerChanged(owner=owner(address), present=False)


def event(subject, rev, value=1, epoch="e1"):
    data = codec.NIL if value is None else body({"v": value})
    return Envelope(k=7, subject=subject, epoch=epoch, rev=rev, type="t.v1", data=data)


def items(**values):
    return [
        SnapshotItem(subject=f"x.{name}", rev=rev, type="t.v1", value=body({"v": 1}))
        for name, rev in values.items()
    ]


def told(actions):
    """[(subject, present)] of the news."""
    return [(one.subject, one.value is not None) for one in actions if isinstance(one, Change)]


def fetches(actions: Any) -> Any:
    return [one for one in actions if isinstance(one, Fetch)]


def known(actions):
    return Synced() in actions


@pytest.fixture
def view():
    """A view that knows x.one and x.two of A at revision 5."""
    made = View("x.*")
    [fetch] = fetches(made.live((owner(A),)))
    made.snapshot(fetch, "e1", 5, items(one=3, two=5))
    return made


def test_everybody_is_asked_and_all_is_known_when_everybody_has_answered():
    view = View("x.*")
    first, second = fetches(view.live((owner(A), owner(OTHER))))
    assert told(view.snapshot(first, "e1", 1, items(one=1))) == [("x.one", True)]
    assert known(view.snapshot(second, "e7", 0, []))


def test_without_owners_all_is_known_at_once():
    assert View("x.*").live(()) == [Synced()]


def test_changes_that_come_before_the_snapshot_wait_for_it():
    view = View("x.*")
    [fetch] = fetches(view.live((owner(A),)))
    assert view.item(A, event("x.one", 4)) == []
    assert view.item(A, event("x.two", 6)) == []
    actions = view.snapshot(fetch, "e1", 5, items(one=4))
    assert told(actions) == [("x.one", True), ("x.two", True)]


def test_of_what_waits_only_the_newest_of_each_subject_is_kept():
    view = View("x.*")
    [fetch] = fetches(view.live((owner(A),)))
    for rev in range(1, 1_000):
        view.item(A, event("x.one", rev))
    assert told(view.snapshot(fetch, "e1", 0, [])) == [("x.one", True)]


def test_a_change_is_told_and_an_older_one_is_not(view):
    assert told(view.item(A, event("x.three", 6))) == [("x.three", True)]
    assert view.item(A, event("x.three", 6)) == []
    assert view.item(A, event("x.one", 4)) == []


def test_an_end_is_told_once_and_only_of_what_was_there(view):
    assert told(view.item(A, event("x.one", 6, None))) == [("x.one", False)]
    assert view.item(A, event("x.one", 7, None)) == []
    assert view.item(A, event("x.never", 8, None)) == []


def test_what_is_missing_in_a_new_snapshot_is_gone(view):
    [fetch] = fetches(view.live((owner(A),)))
    assert told(view.snapshot(fetch, "e1", 9, items(two=5))) == [("x.one", False)]


def test_a_snapshot_that_a_later_one_overtook_does_not_count(view):
    [first] = fetches(view.live((owner(A),)))
    [second] = fetches(view.live((owner(A),)))
    assert view.snapshot(first, "e1", 9, []) == []
    assert told(view.snapshot(second, "e1", 9, items(one=3))) == [("x.two", False)]


def test_a_snapshot_shows_only_what_lies_under_the_pattern():
    view = View("x.a")
    [fetch] = fetches(view.live((owner(A),)))
    assert told(view.snapshot(fetch, "e1", 2, items(a=1, b=2))) == [("x.a", True)]


def test_a_restart_removes_nothing_until_the_successor_says_so(view):
    assert told(view.owner_changed(left(A))) == []
    [fetch] = fetches(view.owner_changed(came(B)))
    assert told(view.snapshot(fetch, "e2", 1, items(two=1))) == [("x.one", False), ("x.two", True)]


def test_a_successor_whose_clock_went_back_is_taken_once_its_predecessor_has_left(view):
    view.owner_changed(left(A))
    [fetch] = fetches(view.owner_changed(came(B)))
    assert told(view.snapshot(fetch, "e0", 1, items(two=1))) == [("x.one", False), ("x.two", True)]
    assert told(view.item(B, event("x.new", 2, epoch="e0"))) == [("x.new", True)]


def test_while_both_are_there_the_one_with_the_greater_epoch_counts(view):
    [new] = fetches(view.owner_changed(came(B)))
    assert told(view.snapshot(new, "e2", 1, items(three=1))) == [
        ("x.one", False), ("x.two", False), ("x.three", True),
    ]  # fmt: skip
    assert view.item(A, event("x.one", 6)) == []
    assert told(view.item(B, event("x.four", 2, epoch="e2"))) == [("x.four", True)]


def test_the_snapshot_of_a_predecessor_that_is_still_there_changes_nothing():
    view = View("x.*")
    old, new = fetches(view.live((owner(A), owner(B))))
    view.snapshot(new, "e2", 1, items(three=1))
    assert view.snapshot(old, "e1", 9, items(one=1)) == [Synced()]


def test_when_the_newer_one_leaves_the_older_one_is_asked_again(view):
    [new] = fetches(view.owner_changed(came(B)))
    view.snapshot(new, "e2", 1, items(three=1))
    [again] = fetches(view.owner_changed(left(B)))
    assert again.address == A
    assert ("x.three", False) in told(view.snapshot(again, "e1", 9, items(one=3)))


def test_who_publishes_state_without_owning_it_has_no_say_and_does_not_stand_for_those_who_do():
    view = View("x.*")
    view.live(())
    assert view.item(B, event("x.two", 4, "e2")) == []
    [fetch] = fetches(view.owner_changed(came(A)))
    assert told(view.snapshot(fetch, "e1", 3, items(one=3))) == [("x.one", True)]


def test_who_cannot_be_asked_is_asked_again_while_it_is_there_and_nobody_waits_for_it():
    view = View("x.*")
    [fetch] = fetches(view.live((owner(A),)))
    actions = view.failed(fetch)
    [again] = fetches(actions)
    assert (again.address, again.again) == (A, True)
    assert known(actions)
    actions = view.failed(again)
    [third] = fetches(actions)
    assert not known(actions)
    assert known(view.snapshot(third, "e1", 1, items(one=1)))


def test_who_left_while_it_was_asked_is_not_asked_again():
    view = View("x.*")
    [fetch] = fetches(view.live((owner(A),)))
    assert view.owner_changed(left(A)) == [Synced()]
    assert view.failed(fetch) == []
    assert view.snapshot(fetch, "e1", 1, items(one=1)) == []


def test_news_without_an_epoch_just_pass():
    wire = Envelope(k=7, subject="console.web", type="t.v1", data=body({"v": 1}))
    view = View("console.*")
    assert view.item(A, wire) == [Change("console.web", {"v": 1}, A, type="t.v1")]


def test_a_view_without_snapshots_tells_what_passes_and_asks_nobody():
    view = View("x.*", snapshot=False)
    assert view.live((owner(A),)) == [Synced()]
    assert told(view.item(A, event("x.one", 2))) == told(view.item(A, event("x.one", 1))) == [("x.one", True)]
    assert not view.item("bus@n1/e", Envelope(k=7, subject="bus.owner", data=body(came(B))))


def test_news_of_owners_are_taken_only_from_the_broker():
    news = Envelope(k=7, subject="bus.owner", type="bus.owner.v1", data=body(came(A)))
    assert len(fetches(View("x.*").item("bus@n1/e", news))) == 1
    forged = View("x.*").item("service/evil@n1/e", news)
    assert fetches(forged) == []


def test_who_owns_is_the_address_without_the_instance():
    assert principal(A) == principal(B) == "service/x@n1"
    assert principal("operator/a@n2/zz") == "operator/a@n2"


def test_a_value_is_decoded_by_its_type_or_left_plain():
    view = View("x.*", snapshot=False)
    wire = Envelope(k=7, subject="x.a", epoch="e", rev=1, type="unknown.v1", data=body({"v": 1}))
    assert view.item(A, wire) == [Change("x.a", {"v": 1}, A, "e", 1, "unknown.v1")]
    [gone] = view.item(A, Envelope(k=7, subject="x.a"))
    assert gone == Change("x.a", None, A)
    for wrong in (codec.encode({"present": 1}), b"\x82\xa1v\x01\xa1v\x02"):
        [noted] = view.item(A, Envelope(k=7, subject="x.a", type="bus.slow.v1", data=msgspec.Raw(wrong)))
        assert isinstance(noted, Noted)


OBJECTS = st.sampled_from(["x.a", "x.b", "x.c"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), OBJECTS), st.tuples(st.just("drop"), OBJECTS),
        st.tuples(st.sampled_from(["lose", "relive", "restart", "overlap"]), st.none()),
        st.tuples(st.sampled_from(["answer", "fail", "deliver"]), st.none()),
    ),
    max_size=40,
)  # fmt: skip


class World:
    """Owners with real state, a line that delivers late or loses, and the view at its end."""

    def __init__(self):
        self.view = View("x.*")
        self.seen: dict[str, Any] = {}
        self.owners: list[Any] = []
        self.line: list[Any] = []
        self.asked: list[Fetch] = []
        self.starts = 0
        self.start()
        self.do(self.view.live(tuple(owner(address) for address, *_ in self.owners)))

    def start(self):
        self.starts += 1
        self.owners.append((f"service/x@n1/{self.starts}", f"e{self.starts:04}", {}, [0]))

    def do(self, actions):
        for action in actions:
            if isinstance(action, Fetch):
                self.asked.append(action)
            elif isinstance(action, Change):
                if action.value is None:
                    self.seen.pop(action.subject)
                else:
                    self.seen[action.subject] = action.value["v"]

    def publish(self, subject, value):
        address, epoch, state, rev = self.owners[-1]
        rev[0] += 1
        if value is None:
            state.pop(subject, None)
        else:
            state[subject] = (rev[0], value)
        self.line.append((address, event(subject, rev[0], value, epoch)))

    def answer(self):
        fetch = self.asked.pop(0)
        found = [one for one in self.owners if one[0] == fetch.address]
        if not found:
            self.do(self.view.failed(fetch))
            return
        self.deliver()  # what was sent before the answer comes before it
        _, epoch, state, rev = found[0]
        snapshot = [
            SnapshotItem(subject=s, rev=r, type="t.v1", value=body({"v": v})) for s, (r, v) in state.items()
        ]
        self.do(self.view.snapshot(fetch, epoch, rev[0], snapshot))

    def deliver(self):
        line, self.line = self.line, []
        for address, wire in line:
            self.do(self.view.item(address, wire))

    def news(self, change):
        self.line.append(("bus@n1/e", Envelope(k=7, subject="bus.owner", data=body(change))))

    def step(self, kind, subject):
        if kind in ("put", "drop"):
            self.publish(subject, None if kind == "drop" else self.starts * 1_000 + len(self.line))
        elif kind == "lose":  # the line lost something: the shell subscribes anew
            self.line.clear()
            self.do(self.view.live(tuple(owner(address) for address, *_ in self.owners)))
        elif kind == "relive":
            self.deliver()
            self.do(self.view.live(tuple(owner(address) for address, *_ in self.owners)))
        elif kind in ("restart", "overlap"):
            gone = self.owners.pop(0)[0] if kind == "restart" or len(self.owners) > 1 else None
            if gone is not None:
                self.news(left(gone))
            self.start()
            self.news(came(self.owners[-1][0]))
        elif kind == "answer" and self.asked:
            self.answer()
        elif kind == "fail" and self.asked:
            self.do(self.view.failed(self.asked.pop(0)))
        elif kind == "deliver":
            self.deliver()


@SEARCH
@given(STEPS)
def test_after_quiet_the_view_equals_the_owners_state(steps):
    world = World()
    for kind, subject in steps:
        world.step(kind, subject)
    world.deliver()
    while world.asked:
        world.answer()
    assert world.seen == {subject: value for subject, (_, value) in world.owners[-1][2].items()}


def seen(actions):
    return [(principal(one.address), one.present, one.heard) for one in actions if isinstance(one, OwnerSeen)]


def test_who_asks_is_told_where_each_owner_stands():
    view, me = View("x.*", owners=True), principal(A)
    actions = view.live((owner(A),))
    assert seen(actions) == [(me, True, False)]
    [fetch] = fetches(actions)
    assert seen(view.item(A, event("x.one", 1))) == []
    assert seen(view.snapshot(fetch, "e1", 1, items(one=1))) == [(me, True, True)]
    [again] = fetches(view.owner_changed(came(B)))
    assert seen(view.owner_changed(left(A))) == [(me, True, False)]
    assert seen(view.snapshot(again, "e2", 1, [])) == [(me, True, True)]
    assert seen(view.owner_changed(left(B))) == [(me, False, False)]
    assert seen(view.live(())) == []


def test_an_owner_that_is_not_attached_any_more_after_a_break_is_told():
    view = View("x.*", owners=True)
    [fetch] = fetches(view.live((owner(A),)))
    view.snapshot(fetch, "e1", 1, [])
    assert seen(view.live(())) == [(principal(A), False, False)]


def test_a_snapshot_says_nothing_beyond_what_its_owner_may_own():
    view = View(">")
    [fetch] = fetches(view.live((owner(A),)))
    foreign = SnapshotItem(subject="y.one", rev=1, type="t.v1", value=body({"v": 1}))
    assert told(view.snapshot(fetch, "e1", 1, [*items(one=1), foreign])) == [("x.one", True)]
