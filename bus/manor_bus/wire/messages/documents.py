"""The documents of the desired system, as they are stored, sent and written in YAML.

A document is {kind, metadata, spec}. The Domain spec covers what real Xen and QEMU configurations use;
`extra` carries what is not understood. Sizes carry their unit in the name; absent means "not said".
Meaning that goes beyond types (names, references, ranges) is checked by the config service.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from manor_bus.wire.messages import Message


class Metadata(Message, frozen=True, kw_only=True):
    """What every document has. `uuid` to `reason` are filled in by config and refused when they
    contradict it.
    """

    name: str
    uuid: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    revision: int = 0  # of the last change; in an Apply: the expected one
    created: float = 0.0  # seconds since 1970
    modified: float = 0.0
    modified_by: str = ""
    reason: str = ""


class RunPolicy(StrEnum):
    """Whether a domain shall run: always (kept running), on-boot (started with the node and after a crash,
    left off after a clean power off), on-request (by a verb), halted (kept stopped: a start is refused)."""

    ALWAYS = "always"
    ON_BOOT = "on-boot"
    ON_REQUEST = "on-request"
    HALTED = "halted"


class OnEnd(StrEnum):
    """What to do when a run of a domain ends by itself."""

    DESTROY = "destroy"
    RESTART = "restart"
    PRESERVE = "preserve"
    RENAME_RESTART = "rename-restart"
    COREDUMP_DESTROY = "coredump-destroy"
    COREDUMP_RESTART = "coredump-restart"


class OnSilence(Message, frozen=True, kw_only=True):
    """What to do when the device model of a domain has not answered for so long; silence is no proof."""

    after_s: float = 300.0
    action: Literal["never", "destroy", "restart"] = "never"


class Cpu(Message, frozen=True, kw_only=True):
    """Virtual CPUs. `weight` and `cap` (percent of one CPU, 0 = none) are the scheduler's."""

    count: int = 1
    max: int | None = None  # at most this many by hot plug; default: count
    weight: int | None = None
    cap: int | None = None
    affinity: str = ""  # `0-3,^2` as in xl
    model: str = ""  # the hypervisor's name for a CPU model; empty: host where possible
    sockets: int | None = None
    cores: int | None = None
    threads: int | None = None
    nested: bool = False


class Memory(Message, frozen=True, kw_only=True):
    """Memory in MiB. `max_mib` is what ballooning may reach; default: size."""

    size_mib: int = 256
    max_mib: int | None = None
    hugepages: bool = False


class Boot(Message, frozen=True, kw_only=True):
    """Either a kernel of the host's (direct boot) or a firmware that boots from a disk or the network."""

    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    firmware: Literal["", "bios", "uefi"] = ""
    order: tuple[str, ...] = ()  # device ids, or `disk`, `network`, `cdrom`
    menu: bool = False


class Disk(Message, frozen=True, kw_only=True):
    """A disk. Exactly one of `source` (a file or device of the node), `volume` (a Volume document), `nbd` (a
    URI).

    `id` names it inside the domain and is stable. The format is said, never probed; a `source` without one is
    raw, unless its bytes are known to be something else: then it is refused.
    """

    id: str
    source: str = ""
    volume: str = ""
    nbd: str = ""
    format: Literal["", "raw", "qcow2"] = ""
    device: Literal["disk", "cdrom", "floppy"] = "disk"
    bus: Literal["virtio", "scsi", "sata", "ide", "usb", "xen", "nvme", "floppy"] = "virtio"
    readonly: bool = False
    shareable: bool = False
    serial: str = ""
    cache: Literal["none", "writeback", "writethrough", "directsync", "unsafe"] = "none"
    discard: bool = True
    boot: int | None = None  # boot index, lower first
    iops: int | None = None
    bytes_per_second: int | None = None
    provider: str = ""  # a provider by name; empty: whoever offers the class on this node
    required: bool = True  # False: the domain starts without it
    on_provider_loss: Literal["wait", "fail", "detach"] = "wait"

    @property
    def read_only(self) -> bool:
        """Whether the guest may not write it, whatever its bus and back end are."""
        return self.readonly or self.device == "cdrom"


