"""What a single field may hold, beyond its type: ranges and forms, as one table. Pure.

A rule speaks about a given value: what equals the field's default is always allowed. For a list it speaks
about each element, for a mapping about each (key, value).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, Final

from manor_bus.wire.messages import documents as d
from manor_config.selectors import LABEL_KEY, LABEL_VALUE, refusal

TEXT_MAX: Final = 1_024
LONG_TEXT_MAX: Final = 16_384
ELEMENTS_MAX: Final = 64  # of a list or a mapping
FIGURE_MAX: Final = 2**53  # what every language and JSON reader keeps exactly


@dataclass(frozen=True, slots=True)
class Rule:
    """`allowed` says in words what `ok` accepts."""

    allowed: str
    ok: Callable[[Any], bool]


def between(low: float, high: float) -> Rule:
    """Allow a range of numbers, both ends included."""
    return Rule(f"{low:,} to {high:,}".replace(",", "_"), lambda value: low <= value <= high)


def form(pattern: str, allowed: str) -> Rule:
    """Allow texts that match as a whole."""
    expression = re.compile(pattern)
    return Rule(allowed, lambda value: expression.fullmatch(value) is not None)


def text(longest: int, *, lines: bool = False) -> Rule:
    """Allow texts without control characters, or with line breaks and tabs."""
    refused = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]" if lines else "[\x00-\x1f\x7f\ud800-\udfff]")
    allowed = f"at most {longest} characters" + ("" if lines else " in one line")
    return Rule(allowed, lambda value: len(value) <= longest and refused.search(value) is None)


def _parses(parse: Callable[[str], object], allowed: str) -> Rule:
    def ok(value: str) -> bool:
        try:
            parse(value)
        except ValueError:
            return False
        return "%" not in value  # no scopes: they may hold anything

    return Rule(allowed, ok)


def _pairs(key: str, value: Rule, allowed: str) -> Rule:
    name = re.compile(key)
    return Rule(allowed, lambda pair: name.fullmatch(pair[0]) is not None and value.ok(pair[1]))


def _normal_path(value: str) -> bool:
    parts = value.split("/")
    return value.startswith("/") and TEXT.ok(value) and not {"", ".", ".."} & set(parts[1:])


def _affinity(value: str) -> bool:
    """`all`, or CPUs and ranges, `^` taking away, `node:` meaning all CPUs of NUMA nodes, as in xl."""
    if value == "all":
        return True
    for part in value.split(","):
        found = re.fullmatch(r" *\^? *(?:nodes?:)? *([0-9]{1,4})(?:-([0-9]{1,4}))? *", part)
        if found is None or (found[2] and int(found[2]) < int(found[1])):
            return False
    return True


TEXT: Final = text(TEXT_MAX)
LONG: Final = text(LONG_TEXT_MAX, lines=True)
NAME: Final = form(
    "[A-Za-z0-9][A-Za-z0-9_-]{0,62}", "1 to 63 letters, digits, _ or -, beginning with a letter or digit"
)
WORD: Final = form(
    "[A-Za-z0-9][A-Za-z0-9._+-]{0,62}", "1 to 63 letters, digits or ._+-, beginning with a letter or digit"
)
UUID: Final = form("[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", "a UUID, 8-4-4-4-12 hex digits")
FILE: Final = Rule("an absolute path without `.`, `..` or `//`", _normal_path)
MAC: Final = form(
    "[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}",
    "six hex bytes like 00:16:3e:12:34:56, not a group address",
)
NBD: Final = form(
    r"nbd(\+unix)?://[A-Za-z0-9._:\[\]-]*(/[A-Za-z0-9._~/%-]*)?(\?socket=/[A-Za-z0-9._~/%-]+)?",
    "nbd://host[:port]/export or nbd+unix:///export?socket=/path",
)
PCI: Final = form("([0-9A-Fa-f]{4}:)?[0-9A-Fa-f]{2}:[01][0-9A-Fa-f][.][0-7]", "an address like 0000:03:00.0")
USB: Final = form(
    r"[0-9A-Fa-f]{4}:[0-9A-Fa-f]{4}|[0-9]{1,3}([.][0-9]{1,3})+",
    "vendor:product like 046d:c52b, or bus.port",
)
LABELS: Final = _pairs(LABEL_KEY, form(LABEL_VALUE, ""), "letters, digits and ._/-; values also :@+")
NOTES: Final = _pairs(LABEL_KEY, LONG, f"keys like labels; values of at most {LONG_TEXT_MAX} characters")
SETTINGS: Final = _pairs(
    "[a-z][a-z0-9_.-]{0,62}", TEXT, "keys of small letters, digits and _.-; texts of one line"
)
LOOPBACK: Final = Rule(
    "a loopback address like 127.0.0.1",
    lambda value: _parses(ip_address, "").ok(value) and ip_address(value).is_loopback,
)
ADDRESS: Final = _parses(ip_interface, "an IP address, with /prefix if need be")
NETWORK: Final = _parses(ip_network, "a network like 10.0.2.0/24")
MIB: Final = between(1, 1_073_741_824)

FIELDS: Final[Mapping[type, Mapping[str, Rule]]] = {
    d.Metadata: {
        "name": NAME, "uuid": UUID, "labels": LABELS, "annotations": NOTES,
        "revision": between(0, FIGURE_MAX), "created": between(0, FIGURE_MAX),
        "modified": between(0, FIGURE_MAX),
    },
    d.Cpu: {
        "count": between(1, 1_024), "max": between(1, 1_024), "weight": between(1, 65_535),
        "cap": between(0, 102_400), "affinity": Rule("CPUs like 0-3,^2, all, or node:0", _affinity),
        "model": WORD, "sockets": between(1, 1_024), "cores": between(1, 1_024), "threads": between(1, 64),
    },
    d.Memory: {"size_mib": between(4, 16_777_216), "max_mib": between(4, 16_777_216)},
    d.Boot: {"kernel": FILE, "initrd": FILE, "cmdline": text(4_096), "order": NAME},
    d.Disk: {
        "id": NAME, "source": FILE, "volume": NAME, "nbd": NBD,
        "serial": form("[A-Za-z0-9_.-]{1,20}", "at most 20 letters, digits and _.-"),
        "boot": between(0, 9_999), "iops": between(1, 10**9), "bytes_per_second": between(512, 10**12),
        "provider": NAME,
    },
    d.Nic: {
        "id": NAME, "network": NAME, "mac": MAC, "mtu": between(68, 65_535), "ip": ADDRESS,
        "rate_kib_per_second": between(1, 10**9), "queues": between(1, 256), "vlan": between(1, 4_094),
        "provider": NAME,
    },
    d.Channel: {"id": NAME, "name": WORD, "path": FILE},
    d.Graphics: {"listen": LOOPBACK, "port": between(1, 65_535), "password_ref": NAME, "keymap": WORD},
    d.Pci: {"id": NAME, "address": PCI},
    d.Usb: {"id": NAME, "host": USB},
    d.OnSilence: {"after_s": between(10, 86_400)},
    d.HighAvailability: {"priority": between(0, 10_000), "max_restarts": between(0, 1_000)},
    d.Placement: {
        "node": NAME, "anti_affinity": NAME, "affinity": NAME,
        "selector": Rule("a selector like rack=a,!spare", lambda value: not refusal(value)),
    },
    d.DomainSpec: {
        "hypervisor": WORD, "machine": WORD, "title": text(256), "description": LONG,
        "clock_offset_s": between(-(2**31), 2**31), "smbios": SETTINGS,
        "shutdown_timeout_s": between(0, 86_400), "shutdown_repeat_s": between(0, 3_600),
        "start_order": between(-10_000, 10_000), "start_delay_s": between(0, 3_600), "depends_on": NAME,
        "label": form("[A-Za-z0-9_.:,-]{1,255}", "a label like alice:vm_r:web_t"),
    },
    d.NetworkSpec: {
        "bridge": form("[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", "1 to 15 letters, digits and _.-"),
        "address": ADDRESS, "mtu": between(68, 65_535), "cidr": NETWORK,
    },
    d.VolumeSpec: {"size_mib": MIB, "pool": NAME, "clone_of": NAME, "backing_file": FILE},
    d.NodeSpec: {
        "labels": LABELS, "cpu_overcommit": between(0.1, 1_000),
        "memory_reserved_mib": between(0, 16_777_216), "failure_domain": WORD,
    },
    d.ProviderSpec: {"backend": WORD, "node": NAME, "settings": SETTINGS, "domain": NAME},
    d.CredentialSpec: {
        "principal": form(
            "(operator|observer|service(?!/(config|discovery|lifecycle|devices)$))/[a-z0-9][a-z0-9_-]{0,62}",
            "operator/NAME, observer/NAME, or service/NAME other than Manor's own",
        ),
        "public_key": form(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}", "40 characters of Z85"),
    },
    d.ClusterSettingsSpec: {
        "name": WORD, "default_hypervisor": WORD, "history_keep": between(100, 10_000_000),
        "operations_keep": between(100, 10_000_000), "concurrent_starts": between(1, 1_000),
    },
}  # fmt: skip


def rule_of(struct: type, field: str) -> Rule | None:
    """Return what a field of a struct may hold, if there is more to say than its type."""
    return FIELDS.get(struct, {}).get(field)
