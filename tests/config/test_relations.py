from __future__ import annotations

from typing import Any

import pytest

from manor_config.documents import parse
from tests.config.examples import document, domain, network, volume

ROOT = {"id": "root", "source": "/r"}


@pytest.mark.parametrize(
    ("raw", "path", "reason"),
    [
        (domain(cpu={"count": 4, "max": 3}), "spec.cpu.max", "less than count"),
        (
            domain(cpu={"count": 4, "sockets": 1, "cores": 2, "threads": 1}),
            "spec.cpu",
            "does not make the CPUs",
        ),
        (domain(cpu={"count": 4, "cores": 3}), "spec.cpu", "does not make the CPUs"),
        (domain(memory={"size_mib": 64, "max_mib": 63}), "spec.memory.max_mib", "less than size_mib"),
        (domain(boot={"kernel": "/k", "firmware": "uefi"}), "spec.boot.firmware", "a kernel is given too"),
        (domain(boot={"initrd": "/i"}), "spec.boot.initrd", "needs a kernel"),
        (domain(boot={"cmdline": "quiet"}), "spec.boot.cmdline", "needs a kernel"),
        (domain(boot={"order": ["root"]}), "spec.boot.order[0]", "no such device"),
        (domain(disks=[ROOT], boot={"order": ["cdrom"]}), "spec.boot.order[0]", "no cdrom here"),
        (domain(disks=[ROOT], boot={"order": ["network"]}), "spec.boot.order[0]", "no network here"),
        (
            domain(disks=[{**ROOT, "boot": 1}], boot={"order": ["root"]}),
            "spec.disks[0].boot",
            "boot.order says it, too",
        ),
        (
            domain(nics=[{"id": "n", "rate_kib_per_second": 9}]),
            "spec.nics[0].rate_kib_per_second",
            "no limit",
        ),
        (domain(nics=[{"id": "n", "queues": 2}]), "spec.nics[0].queues", "one queue"),
        (domain(nics=[{"id": "n", "model": "e1000", "mtu": 1400}]), "spec.nics[0].mtu", "has none"),
        (
            domain(nics=[{"id": "n", "network": "l", "model": "e1000", "queues": 2}]),
            "spec.nics[0].queues",
            "has none",
        ),
        (network(isolated=True), "spec.isolated", "only for type bridge"),
        (domain(disks=[{"id": "a"}]), "spec.disks[0]", "nothing is given"),
        (domain(disks=[{**ROOT, "volume": "v"}]), "spec.disks[0].volume", "source is given too"),
        (domain(disks=[{**ROOT, "nbd": "nbd://h"}]), "spec.disks[0].nbd", "source is given too"),
        (domain(disks=[{"id": "a", "nbd": "nbd://h", "format": "qcow2"}]), "spec.disks[0].format", "is raw"),
        (domain(disks=[{"id": "a", "nbd": "nbd+unix:///x"}]), "spec.disks[0].nbd", "belong together"),
        (domain(disks=[{**ROOT, "device": "floppy"}]), "spec.disks[0].bus", "cannot be on it"),
        (domain(disks=[{**ROOT, "bus": "floppy"}]), "spec.disks[0].bus", "cannot be on it"),
        (domain(disks=[ROOT, {"id": "b", "source": "/r"}]), "spec.disks[1]", "uses it too"),
        (domain(disks=[ROOT, {"id": "b", "source": "/r", "readonly": True}]), "spec.disks[1]", "uses it too"),
        (domain(disks=[ROOT], nics=[{"id": "root"}]), "spec.nics[0].id", "also that of disks[0]"),
        (
            domain(nics=[{"id": "a", "mac": "00:16:3e:00:00:01"}, {"id": "b", "mac": "00:16:3E:00:00:01"}]),
            "spec.nics[1].mac",
            "also that of nics[0].mac",
        ),
        (domain(graphics={"type": "vnc", "port": 5900}), "spec.graphics.port", "needs an address"),
        (domain(graphics={"listen": "127.0.0.1"}), "spec.graphics.type", "nothing to listen with"),
        (domain(usb=[{"id": "u"}]), "spec.usb[0]", "nothing is given"),
        (domain(usb=[{"id": "u", "host": "1.2", "emulated": "tablet"}]), "spec.usb[0].emulated", "given too"),
        (network(type="bridge"), "spec.bridge", "needs one"),
        (network(address="10.0.0.1/24"), "spec.address", "created bridge"),
        (network(type="bridge", bridge="br0", address="10.0.0.1/24"), "spec.address", "created bridge"),
        (network(type="bridge", bridge="br0", cidr="10.0.0.0/24"), "spec.cidr", "only for type user"),
        (volume(clone_of="a", backing_file="/b", backing_format="raw"), "spec.backing_file", "is given too"),
        (volume(backing_file="/b"), "spec.backing_format", "goes with backing_file"),
        (volume(backing_format="raw"), "spec.backing_format", "goes with backing_file"),
        (volume(format="raw", backing_file="/b", backing_format="raw"), "spec.backing_file", "raw volume"),
        (volume(clone_of="a", preallocate=True), "spec.preallocate", "begins empty"),
    ],
)
def test_fields_that_contradict_each_other_are_named(raw: Any, path: str, reason: str) -> None:
    outcome = parse(raw)
    assert isinstance(outcome, list)
    found = {problem.path: problem.reason for problem in outcome}
    assert path in found
    assert reason in found[path]


@pytest.mark.parametrize(
    "raw",
    [
        domain(cpu={"count": 2, "max": 4, "sockets": 1, "cores": 2, "threads": 2}),
        domain(cpu={"count": 4, "threads": 2}),
        domain(disks=[{"id": "cd", "device": "cdrom", "bus": "ide"}]),
        domain(disks=[{"id": "f", "device": "floppy", "bus": "floppy"}]),
        domain(disks=[{**ROOT, "shareable": True}, {"id": "b", "source": "/r", "readonly": True}]),
        domain(disks=[ROOT], nics=[{"id": "n"}], boot={"order": ["disk", "root", "network"]}),
        domain(nics=[{"id": "n", "network": "lan", "queues": 2, "mtu": 1400}]),
        network(type="bridge", bridge="br0", create=True, address="10.0.0.1/24"),
        network(cidr="10.0.0.0/24"),
        volume(backing_file="/b", backing_format="qcow2"),
        volume(clone_of="a"),
    ],
)
def test_fields_that_agree_are_taken(raw: Any) -> None:
    document(raw)