class Nic(Message, frozen=True, kw_only=True):
    """A network card. `network` is a Network document; empty means user-mode networking."""

    id: str
    network: str = ""
    mac: str = ""  # empty: made from the domain's uuid and the id
    model: Literal["virtio", "e1000", "e1000e", "rtl8139", "xen", "vmxnet3"] = "virtio"
    mtu: int | None = None
    ip: tuple[str, ...] = ()
    rate_kib_per_second: int | None = None
    queues: int = 1
    vlan: int | None = None
    provider: str = ""
    required: bool = True
    on_provider_loss: Literal["wait", "fail", "detach"] = "wait"


class Channel(Message, frozen=True, kw_only=True):
    """A channel device: the guest's way to the bus, or a named stream to a unix socket of the node."""

    id: str
    name: str = "org.manor.bus.0"
    path: str = ""


class Console(Message, frozen=True, kw_only=True):
    """The serial console."""

    type: Literal["serial", "virtio", "xen", "none"] = "serial"
    log: bool = True


class Graphics(Message, frozen=True, kw_only=True):
    """A graphical console on a loopback address or a unix socket."""

    type: Literal["none", "vnc", "spice"] = "none"
    listen: str = ""  # empty: a unix socket in the domain's folder
    port: int | None = None
    password_ref: str = ""  # name of a Credential, never the secret itself
    video: Literal["", "std", "virtio", "qxl", "cirrus", "none"] = ""
    keymap: str = ""


class Pci(Message, frozen=True, kw_only=True):
    """A PCI device of the node to pass through, by address `0000:03:00.0`."""

    id: str
    address: str
    permissive: bool = False


class Usb(Message, frozen=True, kw_only=True):
    """A USB device: of the node (vendor:product or bus.port) or emulated (`tablet`, `keyboard`, `mouse`)."""

    id: str
    host: str = ""
    emulated: Literal["", "tablet", "keyboard", "mouse"] = ""


class HighAvailability(Message, frozen=True, kw_only=True):
    """What the cluster shall do when the domain's node dies."""

    restart: bool = False
    priority: int = 100  # lower restarts first
    max_restarts: int = 3


class Placement(Message, frozen=True, kw_only=True):
    """Where a domain may run. Selectors are over node labels."""

    node: str = ""
    selector: str = ""
    anti_affinity: tuple[str, ...] = ()
    affinity: tuple[str, ...] = ()


class DomainSpec(Message, frozen=True, kw_only=True):
    """The desired shape of one domain."""

    type: Literal["hvm", "pv", "pvh", "microvm"] = "hvm"
    hypervisor: str = ""  # an adapter by name; empty: the node's default
    machine: str = ""  # the hypervisor's machine type; empty: the adapter's choice
    title: str = ""
    description: str = ""
    cpu: Cpu = Cpu()
    memory: Memory = Memory()
    boot: Boot = Boot()
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    channels: tuple[Channel, ...] = ()
    console: Console = Console()
    graphics: Graphics = Graphics()
    pci: tuple[Pci, ...] = ()
    usb: tuple[Usb, ...] = ()
    rng: bool = True
    clock: Literal["utc", "localtime"] = "utc"
    clock_offset_s: int = 0
    acpi: bool = True
    acpi_s3: bool | None = None  # sleep in memory; None: as a fresh PC of its machine type (pc, q35: yes)
    acpi_s4: bool | None = None  # and to disk
    apic: bool = True
    viridian: bool = False
    watchdog: Literal["", "i6300esb", "xen"] = ""
    smbios: dict[str, str] = {}
    on_poweroff: OnEnd = OnEnd.DESTROY
    on_reboot: OnEnd = OnEnd.RESTART
    on_crash: OnEnd = OnEnd.DESTROY
    on_watchdog: OnEnd = OnEnd.DESTROY
    on_device_model_crash: OnEnd = OnEnd.DESTROY
    on_silence: OnSilence = OnSilence()
    shutdown_timeout_s: float = 60.0
    shutdown_repeat_s: float = 5.0  # the request is repeated so often within that; 0: asked once
    label: str = ""
    run: RunPolicy = RunPolicy.ON_REQUEST
    ha: HighAvailability = HighAvailability()
    placement: Placement = Placement()
    depends_on: tuple[str, ...] = ()
    start_order: int = 0  # lower ones start first, with the node and by `run`
    start_delay_s: float = 0.0  # after the one before it began to start
    extra: dict[str, Any] = {}


