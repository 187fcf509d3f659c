"""Make a state directory, start its services, and wait until every one of them is ready."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

import msgspec

from manor_bus import keys
from manor_bus.settings import BusSettings
from manor_bus.wire.errors import Kind, ManorError, Problem, bad_request, conflict, denied_state, unavailable
from manor_cli import owners, reach
from manor_cli.app import App
from manor_cli.runner import identity, instances, logs, present, supervise, systemd
from manor_cli.settings import Settings
from manor_host import durable

READY_S: Final = 60.0
SOCKET_PATH_MAX: Final = 100  # the kernel's limit is 107 bytes
NODE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
HYPERVISOR_VARIABLE: Final = "MANOR_HYPERVISOR"


def initialise(settings: Settings, node: str, *, adopt: bool = False) -> list[str]:
    """Create what is missing of a state directory: folders, identity, node name, keys. Returns what is new.

    `adopt`: it is a copy of another one and shall be a node of its own.
    """
    socket = str(settings.run / "supervisor.sock")
    if len(os.fsencode(socket)) > SOCKET_PATH_MAX:
        problem = Problem(path="--dir", value=socket, reason="too long a path for unix sockets")
        raise bad_request("the state directory's path is too long", problem, hint="choose a shorter --dir")
    made = [] if settings.directory.exists() else [f"created state directory {settings.directory}"]
    supervise.prepare(settings)
    made += identity.establish(settings.directory, adopt=adopt)
    made += [f"created {one}" for one in (*_name(settings, node), *keys.create(settings.keys))]
    return made


def _name(settings: Settings, node: str) -> list[str]:
    """Write the node's name down; a name that is there already stays."""
    known, recorded = _read(settings, "node"), identity.read(settings.directory)
    if node and known and node != known:
        raise conflict(f"this state directory belongs to node {known}", hint=f"manor node rename {node}")
    name = known or (recorded.name if recorded else "")
    name = name or node or settings.environment.get("MANOR_NODE") or settings.bus.node
    _check(name)
    if not known:
        _write(settings, "node", name)
    elif recorded is not None and recorded.name:  # somebody may have written another one
        _no_guests(settings, recorded.name, name)
    identity.named(settings.directory, name)
    return [] if known else [f"node name {name}"]


def _check(name: str) -> None:
    if not NODE_NAME.fullmatch(name):
        allowed = "lower case, digits and -"
        problem = Problem(path="--node", value=name, reason="not a node name", allowed=allowed)
        raise bad_request(f"{name!r} is not a node name", problem)


def rename(settings: Settings, name: str) -> str:
    """Give the node of a state directory another name, and remember the one it had, which is returned."""
    _check(name)
    before = _read(settings, "node")
    if not before:
        hint = f"manor init --node {name}"
        raise ManorError(Kind.NOT_FOUND, f"{settings.directory} has no node yet", hint=hint)
    if settings.environment.get("MANOR_NODE", name) != name:
        raise conflict("MANOR_NODE names this node", hint="change it where it is set")
    identity.named(settings.directory, before)
    _no_guests(settings, before, name)
    _write(settings, "node", name)
    identity.named(settings.directory, name)
    return before


def _no_guests(settings: Settings, before: str, name: str) -> None:
    """Refuse another name while guests run: they are the run of a node that would not be here any more."""
    if before != name and (running := present.guests(settings.directory)):
        message = f"{len(running)} guest processes of node {before} run, so it cannot be {name} now"
        raise denied_state(message, hint=f"shut them down first, as node {before}: manor down")


def settle(app: App) -> None:
    """Take over what the node had under another name, and say what is nobody's here."""
    known = identity.read(app.settings.directory)
    former = set(known.former if known else ()) - {app.settings.bus.node}
    if known and former:
        try:
            _take_over(app, former)
        except ManorError as error:
            app.note(f"what it had as {', '.join(sorted(former))} is not taken over yet ({error.message})")
        else:  # from now on another node may be called so
            identity.write(app.settings.directory, msgspec.structs.replace(known, former=()))
    for node, count in owners.elsewhere(app, {app.settings.bus.node}).items():
        app.note(f"{owners.domains(count)} of node {node}, which is not here: manor node take {node}")


def _take_over(app: App, former: set[str]) -> None:
    if count := owners.take(app, former):
        instances.restart(app, "lifecycle")
        names = ", ".join(sorted(former))
        app.note(f"{owners.domains(count)} of {names}, as this node was called, taken over")


def _read(settings: Settings, name: str) -> str:
    """Return the one word in a small file; empty when it is not there or was lost."""
    return (durable.read(settings.directory / name) or b"").decode("ascii", "replace").strip()


