from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import inspect

from manor_bus.wire.messages import documents as d
from manor_config.documents import KINDS, Parsed, parse
from manor_config.effects import NOT_IN_FORCE, REFUSED
from manor_config.shapes import fields_of
from tests.config.examples import domain

SERVICES = Path(__file__).parents[2] / "services"
CLI = SERVICES.parent / "cli"
# Read by config itself, shown to people as they are, or read by a name that is put together.
ELSEWHERE: dict[type, set[str]] = {
    d.Metadata: {"annotations", "modified", "modified_by"},
    d.DomainSpec: {
        "title",
        "description",
        "on_poweroff",
        "on_reboot",
        "on_crash",
        "on_watchdog",
        "on_device_model_crash",
    },
    d.Disk: {"required"},
    d.Nic: {"required", "rate_kib_per_second", "vlan"},  # the table of back ends asks for them by name
    d.CredentialSpec: {"principal", "public_key", "revoked", "comment"},
    d.ClusterSettingsSpec: {"history_keep"},
}


def told(struct: type, name: str) -> bool:
    return name in REFUSED.get(struct, ()) or name in NOT_IN_FORCE.get(struct, ())


def fields() -> Iterator[tuple[type, str]]:
    todo: list[type] = list(KINDS.values())
    for struct in todo:
        for name, field in fields_of(struct).items():
            wanted = field.type.item_type if isinstance(field.type, inspect.VarTupleType) else field.type
            heard = not told(struct, name)  # else nothing below it is
            if heard and isinstance(wanted, inspect.StructType) and wanted.cls not in todo:
                todo.append(wanted.cls)
            yield struct, name


FIELDS = list(fields())


@pytest.fixture(scope="module")
def read() -> str:
    files = (f for room in ("lifecycle", "devices", "discovery") for f in (SERVICES / room).rglob("*.py"))
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def test_a_field_that_no_service_reads_is_refused_or_shown_as_not_in_force(read: str) -> None:
    silent = [
        (struct.__name__, name)
        for struct, name in FIELDS
        if not told(struct, name)
        and name not in ELSEWHERE.get(struct, ())
        and re.search(rf"\.{name}\b", read) is None
    ]
    assert silent == []


def test_the_tables_name_fields_that_there_are() -> None:
    named = {(s, name) for table in (REFUSED, NOT_IN_FORCE, ELSEWHERE) for s in table for name in table[s]}
    assert named <= set(FIELDS)
    assert not {(s, n) for s in REFUSED for n in REFUSED[s]} & {
        (s, n) for s in NOT_IN_FORCE for n in NOT_IN_FORCE[s]
    }


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (domain(cpu={"weight": 512}), "spec.cpu.weight"),
        (domain(cpu={"cap": 50}), "spec.cpu.cap"),
        (domain(nics=[{"id": "n", "ip": ["10.0.0.2"]}]), "spec.nics[0].ip"),
        (domain(pci=[{"id": "p", "address": "03:00.0", "permissive": True}]), "spec.pci[0].permissive"),
        (domain(placement={"selector": "rack=a"}), "spec.placement.selector"),
        (domain(placement={"affinity": ["db"]}), "spec.placement.affinity"),
        (domain(placement={"anti_affinity": ["db"]}), "spec.placement.anti_affinity"),
        (domain(channels=[{"id": "c"}]), "spec.channels"),
        (domain(ha={"restart": True}), "spec.ha"),
        (domain(label="alice:vm_r"), "spec.label"),
        ({"kind": "Node", "metadata": {"name": "n"}, "spec": {"maintenance": True}}, "spec.maintenance"),
        ({"kind": "Node", "metadata": {"name": "n"}, "spec": {"cpu_overcommit": 2}}, "spec.cpu_overcommit"),
        (
            {"kind": "Node", "metadata": {"name": "n"}, "spec": {"memory_reserved_mib": 1}},
            "spec.memory_reserved_mib",
        ),
        ({"kind": "Node", "metadata": {"name": "n"}, "spec": {"failure_domain": "a"}}, "spec.failure_domain"),
    ],
)
def test_a_wish_that_nobody_hears_is_refused(raw: Any, path: str) -> None:
    problems = parse(raw)
    assert isinstance(problems, list)
    assert [(one.path, one.reason) for one in problems] == [
        (path, "not supported yet; it would have no effect")
    ]


def test_what_only_says_the_default_is_no_wish() -> None:
    assert isinstance(parse(domain(ha={"priority": 100}, label="", channels=[], cpu={"cap": None})), Parsed)
