from __future__ import annotations

from pathlib import Path

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_host import privileges
from manor_lifecycle.settings import Settings


def settings(folder: Path, **environment: str) -> Settings:
    return Settings.from_environment({"MANOR_DIR": str(folder), "MANOR_NODE": "n1", **environment})


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "may", lambda capability: True)


def test_the_room_has_its_own_directory_and_drives_qemu_unless_told_otherwise(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert (found.directory, found.hypervisors, found.durable) == (tmp_path / "lifecycle", ("qemu",), True)
    assert found.bus.node == "n1"


def test_hypervisors_are_named_once_each_and_the_first_is_the_default(tmp_path: Path) -> None:
    found = settings(tmp_path, MANOR_HYPERVISOR=" fake, qemu,,fake ")
    assert found.hypervisors == ("fake", "qemu")


def test_each_adapter_gets_its_own_options_and_no_others(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        MANOR_HYPERVISOR="fake,qemu",
        MANOR_LIFECYCLE_FAKE_EXITS="1",
        MANOR_LIFECYCLE_QEMU_BINARY="/opt/qemu",
        MANOR_LIFECYCLE_XEN_BINARY="xl",
    )
    assert found.options == {"fake": {"exits": "1"}, "qemu": {"binary": "/opt/qemu"}}


def test_who_may_gives_each_domain_a_user_of_a_range(tmp_path: Path) -> None:
    assert settings(tmp_path).uids == (200000, 265535)
    assert settings(tmp_path, MANOR_LIFECYCLE_UIDS="7-7").uids == (7, 7)
    assert settings(tmp_path, MANOR_LIFECYCLE_UIDS="").uids is None


def test_who_may_not_do_so_gives_domains_no_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "may", lambda capability: False)
    assert settings(tmp_path, MANOR_LIFECYCLE_UIDS="5-9").uids is None


@pytest.mark.parametrize("text", ["5", "9-5", "0-5", "-5", "a-b", "1-4294967295", "1-2-3"])
def test_a_range_that_makes_no_sense_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(ManorError, match="MANOR_LIFECYCLE_UIDS cannot be read") as refused:
        settings(tmp_path, MANOR_LIFECYCLE_UIDS=text)
    assert refused.value.kind is Kind.BAD_REQUEST
    assert refused.value.hint