def _write(settings: Settings, name: str, word: str) -> None:
    durable.replace(settings.directory / name, f"{word}\n".encode("ascii"), 0o644)


def chosen(settings: Settings, hypervisor: str) -> Settings:
    """Return the settings with the hypervisor services shall use: as said, as the last time, or QEMU."""
    known = adapter(settings)
    wanted = hypervisor or known or settings.environment.get(HYPERVISOR_VARIABLE) or "qemu"
    if wanted == "qemu" and not any(map(shutil.which, ("qemu-system-x86_64", "qemu-system-aarch64"))):
        raise unavailable(
            "there is no QEMU on this machine",
            delivered=False,
            hint="install qemu-system-x86 and qemu-utils, or try it without: manor up --hypervisor fake",
        )
    if wanted != known:
        _write(settings, "hypervisor", wanted)
    environment = {**settings.environment, HYPERVISOR_VARIABLE: wanted}
    bus = BusSettings.from_environment(settings.principal, environment)
    return msgspec.structs.replace(settings, environment=environment, bus=bus)


def adapter(settings: Settings) -> str:
    """Return the hypervisor that was chosen; empty before the first start."""
    return _read(settings, "hypervisor")


def refuse_a_second(settings: Settings) -> None:
    """Refuse to start where a node lives: kept by a supervisor, by systemd, or by somebody out of sight."""
    here, hint = settings.directory, "`manor status` shows it, `manor down` ends it"
    if supervisor := present.supervisor(here):
        raise conflict(f"a node lives in {here} already (supervisor: pid {supervisor.pid})", hint=hint)
    if units := systemd.units(here):
        names = " ".join(unit.name for unit in units.values())
        raise conflict(f"a node lives in {here} already: systemd keeps {names} running", hint=hint)
    path = settings.bus.endpoint.removeprefix("ipc://")
    if path.startswith("/") and reach.listening(settings.bus) and "bus" not in present.services(here):
        hint = "end it where it was started, or choose another --dir"
        raise conflict(f"a broker that is not of {here} answers at {path}", hint=hint)


def detach(settings: Settings) -> subprocess.Popen[bytes]:
    """Start the supervisor as a process of its own session."""
    log = logs.opened(settings.log / "supervisor.log")
    try:
        return subprocess.Popen(
            present.daemon("manor_cli.runner"), env=present.outside(settings.environment), cwd="/",
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(log)


def until_ready(app: App, supervisor: subprocess.Popen[bytes] | None) -> list[instances.Row]:
    """Wait until every service answers that it is ready; `unavailable` with the reasons if that fails."""
    wanted = tuple(present.PROGRAMS)
    shown = [""]

    def enough(rows: Sequence[instances.Row]) -> bool:
        absent = instances.missing(rows, wanted)
        told = " ".join(f"{name}:{'wait' if name in absent else 'ready'}" for name in wanted)
        if told != shown[0]:
            shown[0] = told
            app.note(f"  {told}")
        return not absent

    def alive() -> None:
        if supervisor is not None and supervisor.poll() is not None:
            raise _failed(app.settings, f"the supervisor ended with exit code {supervisor.returncode}")

    rows = instances.wait(app, enough, app.timeout or READY_S, alive=alive)
    absent = instances.missing(rows, wanted)
    if absent:
        raise _failed(app.settings, f"not ready in time: {', '.join(absent)}", absent)
    return rows


def _failed(settings: Settings, reason: str, names: Sequence[str] = ("supervisor",)) -> ManorError:
    """Return why the start failed, with the last lines of the logs concerned."""
    told = [f"{name}: {line}" for name in names for line in logs.tail(settings.log / f"{name}.log", 5)]
    problems = tuple(Problem(path="log", reason=line) for line in told)
    hint = f"logs are in {settings.log}; `manor down` stops what was started"
    return ManorError(Kind.UNAVAILABLE, reason, problems=problems, hint=hint, delivered=False)


def summary(settings: Settings, rows: Sequence[instances.Row]) -> list[str]:
    """Return the lines that say where things are."""
    services = "  ".join(f"{row['name']} {row['pid']}" for row in rows)
    return [
        f"manor is up: node {settings.bus.node}, hypervisor {adapter(settings)}",
        f"  state     {settings.directory}",
        f"  bus       {settings.bus.endpoint}",
        f"  keys      {settings.keys} (you are {settings.principal})",
        f"  logs      {settings.log}",
        f"  services  {services}",
        "next: manor apply -f FILE; manor list; manor down",
    ]
