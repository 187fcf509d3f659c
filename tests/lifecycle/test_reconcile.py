from __future__ import annotations

import msgspec
import pytest

from manor_bus.wire.messages.config import OwnerRecord
from manor_bus.wire.messages.documents import (
    Boot,
    Cpu,
    Disk,
    Domain,
    DomainSpec,
    Memory,
    Metadata,
    Nic,
    RunPolicy,
)
from manor_bus.wire.messages.lifecycle import State
from manor_lifecycle.hypervisors import Feature
from manor_lifecycle.machine import Trigger
from manor_lifecycle.plan import LiveChange
from manor_lifecycle.reconcile import VALUE_CHARACTERS_MAX, Situation, applied, compare, decide

EVERYTHING = frozenset(Feature)
ROOT = Disk(id="root", source="/x")
PLAIN = DomainSpec(
    cpu=Cpu(count=1, max=4), memory=Memory(size_mib=256, max_mib=512), disks=(ROOT,), run=RunPolicy.ON_REQUEST
)


def document(spec: DomainSpec) -> Domain:
    return Domain(metadata=Metadata(name="web", uuid="u1"), spec=spec)


def changed(**fields: object) -> DomainSpec:
    return msgspec.structs.replace(PLAIN, **fields)


def running(spec: DomainSpec = PLAIN, features: frozenset[Feature] = EVERYTHING) -> Situation:
    return Situation(State.RUNNING, OwnerRecord(node="n1"), running=spec, features=features)


def test_a_domain_that_is_as_its_document_says_is_left_alone() -> None:
    decision = decide(document(PLAIN), running())
    assert (decision.verb, decision.pending) == (None, ())


@pytest.mark.parametrize(
    ("policy", "record", "verb"),
    [
        (RunPolicy.ALWAYS, None, Trigger.START),
        (RunPolicy.ALWAYS, OwnerRecord(node="n1"), Trigger.START),
        (RunPolicy.ALWAYS, OwnerRecord(node="n1", stopped=True), None),
        (RunPolicy.ALWAYS, OwnerRecord(node="n1", failed="CRASH_LOOP"), None),
        (RunPolicy.ON_REQUEST, None, None),
        (RunPolicy.HALTED, None, None),
    ],
)
def test_the_run_policy_decides_whether_a_stopped_domain_starts(
    policy: RunPolicy, record: OwnerRecord | None, verb: Trigger | None
) -> None:
    assert decide(document(changed(run=policy)), Situation(State.DEFINED, record)).verb is verb


def test_a_domain_waits_for_those_that_must_run_first() -> None:
    decision = decide(
        document(changed(run=RunPolicy.ALWAYS)), Situation(State.DEFINED, None, missing=("db",))
    )
    assert (decision.verb, decision.waits) == (None, "waits for db")


def test_a_domain_that_shall_be_halted_is_asked_to_shut_down() -> None:
    decision = decide(document(changed(run=RunPolicy.HALTED, shutdown_timeout_s=7.0)), running())
    assert (decision.verb, decision.arguments.timeout_s) == (Trigger.SHUTDOWN, 7.0)


def test_memory_within_its_maximum_is_changed_live() -> None:
    decision = decide(document(changed(memory=Memory(size_mib=512, max_mib=512))), running())
    assert decision.arguments.changes == (LiveChange(type="memory", amount=512),)
    assert [change.applies for change in decision.pending] == ["in-progress"]


def test_memory_beyond_its_maximum_waits_for_the_next_start() -> None:
    decision = decide(document(changed(memory=Memory(size_mib=1024, max_mib=1024))), running())
    assert decision.verb is None
    paths = {(change.path, change.applies) for change in decision.pending}
    assert ("spec.memory.size_mib", "next-start") in paths


def test_what_the_hypervisor_cannot_do_live_is_pending() -> None:
    wanted = changed(cpu=Cpu(count=2, max=4), nics=(Nic(id="n"),))
    decision = decide(document(wanted), running(features=frozenset()))
    assert decision.verb is None
    assert {change.path for change in decision.pending} == {"spec.cpu.count", "spec.nics[n]"}


def test_devices_are_plugged_and_unplugged() -> None:
    wanted = changed(disks=(Disk(id="data", source="/y"),))
    found = compare(PLAIN, wanted, EVERYTHING, {})
    assert set(found.live) == {
        LiveChange(type="unplug", device="root"),
        LiveChange(type="plug", device="data"),
    }


def test_a_disk_on_a_bus_that_cannot_plug_waits() -> None:
    wanted = changed(disks=(ROOT, Disk(id="old", source="/y", bus="ide")))
    found = compare(PLAIN, wanted, EVERYTHING, {})
    assert found.live == ()
    assert [change.path for change in found.pending] == ["spec.disks[old]"]


def test_a_refused_unplug_is_shown_and_not_tried_again_and_again() -> None:
    found = compare(PLAIN, changed(disks=()), EVERYTHING, {"root": "the guest is using it"})
    assert found.live == ()
    assert "the guest is using it" in found.pending[0].new


def test_what_only_the_service_reads_is_in_force_at_once() -> None:
    found = compare(
        PLAIN, changed(title="shop", shutdown_timeout_s=1.0, run=RunPolicy.ALWAYS), EVERYTHING, {}
    )
    assert (found.live, found.pending) == ((), ())


def test_a_long_value_is_cut_for_people() -> None:
    found = compare(PLAIN, changed(boot=Boot(cmdline="x" * 1_000)), EVERYTHING, {})
    assert len(found.pending[0].new) == VALUE_CHARACTERS_MAX


def test_every_live_change_brings_the_run_to_the_document() -> None:
    wanted = changed(
        memory=Memory(size_mib=300, max_mib=512), cpu=Cpu(count=3, max=4),
        disks=(Disk(id="data", source="/y"),), nics=(Nic(id="n"),),
    )  # fmt: skip
    now = PLAIN
    for change in compare(PLAIN, wanted, EVERYTHING, {}).live:
        now = applied(now, wanted, change)
    assert compare(now, wanted, EVERYTHING, {}).live == ()
    assert now == wanted
