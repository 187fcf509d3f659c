from __future__ import annotations

from typing import Any

import pytest

from manor_lifecycle.hypervisors import EndReason
from manor_lifecycle.hypervisors.qemu.events import (
    Ballooned,
    FrontEndGone,
    Halted,
    IoFailed,
    Meaning,
    Over,
    Running,
    UnplugRefused,
    ended,
    meaning,
)


@pytest.mark.parametrize(
    ("event", "content", "expected"),
    [
        ("SHUTDOWN", {"reason": "guest-shutdown"}, Over(EndReason.POWEROFF)),
        ("SHUTDOWN", {"reason": "guest-reset"}, Over(EndReason.REBOOT)),
        ("SHUTDOWN", {"reason": "guest-panic"}, Over(EndReason.CRASH)),
        ("SHUTDOWN", {"reason": "host-qmp-quit"}, None),
        ("GUEST_PANICKED", {"action": "run"}, None),
        ("WATCHDOG", {"action": "none"}, None),
        ("STOP", {}, Halted()),
        ("RESUME", {}, Running()),
        ("DEVICE_DELETED", {"device": "d1", "path": "/x"}, FrontEndGone("d1")),
        ("DEVICE_DELETED", {"path": "/machine/peripheral/d1/virtio-backend"}, None),
        ("DEVICE_UNPLUG_GUEST_ERROR", {"device": "d1"}, UnplugRefused("d1")),
        ("BALLOON_CHANGE", {"actual": 256 << 20}, Ballooned(256)),
        ("BLOCK_IO_ERROR", {"action": "report", "operation": "read"}, None),
        (
            "BLOCK_IO_ERROR",
            {"action": "stop", "operation": "write", "reason": "no space"},
            IoFailed("write: no space"),
        ),
        ("RTC_CHANGE", {}, None),
    ],
)
def test_an_event_means(event: str, content: dict[str, Any], expected: Meaning | None) -> None:
    assert meaning({"event": event, "data": content}) == expected


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
        ("shutdown", "trace reason=guest-shutdown", EndReason.POWEROFF),
        ("shutdown", "", EndReason.REBOOT),
        ("guest-panicked", "", EndReason.CRASH),
        ("watchdog", "", EndReason.WATCHDOG),
        ("internal-error", "", EndReason.DEVICE_MODEL),
    ],
)
def test_an_end_that_nobody_heard_is_read_from_what_is_left(status: str, log: str, reason: EndReason) -> None:
    over = ended(status, log, "trace")
    assert over is not None
    assert over.reason is reason


@pytest.mark.parametrize("status", ["running", "paused", "io-error", "postmigrate"])
def test_a_guest_that_lives_has_not_ended(status: str) -> None:
    assert ended(status, "", "trace") is None
