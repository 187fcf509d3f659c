"""The connection machine: every pair of state and trigger, and each rule of the design page as a story."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor_bus.wire.messages.devices import Connect, ConnectionState, Descriptor, DeviceKey
from manor_bus.wire.messages.documents import Disk
from manor_devices.backends import Target
from manor_devices.connection import (
    STAMPED,
    Connection,
    Effect,
    Event,
    Trigger,
    Verdict,
    backoff,
    gives_up,
    timer,
)
from manor_devices.machine import ENTRY, RESTING, TABLE, allowed, step

S, T, V = ConnectionState, Trigger, Verdict

KEY = DeviceKey(uuid="u", incarnation=1, id="vda")
REQUEST = Connect(key=KEY, domain="web", type="disk", disk=Disk(id="vda", source="/x"))
PLACE = Descriptor(type="nbd", args={"path": "/s"})
OTHER_PLACE = Descriptor(type="nbd", args={"path": "/t"})


def connection(state=S.ABSENT, **fields):
    defaults = {"generation": 3, "epoch": 2, "descriptor": PLACE}
    return Connection(request=REQUEST, target=Target("nbd"), state=state, **{**defaults, **fields})


def event(trigger, **fields):
    defaults = {"generation": 3} if trigger in STAMPED else {}
    return Event(trigger, **{**defaults, **fields})


def run(start, *events):
    for one in events:
        outcome = step(start, one if isinstance(one, Event) else event(one))
        assert outcome.verdict is V.DONE, (start.state, one)
        start = outcome.connection
    return start


# ---- Every pair --------------------------------------------------------------------------------------------

PAIRS = list(product(S, T))


@pytest.mark.parametrize(("state", "trigger"), PAIRS)
def test_every_pair_does_what_its_row_says_and_nothing_else(state, trigger):
    for attached, pending, leaving, alive in product((False, True), repeat=4):
        before = connection(state, attached=attached, pending=pending, leaving=leaving)
        epoch = 5 if alive and trigger in (T.ATTACH, T.PROVIDER_UP) else 0
        happened = event(trigger, epoch=epoch, descriptor=PLACE)
        outcome = step(before, happened)
        rows = TABLE.get((state, trigger), ())
        row = next((row for row in rows if not row.guard or row.guard(before, happened)), None)
        if row is None:
            assert (outcome.verdict, outcome.connection, outcome.effect) == (V.DENIED, before, None)
        elif row.target is None:
            assert (outcome.verdict, outcome.connection, outcome.effect) == (V.ALREADY, before, None)
        else:
            assert (outcome.verdict, outcome.connection.state) == (V.DONE, row.target)
            assert outcome.effect is ENTRY.get(row.target)
            assert outcome.connection.generation == before.generation + (row.target is S.REQUESTED)


@pytest.mark.parametrize(("state", "trigger"), PAIRS)
def test_an_old_generation_or_epoch_changes_nothing(state, trigger):
    if trigger in STAMPED or trigger is T.PROVIDER_LOST:
        before = connection(state)
        for old in (event(trigger, generation=2), event(trigger, generation=3, epoch=1)):
            assert step(before, old).verdict is V.STALE
            assert step(before, old).connection == before


# ---- No limbo ----------------------------------------------------------------------------------------------

OUTCOMES = {
    Effect.REQUEST: (T.ACCEPTED, T.PREPARE_FAILED, T.PROVIDER_LOST),
    Effect.PREPARE: (T.PREPARED, T.PREPARE_FAILED, T.PROVIDER_LOST),
    Effect.RELEASE: (T.RELEASED, T.RELEASE_FAILED, T.PROVIDER_LOST),
    Effect.ASK: (T.PROVIDER_UP,),
    Effect.SETTLE: (T.SETTLE,),
}


@pytest.mark.parametrize("state", S)
def test_every_outcome_of_what_we_do_in_a_state_leaves_it(state):
    if state in ENTRY:
        for trigger in OUTCOMES[ENTRY[state]]:
            targets = {row.target for row in TABLE[state, trigger]}
            assert state not in targets
            assert state is S.WAITING or None not in targets


@pytest.mark.parametrize("state", sorted(set(S) - RESTING))
@pytest.mark.parametrize("leaving", [False, True])
def test_a_state_that_is_not_at_rest_ends_by_our_own_doing(state, leaving):
    assert state in ENTRY or timer(connection(state, leaving=leaving)) is not None


def test_a_release_that_failed_is_tried_again():
    failed = run(connection(S.CLOSED), Event(T.RELEASE_FAILED, generation=3, reason="busy"))
    assert (failed.state, failed.leaving, failed.reason) == (S.FAILED, True, "busy")
    assert timer(failed)
    assert run(failed, T.TIMEOUT, T.RELEASED).state is S.ABSENT


@pytest.mark.parametrize("state", sorted(set(S) - {S.ABSENT}))
@pytest.mark.parametrize("trigger", [T.DETACH_FORCE, T.DOMAIN_GONE, T.FRONT_RELEASED])
def test_force_the_end_of_the_run_and_a_closed_front_end_lead_out_of_every_state(state, trigger):
    outcome = step(connection(state, attached=True), event(trigger))
    assert outcome.connection.state is S.CLOSED


# ---- The rules ---------------------------------------------------------------------------------------------


def connected(**fields):
    return connection(S.CONNECTED, attached=True, **fields)


def test_d1_a_device_without_a_provider_waits_visibly_and_goes_on_when_one_comes():
    waiting = run(connection(generation=0, epoch=0), Event(T.ATTACH, reason="no provider nbd"))
    assert (waiting.state, waiting.reason, waiting.generation) == (S.WAITING, "no provider nbd", 0)
    asked = run(waiting, Event(T.PROVIDER_UP, epoch=7))
    assert (asked.state, asked.epoch, asked.generation) == (S.REQUESTED, 7, 1)


def test_d2_a_failed_preparation_leaves_nothing_and_says_why():
    failed = run(
        connection(S.PREPARING, notes={"x": "y"}), Event(T.PREPARE_FAILED, generation=3, reason="busy")
    )
    assert (failed.state, failed.reason, failed.descriptor, failed.notes) == (S.FAILED, "busy", None, {})
    assert run(failed, Event(T.ATTACH, epoch=2)).generation == 4


@pytest.mark.parametrize("way", [(T.FRONT_CONNECTING, T.FRONT_CONNECTED), (T.FRONT_CONNECTED,)])
def test_d3_d4_a_front_end_may_skip_connecting(way):
    both = run(connection(S.READY), *way)
    assert (both.state, both.attached) == (S.CONNECTED, True)


def test_d5_a_refused_detach_puts_the_device_back_with_the_reason():
    back = run(connected(), T.DETACH_SAFE, Event(T.FRONT_REFUSED, generation=3, reason="in use"), T.SETTLE)
    assert (back.state, back.reason, back.attached) == (S.CONNECTED, "in use", True)


def test_d5_a_guest_that_never_answers_a_detach_keeps_the_device():
    closing = run(connected(), T.DETACH_SAFE)
    assert timer(closing)
    back = run(closing, T.TIMEOUT, T.SETTLE)
    assert back.state is S.CONNECTED
    assert "did not answer" in back.reason


def test_d5_a_pending_detach_completes_when_the_guest_lets_go_later():
    refused = Event(T.FRONT_REFUSED, generation=3, reason="mounted", pending=True)
    pending = run(connected(), T.DETACH_SAFE, refused, T.SETTLE)
    assert (pending.state, pending.reason) == (S.DETACH_PENDING, "mounted")
    assert run(pending, T.FRONT_RELEASED, T.RELEASED).state is S.ABSENT
    assert run(pending, T.ATTACH).state is S.CONNECTED
    orphan = run(pending, T.PROVIDER_LOST, Event(T.PROVIDER_UP, epoch=4), Event(T.ACCEPTED, generation=4))
    assert run(orphan, Event(T.PREPARED, generation=4, descriptor=PLACE)).state is S.DETACH_PENDING


def test_d5_a_front_end_that_closes_by_itself_is_released():
    assert run(connected(), T.FRONT_RELEASED).state is S.CLOSED


@pytest.mark.parametrize("trigger", [T.FRONT_RELEASED, T.FRONT_REFUSED])
@pytest.mark.parametrize(("generation", "verdict"), [(2, V.STALE), (3, V.DONE), (4, V.DONE), (5, V.STALE)])
def test_d5_a_front_end_that_has_not_heard_of_a_reconnect_may_let_go_and_an_earlier_one_may_not(
    trigger, generation, verdict
):
    came = run(connection(S.READY), T.FRONT_CONNECTING, T.FRONT_CONNECTED)
    again = [Event(T.PROVIDER_UP, epoch=4), Event(T.ACCEPTED, generation=4)]
    back = run(
        came, T.PROVIDER_LOST, *again, Event(T.PREPARED, generation=4, descriptor=PLACE), T.DETACH_SAFE
    )
    assert (back.since, back.generation) == (3, 4)
    assert step(back, Event(trigger, generation=generation)).verdict is verdict
    assert step(back, Event(T.FRONT_CONNECTED, generation=3)).verdict is V.STALE


def test_d7_a_provider_that_died_while_releasing_took_the_resource_with_it():
    assert run(connection(S.CLOSED), T.PROVIDER_LOST).state is S.ABSENT


def test_d8_a_lost_provider_that_returns_to_the_same_place_reconnects_by_itself():
    orphan = run(connected(), Event(T.PROVIDER_LOST, reason="killed"))
    assert (orphan.state, orphan.epoch, orphan.reason) == (S.ORPHANED, 0, "killed")
    preparing = run(orphan, Event(T.PROVIDER_UP, epoch=9), Event(T.ACCEPTED, generation=4, epoch=9))
    late = Event(T.PREPARED, generation=3, epoch=2, descriptor=PLACE)
    assert step(preparing, late).verdict is V.STALE
    back = run(preparing, Event(T.PREPARED, generation=4, epoch=9, descriptor=PLACE))
    assert (back.state, back.generation, back.epoch, back.attached) == (S.CONNECTED, 4, 9, True)
    assert run(back, Event(T.TIMEOUT, generation=4)).attempts == 0


def test_d8_a_provider_that_returns_elsewhere_needs_the_front_end_to_be_plugged_again():
    preparing = connection(S.PREPARING, attached=True)
    ready = run(preparing, Event(T.PREPARED, generation=3, descriptor=OTHER_PLACE))
    assert (ready.state, ready.descriptor) == (S.READY, OTHER_PLACE)


def test_d8_a_failed_reconnect_is_tried_again_ever_more_slowly():
    failed = run(connection(S.PREPARING, attached=True, attempts=1), Event(T.PREPARE_FAILED, generation=3))
    assert (failed.state, failed.attempts) == (S.ORPHANED, 2)
    waits = [backoff(attempts) for attempts in range(1, 12)]
    assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_d8_an_orphan_whose_policy_is_detach_is_given_up():
    request = replace_disk(on_provider_loss="detach")
    orphan = run(replace(connected(), request=request), T.PROVIDER_LOST)
    assert gives_up(orphan)
    assert not gives_up(run(connected(), T.PROVIDER_LOST))
    assert run(orphan, T.GIVE_UP, T.TIMEOUT, T.RELEASED).state is S.ABSENT


def replace_disk(**fields):
    disk = Disk(id="vda", source="/x", **fields)
    return Connect(key=KEY, domain="web", type="disk", disk=disk)


def test_d8_a_detach_begun_while_reconnecting_does_not_end_in_a_dead_connection():
    closing = run(connection(S.PREPARING, attached=True), T.DETACH_SAFE)
    assert (closing.state, closing.epoch) == (S.CLOSING, 0)
    assert run(closing, T.FRONT_REFUSED, T.SETTLE).state is S.ORPHANED


def test_d9_a_resource_that_went_away_takes_the_device_with_it_in_bounded_time():
    broken = run(connected(), Event(T.RESOURCE_GONE, generation=3, reason="unplugged"))
    assert (broken.state, broken.reason) == (S.BROKEN, "unplugged")
    assert run(broken, T.TIMEOUT, T.RELEASED).state is S.ABSENT


def test_d10_the_end_of_the_run_may_be_told_twice():
    closed = run(connected(), T.DOMAIN_GONE)
    assert step(closed, event(T.DOMAIN_GONE)).verdict is V.ALREADY
    assert step(run(closed, T.RELEASED), event(T.DOMAIN_GONE)).verdict is V.ALREADY


def test_d11_other_settings_are_not_reconfigured_and_change_nothing():
    assert step(connected(), event(T.RECONFIGURE)).verdict is V.DENIED


@pytest.mark.parametrize(
    ("state", "found", "missing"),
    [
        (S.CONNECTED, S.CONNECTED, S.ORPHANED),
        (S.READY, S.READY, S.ORPHANED),
        (S.DETACH_PENDING, S.DETACH_PENDING, S.ORPHANED),
        (S.PREPARING, S.ORPHANED, S.ORPHANED),
        (S.CLOSED, S.CLOSED, S.CLOSED),
        (S.CLOSING, S.CLOSING, S.CLOSING),
    ],
)
def test_d12_after_a_restart_what_is_there_stays_and_what_is_not_is_made_again(state, found, missing):
    before = connection(state, attached=True)
    assert step(before, event(T.FOUND)).connection.state is found
    assert step(before, event(T.MISSING)).connection.state is missing


def test_d12_a_request_interrupted_by_a_restart_is_made_again_with_a_new_generation():
    again = run(connection(S.PREPARING), T.MISSING, Event(T.PROVIDER_UP, epoch=2))
    assert (again.state, again.generation) == (S.REQUESTED, 4)


def test_what_is_allowed_in_a_state_can_be_told():
    assert allowed(S.CLOSED) == ("detach-safe", "detach-force")
    assert "attach" not in allowed(S.CLOSING)


# ---- Any history -------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(T), st.integers(-1, 0), st.booleans(), st.booleans())))
def test_in_any_history_the_generation_grows_and_nobody_serves_without_an_epoch(history):
    now = connection(generation=0, epoch=0, descriptor=None)
    for trigger, older, with_epoch, pending in history:
        new = trigger in (T.ATTACH, T.PROVIDER_UP)
        happened = Event(
            trigger,
            generation=now.generation + older,
            epoch=now.epoch + 1 if new and with_epoch else 0,
            pending=pending,
            descriptor=PLACE,
        )
        after = step(now, happened).connection
        assert after.generation in (now.generation, now.generation + 1)
        assert (after.generation > now.generation) == (
            after.state is S.REQUESTED and now.state is not S.REQUESTED
        )
        assert after.state is not S.ORPHANED or after.epoch == 0
        assert after.state is not S.ABSENT or (after.descriptor, after.claims, after.attached) == (
            None,
            (),
            False,
        )
        now = after
