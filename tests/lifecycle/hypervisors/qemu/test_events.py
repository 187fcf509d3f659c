from __future__ import annotations

from typing import Any

import pytest

from manor_lifecycle.hypervisors.qemu.events import (
    IGNORED,
    SHUTDOWNS,
    STATES,
    USED,
    Answered,
    Ballooned,
    Meaning,
    Over,
    Running,
    UnplugAnswered,
    ended,
    meaning,
    process_ended,
    state,
    with_troubles,
)
from manor_lifecycle.hypervisors.qemu.record import Trouble
from manor_lifecycle.hypervisors.seen import Activity, Cause, CauseWord, EndReason
from tests.lifecycle.hypervisors.qemu.guests import UUID


@pytest.mark.parametrize(
    ("event", "content", "expected"),
    [
        ("SHUTDOWN", {"reason": "guest-shutdown"}, Over(EndReason.POWEROFF)),
        ("SHUTDOWN", {"reason": "guest-reset"}, Over(EndReason.REBOOT)),
        ("SHUTDOWN", {"reason": "guest-panic"}, Over(EndReason.CRASH)),
        ("SHUTDOWN", {"reason": "host-signal"}, Over(EndReason.KILLED)),
        ("SHUTDOWN", {"reason": "host-qmp-quit"}, Over(EndReason.KILLED)),
        ("SHUTDOWN", {"reason": "snapshot-load"}, None),
        ("GUEST_PANICKED", {"action": "run"}, Trouble("", "the guest's kernel panicked")),
        ("GUEST_PANICKED", {"action": "pause", "info": {"type": "s390"}},
         Over(EndReason.CRASH, "the guest's kernel panicked type=s390")),
        ("WATCHDOG", {"action": "none"}, Trouble("", "the guest did not feed its watchdog")),
        ("GUEST_PVSHUTDOWN", {}, Answered()),
        ("STOP", {}, None),
        ("RESUME", {}, Running()),
        ("SUSPEND", {}, None),
        ("DEVICE_DELETED", {"device": "d1", "path": "/x"}, UnplugAnswered("d1", gone=True)),
        ("DEVICE_DELETED", {"path": "/machine/peripheral/d1/virtio-backend"}, None),
        ("DEVICE_UNPLUG_GUEST_ERROR", {"device": "d1"}, UnplugAnswered("d1", gone=False)),
        ("BALLOON_CHANGE", {"actual": 256 << 20}, Ballooned(256)),
        ("BLOCK_IO_ERROR", {"action": "ignore", "operation": "read"}, None),
        ("BLOCK_IO_ERROR", {"action": "report", "operation": "read", "node-name": "t3", "device": ""},
         Trouble("t3", "read: error")),
        ("BLOCK_IO_ERROR", {"action": "stop", "operation": "write", "reason": "no space", "nospace": True,
         "qom-path": "/machine/peripheral/dev2/virtio-backend"},
         Trouble("dev2", "write: no space", "nospace", stays=False)),
        ("BLOCK_IMAGE_CORRUPTED", {"node-name": "f1", "device": "", "msg": "bad refcount", "fatal": True},
         Trouble("f1", "the image is corrupt: bad refcount")),
        ("MEMORY_FAILURE", {"recipient": "guest", "action": "inject"},
         Trouble("", "memory of the node failed under the guest: inject")),
        ("RTC_CHANGE", {}, None),
        ("NEVER_HEARD_OF", {}, None),
    ],
)  # fmt: skip
def test_an_event_means(event: str, content: dict[str, Any], expected: Meaning | None) -> None:
    assert meaning({"event": event, "data": content}) == expected


