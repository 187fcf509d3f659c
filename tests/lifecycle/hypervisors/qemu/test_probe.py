from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from manor_host import clock
from manor_lifecycle.hypervisors.qemu import probe
from manor_lifecycle.hypervisors.qemu.probe import Findings

QEMU = shutil.which("qemu-system-x86_64") or ""
needs_qemu = pytest.mark.skipif(not QEMU, reason="QEMU is not installed")


def known(directory: Path, **changed: str) -> None:
    findings = Findings(boot_id=clock.boot_id(), binary="/qemu", version="7.2", works=("kvm",))
    findings = msgspec.structs.replace(findings, **changed)
    (directory / probe.FILE).write_bytes(msgspec.json.encode(findings))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    tried: list[str] = []

    async def runs(binary: str, accelerator: str, bound_s: float) -> bool:
        tried.append(accelerator)
        return accelerator == "tcg"

    monkeypatch.setattr(probe, "runs", runs)
    return tried


async def test_what_was_found_in_this_boot_is_not_tried_again(tmp_path: Path, asked: list[str]) -> None:
    known(tmp_path)
    assert await probe.accelerators("/qemu", "7.2", tmp_path) == ("kvm",)
    assert asked == []


@pytest.mark.parametrize("changed", [{"boot_id": "another"}, {"version": "7.1"}, {"binary": "/other"}])
async def test_another_boot_or_program_is_tried_anew(
    tmp_path: Path, asked: list[str], changed: dict[str, str]
) -> None:
    known(tmp_path, **changed)
    assert await probe.accelerators("/qemu", "7.2", tmp_path) == ("tcg",)
    assert asked == ["kvm", "tcg"]
    assert await probe.accelerators("/qemu", "7.2", tmp_path) == ("tcg",)
    assert asked == ["kvm", "tcg"]


async def test_a_damaged_finding_is_no_finding(tmp_path: Path, asked: list[str]) -> None:
    (tmp_path / probe.FILE).write_bytes(b"{")
    assert await probe.accelerators("/qemu", "7.2", tmp_path) == ("tcg",)


@pytest.mark.qemu
@needs_qemu
async def test_tcg_runs_guest_code_and_a_made_up_accelerator_does_not() -> None:
    assert await probe.runs(QEMU, "tcg", 60.0)
    assert not await probe.runs(QEMU, "nothing", 60.0)
