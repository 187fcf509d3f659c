from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.devices import Descriptor
from manor_bus.wire.messages.documents import Boot, Console, Disk, DomainSpec, Graphics, Nic
from manor_lifecycle.hypervisors import Attachment
from manor_lifecycle.hypervisors.qemu import folder, monitor, serial
from manor_lifecycle.hypervisors.qemu.options import Options
from manor_lifecycle.hypervisors.qemu.program import Program
from manor_lifecycle.hypervisors.qemu.record import Record, added
from manor_lifecycle.hypervisors.qemu.site import Site
from manor_lifecycle.hypervisors.qemu.wiring import reach, wire

PROGRAM = Program("/qemu", (7, 2), {}, ("tcg",))
SITE = Site(PROGRAM, Path("/"), Options(), durable=False, say=print, wall=float)


def record(spec: DomainSpec | None = None, uid: int = 0) -> Record:
    return Record(
        uuid="u1", name="web", incarnation=1, spec=spec or DomainSpec(), uid=uid, machine="pc-q35-7.2",
        accelerator="tcg", cpus=1, memory_mib=64, slots=3, created=1.0,
    )  # fmt: skip


async def test_everything_given_is_open_and_closed_again(tmp_path: Path) -> None:
    with contextlib.ExitStack() as files:
        wiring, given = await wire(SITE, record(), tmp_path, files, incoming=False)
        assert {wiring.monitor_fd, wiring.console_fd, wiring.log_fd} == set(given)
        assert all(os.fstat(descriptor) for descriptor in given)
        assert set(os.listdir(tmp_path)) == {
            monitor.SOCKET,
            serial.SOCKET,
            folder.CONSOLE_LOG,
        }
    for descriptor in given:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


async def test_what_is_not_wanted_is_not_opened(tmp_path: Path) -> None:
    with contextlib.ExitStack() as files:
        quiet = record(DomainSpec(console=Console(type="none"), graphics=Graphics(type="none")))
        wiring, given = await wire(SITE, quiet, tmp_path, files, incoming=False)
        assert given == [wiring.monitor_fd]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives guests a user of their own")
async def test_a_guest_with_a_user_of_its_own_is_lent_the_kernel(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"bits")
    kernel.chmod(0o600)
    with contextlib.ExitStack() as files:
        theirs = record(DomainSpec(boot=Boot(kernel=str(kernel))), uid=200_000)
        wiring, _ = await wire(SITE, theirs, tmp_path, files, incoming=False)
        assert wiring.kernel.startswith("/dev/fd/")
        assert os.pread(int(wiring.kernel.rpartition("/")[2]), 10, 0) == b"bits"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives guests a user of their own")
async def test_a_kernel_that_is_not_there_is_refused_with_its_field(tmp_path: Path) -> None:
    theirs = record(DomainSpec(boot=Boot(kernel="/no/kernel")), uid=200_000)
    with contextlib.ExitStack() as files, pytest.raises(ManorError) as refused:
        await wire(SITE, theirs, tmp_path, files, incoming=False)
    assert refused.value.problems[0].path == "spec.boot.kernel"


async def test_a_disk_is_looked_at_for_direct_io(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(b"\0" * 4096)
    descriptor = Descriptor(type="file", args={"path": str(image), "format": "raw"})
    _, plugged = added(record(), Attachment(Disk(id="a", source=str(image)), descriptor))
    with contextlib.ExitStack() as files:
        found, given = await reach(SITE, plugged, files)
    assert isinstance(found.direct, bool)
    assert given == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root opens tap devices")
async def test_a_tap_device_that_is_not_there_is_not_made_by_asking() -> None:
    _, plugged = added(
        record(), Attachment(Nic(id="n"), Descriptor(type="tap", args={"ifname": "nosuchtap"}))
    )
    with contextlib.ExitStack() as files, pytest.raises(ManorError) as refused:
        await reach(SITE, plugged, files)
    assert refused.value.kind is Kind.UNAVAILABLE
    assert "nosuchtap" not in os.listdir("/sys/class/net")


async def test_a_mount_that_does_not_answer_holds_one_call_and_says_so(monkeypatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr("manor_lifecycle.hypervisors.qemu.site.FILE_S", 0.01)
    for _ in range(2):  # the second one at once
        with pytest.raises(ManorError, match=r"does not answer|no answer") as refused:
            await SITE.look_at("/nfs/x", answers.wait)
        assert refused.value.kind is Kind.UNAVAILABLE
    answers.set()
