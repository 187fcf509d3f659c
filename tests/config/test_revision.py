from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor_bus.wire import codec
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import config as m
from manor_config import revision as rev
from manor_config.revision import Entry, Guard, Outcome, Row, Transaction, Write

ROWS = {"a": Row("a", b"1", 5, 2, 3), "b": Row("b", b"2", 7, 7, 1)}


def entry(revision: int, sub: int = 0, key: str = "k", value: bytes | None = b"v") -> Entry:
    return Entry(revision, sub, key, value, revision, 1)


def test_a_transaction_writes_one_revision_with_numbered_entries() -> None:
    writes = (Write("a", b"new"), Write("b", None), Write("c", b"first"), Write("absent", None))
    outcome, entries = rev.decide(Transaction(writes=writes, note=b"n"), 9, ROWS.get)
    assert outcome == Outcome(True, 10, note=b"n")
    assert entries == (
        Entry(10, 0, "a", b"new", 2, 4),
        Entry(10, 1, "b", None, 7, 2),
        Entry(10, 2, "c", b"first", 10, 1),
    )
    assert [one.row() for one in entries] == [Row("a", b"new", 10, 2, 4), None, Row("c", b"first", 10, 10, 1)]


@pytest.mark.parametrize("guard", [Guard("a", 5), Guard("a", 5, b"1"), Guard("a", None, b"1"), Guard("x", 0)])
def test_a_guard_speaks_of_the_last_change_or_the_exact_value(guard: Guard) -> None:
    assert rev.decide(Transaction((guard,)), 9, ROWS.get)[0].succeeded


@pytest.mark.parametrize(
    "guard", [Guard("a", 2), Guard("a", 3), Guard("a", 5, b"2"), Guard("x", 1), Guard("a", 0)]
)
def test_a_guard_does_not_hold_for_anything_else(guard: Guard) -> None:
    assert not rev.decide(Transaction((guard,)), 9, ROWS.get)[0].succeeded


def test_a_refused_transaction_shows_each_compared_key_once() -> None:
    guards = (Guard("a", revision=5), Guard("a", value=b"no"), Guard("absent", revision=0))
    outcome, entries = rev.decide(Transaction(guards, (Write("a", b"x"),)), 9, ROWS.get)
    assert outcome == Outcome(False, 9, (ROWS["a"],))
    assert entries == ()


@given(st.lists(st.integers(1, 5), max_size=12), st.integers(1, 6), st.sampled_from([10, 300_000, 500_000]))
def test_pages_of_changes_join_to_everything_and_split_no_revision(
    sizes: list[int], limit: int, value: int
) -> None:
    everything = [
        entry(number, sub, value=bytes(value)) for number, size in enumerate(sizes, 1) for sub in range(size)
    ]
    since = 0
    joined: list[Entry] = []
    while True:
        feed = rev.whole_revisions((e for e in everything if e.revision > since), since, 99, limit)
        joined += feed.entries
        ends = {one.revision: one.sub for one in feed.entries}
        assert all(sub == sizes[number - 1] - 1 for number, sub in ends.items())
        since = feed.revision
        if not feed.more:
            break
        assert feed.entries
    assert joined == everything
    assert since == 99


def test_a_page_has_at_least_one_row_however_large() -> None:
    large = Row("a", bytes(rev.PAGE_BYTES_MAX + 1), 1, 1, 1)
    assert rev.page_of([large, ROWS["b"]], 7, 10) == rev.Page((large,), 7, True)


def test_history_goes_when_it_is_old_and_not_among_the_newest() -> None:
    samples = [(0.0, 100), (10.0, 200), (20.0, 300)]
    assert rev.compactable(samples, now=25, age_s=10, revision=400, keep=50) == 200
    assert rev.compactable(samples, now=25, age_s=10, revision=400, keep=250) == 150
    assert rev.compactable(samples, now=25, age_s=30, revision=400, keep=50) == 0
    assert rev.compactable([], now=25, age_s=0, revision=10, keep=50) == 0


@given(st.text("abc/\U0010fffe\x7e", min_size=1, max_size=3), st.text("abc/~", max_size=3))
def test_the_end_of_a_prefix_is_behind_all_its_keys(prefix: str, rest: str) -> None:
    assert prefix <= prefix + rest < rev.prefix_end(prefix)


def as_sent(message: Any) -> Any:
    return codec.decode(msgspec.Raw(codec.encode(message)), type(message))


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "a b", "a\n", "ä", "a/" * 200, "../a\0", "-a"])
def test_what_is_not_a_key_is_refused_by_name(key: str) -> None:
    for message, path in (
        (m.Txn(compares=(m.Compare(key=key, revision=0),)), "compares[0].key"),
        (m.Txn(puts=(m.Put(key=key, value=b""),)), "puts[0].key"),
        (m.Txn(removes=(m.Remove(key=key),)), "removes[0].key"),
    ):
        with pytest.raises(ManorError) as refusal:
            as_sent(message)
        assert refusal.value.kind is Kind.BAD_REQUEST
        assert [problem.path for problem in refusal.value.problems] == [path]


@pytest.mark.parametrize("key", ["a", "owner/web", "a/b.c:d@e+f-g", "settings/x_1", "x" * 256])
def test_keys_are_parts_joined_by_slashes(key: str) -> None:
    put = m.Txn(puts=(m.Put(key=key, value=b""),))
    assert as_sent(put) == put


@pytest.mark.parametrize(
    "message",
    [
        m.Txn(compares=(m.Compare(key="k", revision=-1),)),
        m.Txn(compares=(m.Compare(key="k", revision=1),) * 3000),
        m.Txn(puts=(m.Put(key="k", value=b""),) * 2000),
        m.Txn(puts=(m.Put(key="k", value=bytes(262_145)),)),
        m.Apply(documents=()),
        m.Apply(documents=({},) * 1_025),
        m.Delete(references=()),
        m.Delete(references=(m.Reference(kind="Domain", name="x"),) * 1_025),
        m.List(limit=0),
        m.Range(prefix="a b"),
        m.Range(prefix="", after="a\n"),
        m.Changes(since=0, prefix="x" * 257),
    ],
)
def test_limits_of_a_message_are_seen_before_it_is_answered(message: Any) -> None:
    with pytest.raises(ManorError) as refusal:
        as_sent(message)
    assert refusal.value.problems[0].path


@pytest.mark.parametrize(
    ("transaction", "path", "reason"),
    [
        (Transaction((Guard("k"),)), "compares", "compares nothing"),
        (Transaction(writes=(Write("k", b""), Write("k", None))), "key", "twice"),
        (Transaction(writes=tuple(Write(f"k{n}", b"") for n in range(2000))), "writes", "too many"),
        (
            Transaction(writes=tuple(Write(f"k{n}", bytes(250_000)) for n in range(4))),
            "writes",
            "bytes are too many",
        ),
    ],
)
def test_limits_of_a_transaction_are_named(transaction: Transaction, path: str, reason: str) -> None:
    with pytest.raises(ManorError) as refusal:
        rev.check_transaction(transaction)
    assert any(p.path == path and reason in p.reason for p in refusal.value.problems)
