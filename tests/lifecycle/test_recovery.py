from __future__ import annotations

from typing import Any

import pytest

from manor_bus.wire.errors import ErrorBody, Kind
from manor_bus.wire.messages.config import OwnerRecord
from manor_bus.wire.messages.lifecycle import State
from manor_lifecycle.hypervisors import EndReason, GuestState, RunningDomain
from manor_lifecycle.ledger import Begun, Ledger, Lived, Open, Stepped, Turned
from manor_lifecycle.plan import Act
from manor_lifecycle.recovery import ATTEMPTS_MAX, Witnesses, recover

FAILURE = ErrorBody(kind=Kind.TIMEOUT, message="too late")


def seen(**witnesses: Any) -> Witnesses:
    return Witnesses(node="n1", boot_id="b1", **witnesses)


def listed(
    incarnation: int = 3, state: GuestState = GuestState.RUNNING, ended: EndReason | None = None
) -> RunningDomain:
    return RunningDomain(uuid="u1", name="web", incarnation=incarnation, state=state, ended=ended)


def lived(incarnation: int = 3, **more: Any) -> Lived:
    return Lived(uuid="u1", name="web", incarnation=incarnation, boot_id="b1", **more)


def record(incarnation: int = 3, **more: Any) -> OwnerRecord:
    return OwnerRecord(node="n1", incarnation=incarnation, **more)


def interrupted(
    kind: str,
    *,
    steps: int = 0,
    incarnation: int = 0,
    turned: bool = False,
    attempt: int = 1,
    before: State = State.DEFINED,
) -> Open:
    ledger = Ledger()
    ledger.apply(
        Begun(id="op", kind=kind, target="web", uuid="u1", created=1.0, attempt=attempt, before=before)
    )
    if steps:
        ledger.apply(Stepped(id="op", index=steps - 1, incarnation=incarnation))
    if turned:
        ledger.apply(Turned(id="op", error=FAILURE))
    return ledger.active["op"]


def test_a_running_guest_just_goes_on() -> None:
    found = recover(seen(lived=lived(), listed=listed(), record=record()))
    assert (found.state, found.incarnation, found.diverged, found.undo) == (State.RUNNING, 3, "", ())


def test_nothing_anywhere_is_a_defined_domain() -> None:
    assert recover(seen()).state is State.DEFINED


def test_a_guest_that_the_journal_did_not_expect_is_kept_and_reported() -> None:
    found = recover(seen(listed=listed(), record=record()))
    assert found.state is State.RUNNING
    assert "did not expect" in found.diverged


def test_a_guest_that_vanished_while_we_were_away_is_treated_by_policy() -> None:
    found = recover(seen(lived=lived(), record=record()))
    assert found.ended is EndReason.DEVICE_MODEL
    assert found.diverged


def test_after_a_reboot_of_the_node_nothing_has_diverged() -> None:
    found = recover(seen(lived=Lived(uuid="u1", incarnation=3, boot_id="older"), record=record()))
    assert (found.state, found.diverged, found.undo) == (State.DEFINED, "", (Act.RELEASE_ALL,))


def test_a_guest_that_ended_while_we_were_away_ends_for_its_own_reason() -> None:
    ended = listed(state=GuestState.ENDED, ended=EndReason.POWEROFF)
    assert recover(seen(lived=lived(), listed=ended, record=record())).ended is EndReason.POWEROFF


def test_a_domain_owned_by_another_node_is_superseded_here() -> None:
    found = recover(seen(lived=lived(), listed=listed(), record=OwnerRecord(node="n2", incarnation=4)))
    assert found.superseded
    assert "n2" in found.reason


def test_an_older_run_beside_a_later_one_is_a_leftover() -> None:
    found = recover(seen(listed=listed(2), record=record(3)))
    assert found.leftover == 2


def test_a_failed_domain_stays_failed() -> None:
    found = recover(seen(record=record(failed="CRASH_LOOP")))
    assert (found.state, found.reason) == (State.FAILED, "CRASH_LOOP")


def test_a_saved_domain_is_suspended() -> None:
    assert recover(seen(record=record(saved="/x"))).state is State.SUSPENDED


def test_a_start_that_was_cut_short_is_taken_back_and_begun_again() -> None:
    found = recover(seen(operation=interrupted("start", steps=2, incarnation=3), record=record()))
    assert (found.operation, found.undo) == ("again", (Act.DESTROY, Act.RELEASE_ALL))


def test_a_start_whose_guest_is_complete_goes_on_with_it() -> None:
    operation = interrupted("start", steps=4, incarnation=3)
    found = recover(seen(operation=operation, lived=lived(), listed=listed(), record=record()))
    assert (found.operation, found.undo, found.guest) == ("again", (), GuestState.RUNNING)


def test_what_was_being_undone_is_undone_to_its_end() -> None:
    operation = interrupted("start", steps=3, incarnation=3, turned=True)
    found = recover(seen(operation=operation, record=record()))
    assert (found.operation, found.error) == ("close", FAILURE)
    assert Act.DESTROY in found.undo


def test_a_service_that_dies_of_an_operation_again_and_again_gives_it_up() -> None:
    operation = interrupted("save", steps=1, attempt=ATTEMPTS_MAX, before=State.RUNNING)
    found = recover(seen(operation=operation, lived=lived(), listed=listed(), record=record()))
    assert found.operation == "close"
    assert found.error is not None
    assert found.error.kind is Kind.INTERNAL


def test_an_interrupt_is_never_sent_twice() -> None:
    operation = interrupted("nmi", steps=1, before=State.RUNNING)
    found = recover(seen(operation=operation, lived=lived(), listed=listed(), record=record()))
    assert found.operation == "close"
    assert found.error is not None
    assert found.error.kind is Kind.TIMEOUT


@pytest.mark.parametrize("kind", ["shutdown", "destroy", "pause", "resume", "reset", "rename", "delete"])
def test_an_operation_that_had_not_begun_is_begun(kind: str) -> None:
    operation = interrupted(kind, before=State.RUNNING)
    found = recover(seen(operation=operation, lived=lived(), listed=listed(), record=record()))
    assert (found.operation, found.undo, found.state) == ("again", (), State.RUNNING)


def test_a_save_that_was_cut_short_resumes_the_guest_first() -> None:
    operation = interrupted("save", steps=1, before=State.RUNNING)
    found = recover(seen(operation=operation, lived=lived(), listed=listed(), record=record()))
    assert found.undo == (Act.UNSAVE,)