class NetworkSpec(Message, frozen=True, kw_only=True):
    """A network domains attach to: `user` needs no privileges, `bridge` a bridge of the node."""

    type: Literal["user", "bridge"] = "user"
    bridge: str = ""
    create: bool = False  # make the bridge when it does not exist, remove it when nobody uses it
    address: str = ""  # `10.1.0.1/24` for a created bridge
    mtu: int = 1500
    isolated: bool = False
    cidr: str = ""  # of user-mode networking


class VolumeSpec(Message, frozen=True, kw_only=True):
    """Storage for disks. The devices service creates, grows, clones and deletes the file behind it."""

    size_mib: int
    format: Literal["raw", "qcow2"] = "qcow2"
    pool: str = "default"
    clone_of: str = ""  # a Volume to start from (qcow2: sharing its clusters)
    backing_file: str = ""  # an image file of the node to start from, never written
    backing_format: Literal["", "raw", "qcow2"] = ""
    preallocate: bool = False
    keep: bool = False  # True: deleting the document leaves the file


class NodeSpec(Message, frozen=True, kw_only=True):
    """What an operator says about a node; what it is is observed by discovery."""

    labels: dict[str, str] = {}
    maintenance: bool = False
    cpu_overcommit: float = 8.0
    memory_reserved_mib: int = 512
    failure_domain: str = ""


class ProviderSpec(Message, frozen=True, kw_only=True):
    """A back-end provider to load on a node: a module by entry-point name, with its settings."""

    backend: str
    node: str = ""
    settings: dict[str, str] = {}
    domain: str = ""  # a driver domain that serves it; empty: the devices service


class CredentialSpec(Message, frozen=True, kw_only=True):
    """A principal that may use the bus. The secret key never enters a document."""

    principal: str  # `operator/alice`, `observer/grafana`, `service/exporter`
    public_key: str  # CURVE key in Z85, 40 characters
    revoked: bool = False
    comment: str = ""


class ClusterSettingsSpec(Message, frozen=True, kw_only=True):
    """Settings of the whole cluster; there is exactly one such document, named `cluster`."""

    name: str = "manor"
    default_hypervisor: str = ""
    history_keep: int = 10_000
    operations_keep: int = 10_000
    concurrent_starts: int = 8


class Domain(Message, frozen=True, kw_only=True, tag_field="kind", tag="Domain"):
    """A virtual machine."""

    metadata: Metadata
    spec: DomainSpec = DomainSpec()


class Network(Message, frozen=True, kw_only=True, tag_field="kind", tag="Network"):
    """A network."""

    metadata: Metadata
    spec: NetworkSpec = NetworkSpec()


class Volume(Message, frozen=True, kw_only=True, tag_field="kind", tag="Volume"):
    """A volume."""

    metadata: Metadata
    spec: VolumeSpec


class Node(Message, frozen=True, kw_only=True, tag_field="kind", tag="Node"):
    """A node."""

    metadata: Metadata
    spec: NodeSpec = NodeSpec()


class Provider(Message, frozen=True, kw_only=True, tag_field="kind", tag="Provider"):
    """A back-end provider."""

    metadata: Metadata
    spec: ProviderSpec


class Credential(Message, frozen=True, kw_only=True, tag_field="kind", tag="Credential"):
    """A principal's public key."""

    metadata: Metadata
    spec: CredentialSpec


class ClusterSettings(Message, frozen=True, kw_only=True, tag_field="kind", tag="ClusterSettings"):
    """The cluster's settings."""

    metadata: Metadata
    spec: ClusterSettingsSpec = ClusterSettingsSpec()


AnyDocument = Domain | Network | Volume | Node | Provider | Credential | ClusterSettings


def kind_of(document: AnyDocument) -> str:
    """Return the `kind` of a document as written in YAML."""
    return type(document).__name__
