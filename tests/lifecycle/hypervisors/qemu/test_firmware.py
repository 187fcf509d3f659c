from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_lifecycle.hypervisors.qemu.firmware import uefi


def describe(folder: Path, name: str, **changed: Any) -> None:
    flash = {
        "executable": {"filename": f"/{name}.code", "format": "raw"},
        "nvram-template": {"filename": "/vars"},
    }
    described = {
        "interface-types": ["uefi"], "mapping": {"device": "flash", **flash}, "features": ["acpi-s3"],
        "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({**described, **changed}))


def test_the_first_one_that_fits_is_taken(tmp_path: Path) -> None:
    describe(tmp_path, "30-secure", features=["secure-boot"])
    describe(tmp_path, "40-bios", **{"interface-types": ["bios"]})
    describe(tmp_path, "50-good")
    describe(tmp_path, "60-later")
    assert uefi("pc-q35-7.2", [tmp_path]).code == "/50-good.code"


def test_the_administrators_folder_wins_by_file_name(tmp_path: Path) -> None:
    describe(tmp_path / "etc", "50-x", features=["enrolled-keys"])
    describe(tmp_path / "usr", "50-x")
    describe(tmp_path / "usr", "60-y")
    assert uefi("pc-q35-7.2", [tmp_path / "etc", tmp_path / "usr"]).code == "/60-y.code"


def test_files_of_others_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "10-broken.json").write_text("{")
    (tmp_path / "20-strange.json").write_text("{}")
    describe(tmp_path, "50-good")
    assert uefi("pc-q35-7.2", [tmp_path]).variables == "/vars"


def test_a_machine_without_firmware_says_what_to_install(tmp_path: Path) -> None:
    describe(tmp_path, "50-q35")
    with pytest.raises(ManorError) as refused:
        uefi("pc-i440fx-7.2", [tmp_path])
    assert refused.value.kind is Kind.BAD_REQUEST
    assert "ovmf" in refused.value.hint