@pytest.mark.qemu
async def test_every_run_state_and_event_of_the_installed_qemu_is_in_the_tables(place) -> None:
    async with place.hypervisor() as hypervisor:
        await hypervisor.create(place.creation(place.bare()))
        schema = await hypervisor._guests[UUID].ask("query-qmp-schema")
    events = {one["name"] for one in schema if one["meta-type"] == "event"}
    assert len(events) > 40
    assert events - set(USED) - set(IGNORED) == set()
    (states,) = [one["values"] for one in schema if "inmigrate" in one.get("values", ())]
    assert set(states) <= set(STATES)
    (shutdowns,) = [one["values"] for one in schema if "guest-shutdown" in one.get("values", ())]
    assert set(shutdowns) - set(SHUTDOWNS) == {"none", "snapshot-load"}  # asked for, and no end
    assert shutdowns.index("guest-shutdown") == 6  # its log says numbers
    assert shutdowns.index("host-qmp-quit") == 2


def test_no_event_is_used_and_ignored_and_each_that_is_ignored_says_why() -> None:
    assert set(USED) & set(IGNORED) == set()
    assert all(IGNORED.values())


def test_a_run_state_that_nobody_knows_stands_and_says_its_word() -> None:
    assert state("dreaming") == (Activity.STANDS, Cause(CauseWord.UNKNOWN, detail="dreaming"))


@pytest.mark.parametrize(
    ("word", "troubles", "io", "expected"),
    [
        (CauseWord.NONE, (), {}, Cause()),
        (CauseWord.PERSON, (Trouble("a", "x"),), {}, Cause(CauseWord.PERSON)),
        (CauseWord.NONE, (Trouble("a", "x"),), {}, Cause(CauseWord.IO_ERROR, "a", "x")),
        (CauseWord.IO_ERROR, (Trouble("a", "x", "nospace"),), {}, Cause(CauseWord.NO_SPACE, "a", "x")),
        (CauseWord.IO_ERROR, (), {"b": "nospace"}, Cause(CauseWord.NO_SPACE, "b")),
        (CauseWord.IO_ERROR, (), {}, Cause(CauseWord.IO_ERROR)),
        (CauseWord.NONE, (Trouble("", "memory"),), {}, Cause(CauseWord.UNKNOWN, detail="memory")),
    ],
)
def test_a_cause_names_the_disk(word, troubles, io, expected) -> None:
    assert with_troubles(Cause(word), troubles, io) == expected


@pytest.mark.parametrize(
    ("status", "last", "starved", "reason"),
    [
        (-15, "", False, EndReason.KILLED),
        (0, "qemu: terminating on signal 15 from pid 1 (systemd)", False, EndReason.KILLED),
        (-9, "", False, EndReason.KILLED),
        (-9, "", True, EndReason.OUT_OF_MEMORY),
        (None, "", True, EndReason.OUT_OF_MEMORY),
        (None, "", False, EndReason.DEVICE_MODEL),
        (-11, "", True, EndReason.DEVICE_MODEL),
        (1, "qemu: fatal", False, EndReason.DEVICE_MODEL),
        (None, "qemu_system_shutdown_request reason=2", False, EndReason.KILLED),
        (
            None,
            "7@1.2:qemu_system_shutdown_request reason=6\nterminating on signal 15",
            False,
            EndReason.POWEROFF,
        ),
    ],
)
def test_who_ended_a_process_is_told_apart(status, last, starved, reason) -> None:
    assert process_ended(status, last, starved=starved).reason is reason


@pytest.mark.parametrize(
    ("event", "reason"), [("GUEST_PANICKED", EndReason.CRASH), ("WATCHDOG", EndReason.WATCHDOG)]
)
def test_a_crash_is_told_with_its_cause(event: str, reason: EndReason) -> None:
    told = meaning({"event": event, "data": {"action": "pause"}})
    assert isinstance(told, Over)
    assert told.reason is reason
    assert told.detail


@pytest.mark.parametrize(
    ("status", "log", "reason"),
    [
        ("shutdown", "7@1.2:qemu_system_shutdown_request reason=6", EndReason.POWEROFF),
        ("shutdown", "", EndReason.REBOOT),
        ("guest-panicked", "", EndReason.CRASH),
        ("watchdog", "", EndReason.WATCHDOG),
        ("internal-error", "", EndReason.DEVICE_MODEL),
    ],
)
def test_an_end_that_nobody_heard_is_read_from_what_is_left(status: str, log: str, reason: EndReason) -> None:
    assert ended(status, log).reason is reason
