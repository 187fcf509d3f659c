"""Anything at all from a peer, before and after its greeting: the switch refuses or obeys, and goes on."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from manor_bus.wire import codec
from manor_bus.wire.envelope import Down
from manor_bus.wire.envelope import Kind as Frame
from tests.testkit.bench import Bench
from tests.testkit.chance import SEARCH

TEXT = st.one_of(
    st.text(max_size=5),
    st.sampled_from(["config.get", "bus.stats", "bus.peers", "x", "1", "operation.a", ">", "config.get@n1",
                     "operator/admin@n1/i1", "service/config@n1/i2", "srv.info@n1/i2"]),
)  # fmt: skip
NUMBER = st.integers(-1, 2**64 - 1)
SCALAR = st.one_of(st.none(), st.booleans(), NUMBER, st.floats(), TEXT, st.binary(max_size=5))
ANYTHING = st.recursive(
    SCALAR, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3))
)
KNOWN = st.fixed_dictionaries(
    {"k": st.one_of(st.integers(0, 20), SCALAR)},
    optional={
        "id": TEXT, "to": TEXT, "re": TEXT, "subject": TEXT, "timeout": NUMBER, "deadline": NUMBER,
        "data": st.one_of(
            ANYTHING,
            st.fixed_dictionaries(
                {},
                optional={
                    "sid": NUMBER, "messages": NUMBER, "size": NUMBER, "window": NUMBER, "tap": st.booleans(),
                    "policy": TEXT, "pattern": TEXT, "limit": NUMBER, "address": TEXT, "instance": TEXT,
                    "protocol": st.tuples(NUMBER, NUMBER), "serves": st.lists(TEXT, max_size=3),
                },
            ),
        ),
        "err": ANYTHING, "epoch": TEXT, "rev": NUMBER, "own": ANYTHING,
    },
)  # fmt: skip
FRAME = st.one_of(
    st.binary(max_size=40),
    KNOWN.map(codec.encode),
    st.builds(lambda frame, cut: frame[:cut], KNOWN.map(codec.encode), st.integers(0, 60)),
)


def lively(bench, asker, service):
    """Whether two honest peers can still talk."""
    asker.ask("config.get", "still", timeout=500)
    service.reply(asker.address, "still")
    return (asker.last().k, asker.last().re) == (Frame.REP, "still")


@settings(SEARCH, max_examples=300)
@given(st.lists(st.tuples(st.booleans(), FRAME), max_size=12))
def test_no_frame_harms_anybody_but_its_sender(script):
    bench = Bench()
    service = bench.join("service/config", ("config.>",))
    asker = bench.join()
    for greet, frame in script:
        hostile = bench.connect("operator/mallory")
        if greet:
            hostile.hello(f"m{len(bench.hands)}")
        hostile.say_bytes(frame)
        bench.flush()
        for one in bench.hands.values():
            for down in one.frames[-3:]:
                codec.decode(down, Down)  # nothing it says makes the broker send what cannot be read
    assert not service.cut
    assert not asker.cut
    assert lively(bench, asker, service)
    bench.wait(3.0)
    assert lively(bench, asker, service)


@settings(SEARCH, max_examples=100)
@given(st.lists(FRAME, min_size=1, max_size=30))
def test_one_session_may_say_anything_for_as_long_as_it_likes(frames):
    bench = Bench()
    hostile = bench.join("operator/mallory")
    for number, frame in enumerate(frames):
        hostile.say_bytes(frame)
        if hostile.cut:
            hostile = bench.connect("operator/mallory")
            hostile.hello(f"again{number}")
        bench.flush()
        bench.wait(0.3)
    assert bench.switch.outbox.counters["frames"] >= len(frames)


def test_the_broker_passes_a_body_on_whatever_is_in_it_and_its_own_answers_check_theirs():
    bench = Bench()
    caller, service = bench.join(), bench.join("service/config", ("config.>",))
    twice = b"\x82\xa1a\x01\xa1a\x02"
    caller.ask("config.get", data=msgspec.Raw(twice))
    assert bytes(service.downs[-1].items[0].envelope.data) == twice
    caller.ask("bus.stats", "r2", data=msgspec.Raw(twice))
    assert "twice" in caller.error().message
    assert not caller.cut


def test_a_poisoned_envelope_reaches_nobody():
    """One whose known keys have wrong types would break the whole batch for its readers."""
    bench = Bench()
    service, watcher = bench.join("service/lifecycle"), bench.join()
    watcher.subscribe("operation.*")
    service.say_bytes(codec.encode({"k": 7, "subject": "operation.a", "source": 5}))
    bench.flush()
    assert service.cut
    assert watcher.subjects() == []


def test_what_was_refused_is_answered_with_the_reason_and_without_its_content():
    bench = Bench()
    hostile = bench.join()
    hostile.say_bytes(codec.encode({"k": "secret"}))
    assert "secret" not in hostile.error().message
    assert hostile.last().k == Frame.RESET
