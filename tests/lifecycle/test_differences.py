"""What the document asks of a domain at rest, and what of it its run does not have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from manor_bus.wire.errors import ErrorBody, Kind
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
from manor_lifecycle.domain import wishes
from manor_lifecycle.domain.imagine import imagined, taken
from manor_lifecycle.domain.plans import next_step
from manor_lifecycle.domain.steps import Step
from manor_lifecycle.domain.values import Core, Doing, Now, Place
from manor_lifecycle.domain.wishes import VALUE_CHARACTERS_MAX, Wanted, differences, due, pending
from manor_lifecycle.hypervisors.seen import Activity, Feature, Run, Seen, SeenDevice, SeenRun, devices_of

EVERYTHING = frozenset(Feature)
NOW = Now(100.0, 0.0)
ROOT = Disk(id="root", source="/x")
PLAIN = DomainSpec(
    cpu=Cpu(count=1, max=4), memory=Memory(size_mib=256, max_mib=512), disks=(ROOT,), run=RunPolicy.ON_REQUEST
)


def changed(**fields: object) -> DomainSpec:
    return msgspec.structs.replace(PLAIN, **fields)


def off(spec: DomainSpec, record: OwnerRecord | None = None, **more: Any) -> Core:
    document = Domain(metadata=Metadata(name="web", uuid="u1", revision=3), spec=spec)
    return Core(
        "u1",
        Place("n1", "b1", session="b1"),
        "web",
        document,
        record,
        1 if record else 0,
        stale=False,
        **more,
    )


def running(spec: DomainSpec, features: frozenset[Feature] = EVERYTHING, now: DomainSpec = PLAIN) -> Core:
    run = SeenRun(
        Run("u1", 1), 1, "web", Activity.RUNS, spec=now, features=features,
        devices=tuple(SeenDevice(one.id) for one in devices_of(now)),
    )  # fmt: skip
    record = OwnerRecord(node="n1", incarnation=1, run=True)
    return replace(off(spec, record), seen=Seen("u1", 1, run))


def kinds(core: Core) -> list[tuple[str, str]]:
    return [(one.kind, one.path) for one in differences(core)]


def test_a_domain_that_is_as_its_document_says_is_left_alone() -> None:
    assert (due(running(PLAIN), NOW), pending(running(PLAIN))) == (None, ())


@pytest.mark.parametrize(
    ("policy", "record", "starts"),
    [
        (RunPolicy.ALWAYS, None, True),
        (RunPolicy.ALWAYS, OwnerRecord(node="n1"), True),
        (RunPolicy.ALWAYS, OwnerRecord(node="n1", stopped=True), False),
        (RunPolicy.ALWAYS, OwnerRecord(node="n1", failed="CRASH_LOOP"), False),
        (RunPolicy.ON_BOOT, None, False),
        (RunPolicy.ON_REQUEST, None, False),
        (RunPolicy.HALTED, None, False),
    ],
)
def test_the_run_policy_decides_whether_a_stopped_domain_starts(
    policy: RunPolicy, record: OwnerRecord | None, starts: bool
) -> None:
    found = due(off(changed(run=policy), record), NOW)
    assert (isinstance(found, Wanted) and found.kind == "start") is starts


@pytest.mark.parametrize(("boot", "starts"), [("b1", False), ("b0", True), ("", True)])
def test_what_starts_with_the_node_is_started_once_in_each_boot(boot: str, starts: bool) -> None:
    core = off(changed(run=RunPolicy.ON_BOOT), OwnerRecord(node="n1", boot=boot, stopped=True))
    place = replace(core.place, booted=frozenset({"u1"}))
    assert (due(replace(core, place=place), NOW) is not None) is starts


def test_a_domain_waits_for_those_that_must_run_first() -> None:
    assert due(off(changed(run=RunPolicy.ALWAYS), missing=("db",)), NOW) is None


def test_a_domain_that_shall_be_halted_is_asked_to_shut_down_once_in_a_run() -> None:
    core = running(changed(run=RunPolicy.HALTED, shutdown_timeout_s=7.0))
    wanted = due(core, NOW)
    assert isinstance(wanted, Wanted)
    assert (wanted.kind, wanted.arguments.timeout_s) == ("shutdown", 7.0)
    asked = wishes.asked(core, wanted, NOW, "it did not react", barred=True)
    assert due(replace(core, asks={wanted.key: asked}), Now(1e6, 0.0)) is None


def test_memory_within_its_maximum_is_changed_live() -> None:
    core = running(changed(memory=Memory(size_mib=512, max_mib=512)))
    wanted = due(core, NOW)
    assert isinstance(wanted, Wanted)
    assert (wanted.kind, wanted.arguments.device, wanted.arguments.amount) == ("resize", "memory", 512)
    assert [change.applies for change in pending(core)] == ["in-progress"]


def test_memory_beyond_its_maximum_waits_for_the_next_start() -> None:
    core = running(changed(memory=Memory(size_mib=1024, max_mib=1024)))
    assert due(core, NOW) is None
    paths = {(change.path, change.applies) for change in pending(core)}
    assert ("spec.memory.size_mib", "next-start") in paths


def test_what_the_hypervisor_cannot_do_live_is_pending() -> None:
    core = running(changed(cpu=Cpu(count=2, max=4), nics=(Nic(id="n"),)), frozenset())
    assert due(core, NOW) is None
    assert {change.path for change in pending(core)} == {"spec.cpu.count", "spec.nics[n]"}


def test_devices_are_plugged_and_unplugged() -> None:
    core = running(changed(disks=(Disk(id="data", source="/y"),)))
    assert {(one.kind, one.device) for one in differences(core)} == {("unplug", "root"), ("plug", "data")}


def test_a_disk_on_a_bus_that_cannot_plug_waits() -> None:
    core = running(changed(disks=(ROOT, Disk(id="old", source="/y", bus="ide"))))
    assert kinds(core) == [("", "spec.disks[old]")]


def test_what_was_refused_is_shown_with_its_reason_and_asked_again_later() -> None:
    core = running(changed(disks=()))
    wanted = due(core, NOW)
    assert isinstance(wanted, Wanted)
    asked = wishes.asked(core, wanted, NOW, "the guest is using it", barred=False)
    core = replace(core, asks={wanted.key: asked})
    (change,) = pending(core)
    assert (change.applies, change.reason) == ("asked", "the guest is using it")
    assert wishes.may_ask(core, wanted, NOW) == NOW.at + 1
    assert due(core, Now(NOW.at + 1, 0.0)) == wanted


def test_what_never_can_be_is_not_asked_again_until_the_document_or_the_run_is_another() -> None:
    core = running(changed(nics=(Nic(id="n"),)))
    wanted = due(core, NOW)
    assert isinstance(wanted, Wanted)
    error = ErrorBody(kind=Kind.BAD_REQUEST, message="this machine takes none")
    asked = wishes.asked(core, wanted, NOW, error.message, barred=True)
    core = replace(core, asks={wanted.key: asked})
    assert [change.applies for change in pending(core)] == ["refused"]
    assert due(core, Now(1e9, 0.0)) is None
    again = replace(core, seen=replace(core.seen, run=replace(core.run, run=Run("u1", 2))))  # type: ignore[type-var]
    assert due(again, NOW) == wanted


def test_what_only_the_service_reads_is_in_force_at_once() -> None:
    core = running(changed(title="shop", shutdown_timeout_s=1.0, run=RunPolicy.ALWAYS))
    assert (kinds(core), pending(core)) == ([], ())


def test_a_long_value_is_cut_for_people() -> None:
    (change,) = pending(running(changed(boot=Boot(cmdline="x" * 1_000))))
    assert len(change.new) == VALUE_CHARACTERS_MAX


def test_every_live_change_brings_the_run_to_the_document() -> None:
    wanted = changed(
        memory=Memory(size_mib=300, max_mib=512), cpu=Cpu(count=3, max=4),
        disks=(Disk(id="data", source="/y"),), nics=(Nic(id="n"),),
    )  # fmt: skip
    core = running(wanted)
    for _ in range(5):
        found = due(core, NOW)
        if found is None:
            break
        assert isinstance(found, Wanted)
        doing = Doing("o", found.kind, found.arguments, begun=True)
        while isinstance(step := next_step(core, doing, NOW), Step):
            core, doing = imagined(core, doing, step), taken(core, doing, step, NOW)
    assert differences(core) == ()
    assert core.run is not None
    assert core.run.spec == wanted
