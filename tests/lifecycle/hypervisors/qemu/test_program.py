from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.documents import DomainSpec
from manor_lifecycle.hypervisors.qemu.program import Program, inspect, machines
from manor_lifecycle.hypervisors.seen import Feature

LISTING = """\
Supported machines are:
microvm              microvm (i386)
pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)
pc-i440fx-7.2        Standard PC (i440FX + PIIX, 1996) (default)
q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)
pc-q35-7.2           Standard PC (Q35 + ICH9, 2009)
isapc                ISA-only PC
xenfv                Xen Fully-virtualized PC (alias of xenfv-4.2)
"""


def program(version: tuple[int, ...] = (7, 2), accelerators: tuple[str, ...] = ("tcg",)) -> Program:
    return Program("qemu", version, machines(LISTING), accelerators)


def test_only_machines_that_can_be_wired_are_offered() -> None:
    assert set(machines(LISTING)) == {"microvm", "pc", "pc-i440fx-7.2", "q35", "pc-q35-7.2"}


def test_a_document_gets_a_versioned_machine_so_that_saved_states_fit() -> None:
    assert program().machine(DomainSpec()) == "pc-q35-7.2"
    assert program().machine(DomainSpec(type="microvm")) == "microvm"
    assert program().machine(DomainSpec(machine="pc")) == "pc-i440fx-7.2"


def test_an_unknown_machine_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ManorError) as refused:
        program().machine(DomainSpec(machine="isapc"))
    assert refused.value.kind is Kind.BAD_REQUEST
    assert "q35" in refused.value.hint


def test_what_an_old_version_cannot_do_is_not_promised() -> None:
    assert Feature.SCREENSHOT not in program((7, 0)).features()
    assert Feature.CPU_UNPLUG not in program((7, 2), ("tcg",)).features()
    assert Feature.CPU_UNPLUG in program((7, 2), ("kvm", "tcg")).features()
    assert program((9, 1)).features() == frozenset(Feature)


async def test_a_missing_qemu_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ManorError) as refused:
        await inspect("qemu-system-nothing", "tcg", tmp_path)
    assert refused.value.kind is Kind.UNAVAILABLE
    assert "qemu-system-x86" in refused.value.hint


@pytest.mark.qemu
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed")
async def test_the_installed_qemu_is_understood(tmp_path: Path) -> None:
    found = await inspect("qemu-system-x86_64", "tcg", tmp_path)
    assert found.version >= (5, 0)
    assert found.machine(DomainSpec()).startswith("pc-q35-")
