"""What the fields of one document must be to each other. Pure.

Each rule takes a well-formed struct and yields (path inside it, reason, value, what is allowed).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, Final

from manor_bus.wire.messages import documents as d

Finding = tuple[str, str, str, str]


def _cpu(cpu: d.Cpu) -> Iterator[Finding]:
    if cpu.max is not None and cpu.max < cpu.count:
        yield "max", "less than count", str(cpu.max), f"at least {cpu.count}"
    product = (cpu.sockets or 1) * (cpu.cores or 1) * (cpu.threads or 1)
    wanted = cpu.max or cpu.count
    all_given = cpu.sockets and cpu.cores and cpu.threads
    if product != wanted if all_given else wanted % product:
        yield "", "sockets x cores x threads does not make the CPUs", str(product), f"{wanted} CPUs"


def _memory(memory: d.Memory) -> Iterator[Finding]:
    if memory.max_mib is not None and memory.max_mib < memory.size_mib:
        yield "max_mib", "less than size_mib", str(memory.max_mib), f"at least {memory.size_mib}"


def _boot(boot: d.Boot) -> Iterator[Finding]:
    if boot.kernel and boot.firmware:
        yield "firmware", "a kernel is given too", boot.firmware, "either kernel or firmware"
    for field in ("order", "menu"):
        if boot.kernel and getattr(boot, field):
            yield field, "a kernel is started directly", str(getattr(boot, field)), "either kernel or this"
    for field, value in (("initrd", boot.initrd), ("cmdline", boot.cmdline)):
        if value and not boot.kernel:
            yield field, "needs a kernel", value, "boot.kernel"


def _one_of(struct: Any, fields: tuple[str, ...], *, empty: bool = False) -> Iterator[Finding]:
    given = [field for field in fields if getattr(struct, field)]
    if len(given) > 1:
        yield given[1], f"{given[0]} is given too", getattr(struct, given[1]), f"one of {', '.join(fields)}"
    elif not given and not empty:
        yield "", "nothing is given", "", f"exactly one of {', '.join(fields)}"


def _disk(disk: d.Disk) -> Iterator[Finding]:
    yield from _one_of(disk, ("source", "volume", "nbd"), empty=disk.device != "disk")
    if disk.nbd and disk.format == "qcow2":
        yield "format", "an NBD export is raw", disk.format, "raw"
    if (disk.device == "floppy") != (disk.bus == "floppy"):
        yield "bus", f"a {disk.device} cannot be on it", disk.bus, "floppy for a floppy, and only for it"
    if disk.nbd.startswith("nbd+unix:") != ("?socket=" in disk.nbd):
        yield "nbd", "nbd+unix and ?socket= belong together", disk.nbd, "nbd+unix:///export?socket=/path"


def _nic(nic: d.Nic) -> Iterator[Finding]:
    if not nic.network and nic.rate_kib_per_second is not None:
        rate = str(nic.rate_kib_per_second)
        yield "rate_kib_per_second", "user-mode networking has no limit", rate, "a Network that has one"
    if not nic.network and nic.queues > 1:
        yield "queues", "user-mode networking has one queue", str(nic.queues), "1, or a Network"
    if nic.model != "virtio" and (nic.mtu is not None or nic.queues > 1):
        field = "queues" if nic.queues > 1 else "mtu"
        yield field, f"a card of model {nic.model} has none", str(getattr(nic, field)), "model: virtio"


def _graphics(graphics: d.Graphics) -> Iterator[Finding]:
    if graphics.port is not None and not graphics.listen:
        yield "port", "needs an address to listen on", str(graphics.port), "graphics.listen"
    if graphics.type == "none" and (graphics.listen or graphics.password_ref or graphics.keymap):
        yield "type", "there is nothing to listen with", graphics.type, "vnc, spice"


def _usb(usb: d.Usb) -> Iterator[Finding]:
    yield from _one_of(usb, ("host", "emulated"))


_CLASSES: Final[Mapping[str, Callable[[d.DomainSpec], Iterable[bool]]]] = {
    "disk": lambda spec: (disk.device == "disk" for disk in spec.disks),
    "cdrom": lambda spec: (disk.device == "cdrom" for disk in spec.disks),
    "network": lambda spec: (True for _ in spec.nics),
}


def _domain(spec: d.DomainSpec) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    macs: dict[str, str] = {}
    for field in ("disks", "nics", "channels", "pci", "usb"):
        for number, device in enumerate(getattr(spec, field)):
            path = f"{field}[{number}]"
            if device.id in seen:
                yield f"{path}.id", f"also that of {seen[device.id]}", device.id, "ids are unique in a domain"
            seen.setdefault(device.id, path)
    for number, nic in enumerate(spec.nics):
        path, mac = f"nics[{number}].mac", nic.mac.lower()
        if mac and mac in macs:
            yield path, f"also that of {macs[mac]}", nic.mac, "addresses are unique in a domain"
        macs.setdefault(mac, path)
    yield from _boot_order(spec, seen)
    yield from _same_storage(spec)


def _boot_order(spec: d.DomainSpec, seen: Container[str]) -> Iterator[Finding]:
    for number, name in enumerate(spec.boot.order):
        if name not in {"disk", "network", "cdrom"} and name not in seen:
            yield (
                f"boot.order[{number}]",
                "no such device",
                name,
                "disk, network, cdrom, or the id of a device",
            )
        elif name in _CLASSES and not any(_CLASSES[name](spec)):
            yield f"boot.order[{number}]", f"there is no {name} here", name, "a class that has a device"
    other = "boot.order" if spec.boot.order else "boot.kernel" if spec.boot.kernel else ""
    for number, disk in enumerate(spec.disks if other else ()):
        if disk.boot is not None:
            yield f"disks[{number}].boot", f"{other} says it, too", str(disk.boot), "one of the two"


def _same_storage(spec: d.DomainSpec) -> Iterator[Finding]:
    seen: dict[str, tuple[str, bool]] = {}
    for number, disk in enumerate(spec.disks):
        storage = disk.source or disk.volume or disk.nbd
        shared = disk.shareable or disk.read_only
        before = seen.get(storage)
        if storage and before and not (shared and before[1]):
            reason = f"{before[0]} uses it too"
            yield f"disks[{number}]", reason, storage, "storage of its own, or readonly or shareable in both"
        seen.setdefault(storage, (f"disks[{number}]", shared))


def _network(spec: d.NetworkSpec) -> Iterator[Finding]:
    if spec.type == "bridge" and not spec.bridge:
        yield "bridge", "a bridge network needs one", "", "the name of a bridge"
    if spec.type == "user":
        for field in ("bridge", "create", "address", "isolated"):
            if getattr(spec, field):
                yield field, "only for type bridge", str(getattr(spec, field)), "nothing"
    elif spec.cidr:
        yield "cidr", "only for type user", spec.cidr, "nothing"
    if spec.address and not spec.create:
        yield "address", "only a created bridge gets one", spec.address, "create: true"


def _volume(spec: d.VolumeSpec) -> Iterator[Finding]:
    yield from _one_of(spec, ("clone_of", "backing_file"), empty=True)
    if bool(spec.backing_file) != bool(spec.backing_format):
        yield "backing_format", "goes with backing_file", spec.backing_format, "raw or qcow2, never probed"
    if spec.format == "raw" and spec.backing_file:
        yield "backing_file", "a raw volume cannot have one", spec.backing_file, "format: qcow2"
    if spec.preallocate and (spec.clone_of or spec.backing_file):
        yield (
            "preallocate",
            "only for a volume that begins empty",
            "true",
            "false: clusters are shared or copied",
        )


def _cluster(document: d.ClusterSettings) -> Iterator[Finding]:
    if document.metadata.name != "cluster":
        yield "metadata.name", "there is one such document", document.metadata.name, "cluster"


def _itself(document: d.Domain) -> Iterator[Finding]:
    if document.metadata.name in document.spec.depends_on:
        yield "spec.depends_on", "a domain cannot wait for itself", document.metadata.name, "other domains"


RELATIONS: Final[Mapping[type, Callable[[Any], Iterator[Finding]]]] = {
    d.Cpu: _cpu,
    d.Memory: _memory,
    d.Boot: _boot,
    d.Disk: _disk,
    d.Nic: _nic,
    d.Graphics: _graphics,
    d.Usb: _usb,
    d.DomainSpec: _domain,
    d.NetworkSpec: _network,
    d.VolumeSpec: _volume,
    d.ClusterSettings: _cluster,
    d.Domain: _itself,
}
