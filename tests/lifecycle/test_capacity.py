from __future__ import annotations

import os

import pytest

from manor_bus import VERSION
from manor_lifecycle.capacity import FREE_STEP_MIB, measure
from manor_lifecycle.hypervisors import Description

MACHINE = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1_000_000, "SC_AVPHYS_PAGES": 200_000}
FOUND = {
    "qemu": Description(name="qemu", version="9.2", accelerators=("kvm", "tcg")),
    "xen": Description(name="xen", version="4.20", accelerators=("kvm",)),
}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", MACHINE.__getitem__)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)


def test_a_node_tells_what_it_has_in_mib() -> None:
    status = measure("n1", "b1", FOUND, {"rack": "3"})
    assert (status.name, status.boot_id, status.version) == ("n1", "b1", VERSION)
    assert (status.cpus, status.memory_mib, status.labels) == (12, 3906, {"rack": "3"})


def test_free_memory_is_told_in_steps_and_never_more_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure("n1", "b1", {}, {}).memory_free_mib == 768  # of 781
    almost_the_same = {**MACHINE, "SC_AVPHYS_PAGES": 199_000}
    monkeypatch.setattr(os, "sysconf", almost_the_same.__getitem__)
    assert measure("n1", "b1", {}, {}).memory_free_mib == 768
    nothing = {**MACHINE, "SC_AVPHYS_PAGES": FREE_STEP_MIB * 256 - 1}
    monkeypatch.setattr(os, "sysconf", nothing.__getitem__)
    assert measure("n1", "b1", {}, {}).memory_free_mib == 0


def test_each_accelerator_is_told_once_and_each_hypervisor_with_its_version() -> None:
    status = measure("n1", "b1", FOUND, {})
    assert status.accelerators == ("kvm", "tcg")
    assert status.hypervisors == {"qemu": "9.2", "xen": "4.20"}


def test_a_machine_that_cannot_count_its_processors_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert measure("n1", "b1", {}, {}).cpus == 1
