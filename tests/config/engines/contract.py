"""The contract of every engine: test functions that each engine's own test file collects.

An engine's test file provides the fixture `open_engine`: an async context manager that opens the same store
again each time it is entered.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manor_bus.wire.errors import Kind, ManorError
from manor_config.engines import tables
from manor_config.engines.sqlite import Engine, check_copy, connect
from manor_config.revision import PAGE_BYTES_MAX, Entry, Feed, Guard, Outcome, Row, Transaction, Write

Open = Callable[[], AbstractAsyncContextManager[Engine]]


async def watch(engine: Engine, prefix: str, since: int) -> AsyncIterator[Feed]:
    """Yield every change after `since` for ever: no gap, no duplicate, in order, a revision never split.

    Resume with the `revision` of the last feed seen. Ends only by `stale`: then read everything again.
    """
    while True:
        feed = await engine.changes(prefix, since)
        if feed.entries:
            yield feed
        since = feed.revision
        if not feed.more:
            await engine.moved(since)


def nameless(value: bytes) -> str:
    """Values of these tests are no documents."""
    return ""


def put(*pairs: tuple[str, bytes | None], guards: tuple[Guard, ...] = (), op_id: str = "") -> Transaction:
    return Transaction(guards, tuple(Write(*pair) for pair in pairs), op_id=op_id, note=b"by me", at=7.0)


async def everything(engine: Engine, prefix: str = "") -> dict[str, Row]:
    rows: list[Row] = []
    while True:
        page = await engine.range(prefix, after=rows[-1].key if rows else "", limit=3)
        rows += page.rows
        if not page.more:
            return {row.key: row for row in rows}


async def follow(engine: Engine, since: int, until: int, prefix: str = "") -> list[Feed]:
    feeds: list[Feed] = []
    async for feed in watch(engine, prefix, since):
        feeds.append(feed)
        if feed.revision >= until:
            break
    return feeds


# --- transactions


async def test_a_new_store_is_empty_and_at_revision_zero(open_engine: Open) -> None:
    async with open_engine() as engine:
        assert engine.revision == 0
        assert await everything(engine) == {}
        assert await engine.recall("nothing") is None


async def test_a_put_is_there_with_its_revisions(open_engine: Open) -> None:
    async with open_engine() as engine:
        assert await engine.txn(put(("a/x", b"1"))) == Outcome(True, 1, note=b"by me")
        assert await engine.txn(put(("a/x", b"2"), ("a/y", b""))) == Outcome(True, 2, note=b"by me")
        assert (await engine.range("a/")).rows == (Row("a/x", b"2", 2, 1, 2), Row("a/y", b"", 2, 2, 1))


async def test_guards_that_hold_let_everything_happen(open_engine: Open) -> None:
    async with open_engine() as engine:
        await engine.txn(put(("k", b"1")))
        guards = (Guard("k", revision=1), Guard("k", value=b"1"), Guard("absent", revision=0))
        assert (await engine.txn(put(("k", None), ("l", b"2"), guards=guards))).succeeded
        assert list(await everything(engine)) == ["l"]


@pytest.mark.parametrize(
    "guard",
    [
        Guard("k", revision=2),
        Guard("k", revision=0),
        Guard("k", value=b"2"),
        Guard("absent", revision=1),
        Guard("absent", value=b""),
        Guard("k", revision=1, value=b"2"),
    ],
)
async def test_one_guard_that_does_not_hold_lets_nothing_happen(open_engine: Open, guard: Guard) -> None:
    async with open_engine() as engine:
        await engine.txn(put(("k", b"1")))
        outcome = await engine.txn(put(("l", b"2"), ("k", None), guards=(Guard("k", revision=1), guard)))
        assert outcome == Outcome(False, 1, (Row("k", b"1", 1, 1, 1),))
        assert list(await everything(engine)) == ["k"]
        assert engine.revision == 1


async def test_what_changes_nothing_takes_no_revision(open_engine: Open) -> None:
    async with open_engine() as engine:
        assert await engine.txn(put(("absent", None))) == Outcome(True, 0)
        assert await engine.txn(Transaction(guards=(Guard("absent", revision=0),))) == Outcome(True, 0)


async def test_a_deleted_key_begins_anew(open_engine: Open) -> None:
    async with open_engine() as engine:
        for value in (b"1", None, b"2"):
            await engine.txn(put(("k", value)))
        assert (await everything(engine))["k"] == Row("k", b"2", 3, 3, 1)


async def test_only_one_of_many_racing_for_a_key_wins(open_engine: Open) -> None:
    async with open_engine() as engine:
        free = (Guard("leader", revision=0),)
        racing = [engine.txn(put(("leader", b"%d" % n), guards=free)) for n in range(30)]
        outcomes = await asyncio.gather(*racing)
        assert [outcome.succeeded for outcome in outcomes].count(True) == 1
        winner = next(n for n, outcome in enumerate(outcomes) if outcome.succeeded)
        assert (await everything(engine))["leader"].value == b"%d" % winner


# --- idempotence


async def test_an_op_id_has_one_effect_and_the_first_answer(open_engine: Open) -> None:
    async with open_engine() as engine:
        first = await engine.txn(put(("k", b"1"), op_id="op"))
        await engine.txn(put(("k", b"2")))
        again = await engine.txn(put(("k", b"1"), op_id="op"))
        assert again == Outcome(True, first.revision, repeated=True, note=b"by me")
        assert await engine.recall("op") == again
        assert (await everything(engine))["k"].value == b"2"
        assert engine.revision == 2


async def test_repetitions_at_the_same_time_have_one_effect(open_engine: Open) -> None:
    async with open_engine() as engine:
        outcomes = await asyncio.gather(*(engine.txn(put(("k", b"1"), op_id="op")) for _ in range(9)))
        assert {outcome.revision for outcome in outcomes} == {1}
        assert [outcome.repeated for outcome in outcomes].count(False) == 1


async def test_a_refused_transaction_leaves_its_op_id_free(open_engine: Open) -> None:
    async with open_engine() as engine:
        refused = await engine.txn(put(("k", b"1"), guards=(Guard("g", revision=9),), op_id="op"))
        assert not refused.succeeded
        assert (await engine.txn(put(("k", b"1"), op_id="op"))).revision == 1


# --- reading


async def test_a_range_is_cut_into_pages_in_order(open_engine: Open) -> None:
    async with open_engine() as engine:
        names = [f"p/{n:02}" for n in range(10)]
        await engine.txn(put(*((name, b"v") for name in reversed(names)), ("q", b""), ("o", b"")))
        page = await engine.range("p/", limit=4)
        assert ([row.key for row in page.rows], page.more) == (names[:4], True)
        page = await engine.range("p/", after=names[3], limit=6)
        assert ([row.key for row in page.rows], page.more) == (names[4:], False)


async def test_a_page_never_exceeds_a_frame(open_engine: Open) -> None:
    async with open_engine() as engine:
        for n in range(5):
            await engine.txn(put((f"k{n}", bytes(250_000))))
        page = await engine.range("k")
        assert page.more
        assert sum(len(row.value) for row in page.rows) <= PAGE_BYTES_MAX
        feed = await engine.changes("", 0)
        assert feed.more
        assert sum(len(entry.value or b"") for entry in feed.entries) <= PAGE_BYTES_MAX
        assert len(await everything(engine)) == 5
        assert [entry.key for feed in await follow(engine, 0, 5) for entry in feed.entries] == [
            f"k{n}" for n in range(5)
        ]


async def test_a_key_is_read_as_it_was(open_engine: Open) -> None:
    async with open_engine() as engine:
        for value in (b"1", None, b"3"):
            await engine.txn(put(("k", value)))
        await engine.txn(put(("other", b"")))
        values = [(await engine.at("k", revision)) for revision in range(5)]
        assert [entry.value if entry else "absent" for entry in values] == ["absent", b"1", None, b"3", b"3"]
        with pytest.raises(ManorError) as refusal:
            await engine.at("k", 5)
        assert refusal.value.kind is Kind.STALE


async def test_the_past_of_a_key_comes_newest_first_with_the_notes(open_engine: Open) -> None:
    async with open_engine() as engine:
        for value in (b"1", b"2", None):
            await engine.txn(put(("k", value), ("other", b"")))
        past = await engine.past("k", 2, nameless)
        assert [(known.entry.revision, known.entry.value) for known in past] == [(3, None), (2, b"2")]
        assert {known.note for known in past} == {b"by me"}
        assert await engine.past("never", 5, nameless) == ()


# --- changes: the nine watch validators of etcd's robustness tests are named where they are checked


async def test_changes_wait_and_wake(open_engine: Open) -> None:
    async with open_engine() as engine:
        following = asyncio.ensure_future(follow(engine, 0, 2))
        await engine.txn(put(("a", b"1")))
        await engine.txn(put(("b", b"2")))
        feeds = await asyncio.wait_for(following, 5)
        assert [entry.key for feed in feeds for entry in feed.entries] == ["a", "b"]


async def test_changes_under_other_prefixes_are_passed_over(open_engine: Open) -> None:
    async with open_engine() as engine:
        await engine.txn(put(("a/1", b""), ("b/1", b"")))
        await engine.txn(put(("b/2", b"")))
        feed = await engine.changes("a/", 0)
        assert [entry.key for entry in feed.entries] == ["a/1"]
        assert feed.revision == 2


async def test_a_revision_is_never_split(open_engine: Open) -> None:
    async with open_engine() as engine:
        for n in range(3):
            await engine.txn(put(*((f"k{n}/{m}", b"v") for m in range(4))))
        feed = await engine.changes("", 0, limit=6)
        assert (len(feed.entries), feed.revision, feed.more) == (4, 1, True)
        assert (await engine.changes("", 1, limit=1)).entries[-1].revision == 2


async def test_compacted_changes_say_so(open_engine: Open) -> None:
    async with open_engine() as engine:
        for n in range(6):
            await engine.txn(put((f"k{n % 2}", b"%d" % n), ("gone", b"" if n < 2 else None), op_id=f"op{n}"))
        await engine.compact(4)
        assert await engine.compacted() == 4
        with pytest.raises(ManorError) as refusal:
            await engine.changes("", 3)
        assert refusal.value.kind is Kind.STALE
        assert "compacted" in refusal.value.message
        assert refusal.value.hint
        with pytest.raises(ManorError, match="compacted"):
            await engine.at("k0", 3)
        assert [entry.revision for entry in (await engine.changes("", 4)).entries] == [5, 6]
        # Every key can be read at the compacted revision and after it, and nothing else is left.
        for revision, k0, k1 in ((4, b"2", b"3"), (5, b"4", b"3"), (6, b"4", b"5")):
            values = [await engine.at(key, revision) for key in ("k0", "k1", "gone")]
            assert [entry.value if entry else None for entry in values] == [k0, k1, None]
        assert await engine.past("gone", 9, nameless) == ()
        assert await engine.recall("op3") is None
        assert await engine.recall("op4") is not None


async def test_compaction_does_not_reach_into_the_future(open_engine: Open) -> None:
    async with open_engine() as engine:
        await engine.txn(put(("k", b"1")))
        await engine.compact(99)
        await engine.compact(0)
        assert await engine.compacted() == 1
        assert (await engine.changes("", 1)).entries == ()


async def test_a_watcher_of_the_future_is_told(open_engine: Open) -> None:
    async with open_engine() as engine:
        with pytest.raises(ManorError) as refusal:
            await engine.changes("", 1)
        assert refusal.value.kind is Kind.STALE


# --- a model in ten lines, against all of it

KEYS = st.sampled_from(["a", "a/b", "b", "c"])
VALUES = st.none() | st.sampled_from([b"", b"1", b"2"])
# (key, whether its revision is right, whether its value is compared too, the value)
GUARDS = st.lists(st.tuples(KEYS, st.sampled_from([True, True, False]), st.booleans(), VALUES), max_size=2)
WRITES = st.dictionaries(KEYS, VALUES, max_size=4)
STEPS = st.lists(
    st.tuples(st.just("txn"), GUARDS, WRITES, st.sampled_from(["", "", "op1", "op2"]))
    | st.tuples(st.just("compact"), st.integers(0, 12))
    | st.tuples(st.just("reopen")),
    max_size=14,
)


def _guards(present: dict[str, tuple[bytes, int]], drawn: list[Any]) -> tuple[Guard, ...]:
    return tuple(
        Guard(key, present.get(key, (b"", 0))[1] + (not right), value if compared else None)
        for key, right, compared, value in drawn
    )


def _expected(present: dict[str, tuple[bytes, int]], drawn: list[Any]) -> bool:
    return all(
        right and (not compared or value is None or present.get(key, (None, 0))[0] == value)
        for key, right, compared, value in drawn
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, cut=st.integers(0, 14))
def test_any_sequence_agrees_with_the_model_and_every_watcher_sees_it(
    fresh_store: Callable[[], Open], steps: list[tuple[object, ...]], cut: int
) -> None:
    asyncio.run(_compare_with_model(fresh_store(), steps, cut))


async def _compare_with_model(open_engine: Open, steps: list[tuple[object, ...]], cut: int) -> None:
    present: dict[str, tuple[bytes, int]] = {}
    history: list[tuple[int, str, bytes | None]] = []
    ops: dict[str, int] = {}
    revision = floor = 0
    keeper = open_engine()
    engine = await keeper.__aenter__()
    for step in steps:
        match step:
            case ("compact", int() as upto):
                await engine.compact(upto)
                floor = max(floor, min(upto, revision))
                ops = {op_id: known for op_id, known in ops.items() if known > floor}
            case ("txn", list() as drawn, dict() as writes, str() as op_id):
                guards = _guards(present, drawn)
                outcome = await engine.txn(
                    Transaction(guards, tuple(Write(*pair) for pair in writes.items()), op_id=op_id)
                )
                if op_id in ops:
                    assert outcome == Outcome(True, ops[op_id], repeated=True)
                    continue
                assert outcome.succeeded == _expected(present, drawn)
                real = {k: v for k, v in writes.items() if v is not None or k in present}
                if outcome.succeeded and real:
                    revision += 1
                    if op_id:
                        ops[op_id] = revision
                for key, value in real.items() if outcome.succeeded else ():
                    history.append((revision, key, value))
                    present.pop(key, None)
                    if value is not None:
                        present[key] = (value, revision)
                assert outcome.revision == revision
            case _:
                await keeper.__aexit__(None, None, None)
                keeper = open_engine()
                engine = await keeper.__aenter__()
                if engine.revision == 0:  # an engine that keeps nothing
                    break
    else:
        assert {k: (r.value, r.revision) for k, r in (await everything(engine)).items()} == present
        await _validate_watch(engine, history, floor, revision, max(floor, min(cut, revision)))
    await keeper.__aexit__(None, None, None)


async def _validate_watch(
    engine: Engine, history: list[tuple[int, str, bytes | None]], floor: int, revision: int, cut: int
) -> None:
    seen: list[Entry] = []
    for since, until in ((floor, cut), (cut, revision)):  # Resumable: the second watcher goes on
        for feed in await follow(engine, since, until) if until > since else ():
            assert feed.entries[-1].revision <= feed.revision  # Bookmarkable
            seen += [entry for entry in feed.entries if entry.revision <= until]
    numbered = [(entry.revision, entry.sub) for entry in seen]
    assert numbered == sorted(numbered)  # Ordered
    assert len(set(numbered)) == len(numbered)  # Unique
    assert [(e.revision, e.key, e.value) for e in seen] == [h for h in history if h[0] > floor]  # Reliable
    for number, of in itertools.groupby(seen, key=lambda entry: entry.revision):  # Atomic
        assert [entry.sub for entry in of] == list(range(len([h for h in history if h[0] == number])))
    for prefix in ("a", "b"):  # Filter
        filtered = (await engine.changes(prefix, floor)).entries
        assert [e.key for e in filtered] == [
            h[1] for h in history if h[0] > floor and h[1].startswith(prefix)
        ]
    for entry in seen:
        assert (entry.created == entry.revision) == (entry.version == 1)  # IsCreate
        before = await engine.at(entry.key, max(entry.revision - 1, floor))  # PrevKV
        absent = before is None or before.value is None
        assert absent == (entry.version == 1) or entry.value is None


# --- backup and restore


async def test_a_backup_restores_everything_and_watchers_must_read_again(
    open_engine: Open, tmp_path: Path
) -> None:
    async with open_engine() as engine:
        for value in (b"1", b"2", None):
            await engine.txn(put(("k", value), ("stays", value or b"3")))
        await engine.txn(put(("op", b""), op_id="op"))
        await engine.compact(1)
        assert await engine.backup(tmp_path / "copy") == 4
        assert check_copy(tmp_path / "copy").revision == 4
        await engine.txn(put(("stays", None), ("later", b"")))
        following = asyncio.ensure_future(engine.moved(5))
        assert await engine.restore(tmp_path / "copy", "upload-1") == 6
        await asyncio.wait_for(following, 5)
        assert engine.revision == 6
        assert await everything(engine) == {
            "stays": Row("stays", b"3", 3, 1, 3),
            "op": Row("op", b"", 4, 4, 1),
        }
        assert await engine.restored() == ("upload-1", 6)
        assert await engine.compacted() == 1
        assert (await engine.recall("op")) == Outcome(True, 4, repeated=True, note=b"by me")
        assert [known.entry.value for known in await engine.past("k", 9, nameless)] == [None, b"2", b"1"]
        with pytest.raises(ManorError, match="compacted"):
            await engine.changes("", 5)
        assert (await engine.changes("", 6)).entries == ()
        assert (await engine.txn(put(("k", b"")))).revision == 7


async def test_a_backup_of_one_engine_is_a_file_any_engine_can_read(
    open_engine: Open, tmp_path: Path
) -> None:
    async with open_engine() as engine:
        await engine.txn(put(("k", b"1")))
        await engine.backup(tmp_path / "copy")
    with closing(connect(tmp_path / "copy", mode="copy")) as connection:
        assert [row.key for row in tables.rows_under(connection, "", "")] == ["k"]
