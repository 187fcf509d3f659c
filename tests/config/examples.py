"""Documents for tests, as parsed from YAML."""

from __future__ import annotations

from typing import Any

from manor_bus.wire.messages.documents import AnyDocument
from manor_config.documents import Parsed, parse


def domain(name: str = "web", labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if labels:
        metadata["labels"] = labels
    return {"kind": "Domain", "metadata": metadata, "spec": spec}


def volume(name: str = "root", **spec: Any) -> dict[str, Any]:
    return {"kind": "Volume", "metadata": {"name": name}, "spec": {"size_mib": 64, **spec}}


def network(name: str = "lan", **spec: Any) -> dict[str, Any]:
    return {"kind": "Network", "metadata": {"name": name}, "spec": spec}


def full_domain() -> dict[str, Any]:
    """One of everything a domain can have."""
    return domain(
        "everything",
        labels={"tier": "web", "example.org/owner": "me@here"},
        type="hvm",
        cpu={
            "count": 2,
            "max": 4,
            "affinity": "0-3, ^2",
            "sockets": 1,
            "cores": 4,
        },
        memory={"size_mib": 512, "max_mib": 1024},
        boot={
            "kernel": "/boot/vmlinuz",
            "initrd": "/boot/initrd.img",
            "cmdline": "console=ttyS0",
        },
        disks=[
            {"id": "root", "source": "/var/lib/web.qcow2", "format": "qcow2", "iops": 100},
            {"id": "far", "nbd": "nbd://10.0.0.1:10809/far", "readonly": True},
            {"id": "near", "nbd": "nbd+unix:///near?socket=/run/near.sock"},
            {"id": "cd", "device": "cdrom", "bus": "sata"},
        ],
        nics=[{"id": "n0", "mac": "00:16:3E:AA:bb:01", "vlan": 7}],
        console={"type": "serial", "log": True},
        graphics={"type": "vnc", "listen": "127.0.0.1", "port": 5901, "video": "std"},
        pci=[{"id": "gpu", "address": "03:00.0"}],
        usb=[{"id": "pen", "host": "046d:c52b"}, {"id": "tablet", "emulated": "tablet"}],
        smbios={"manufacturer": "Manor"},
        on_crash="coredump-restart",
        run="always",
        placement={"node": "n1"},
        extra={"xl": {"device_model_override": "/bin/qemu", "vnuma": [["pnode=0", 1, 1.5, None, True]]}},
    )


def parsed(raw: Any) -> Parsed:
    outcome = parse(raw)
    assert isinstance(outcome, Parsed), outcome
    return outcome


def document(raw: Any) -> AnyDocument:
    return parsed(raw).document
