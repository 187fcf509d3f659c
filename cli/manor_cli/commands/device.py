"""`manor device`: devices of a domain. What is attached is written in its document; the rest follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click
import msgspec

from manor_bus.wire.errors import Problem, bad_request, conflict
from manor_bus.wire.messages import config
from manor_bus.wire.messages.documents import Channel, Disk, Domain, Nic, Pci, Usb
from manor_bus.wire.messages.lifecycle import DomainUnplug
from manor_cli import changes, follow, names, views
from manor_cli.app import App
from manor_cli.listing import devices
from manor_cli.output import answering, reason_option, show

SECTIONS: Final = {"disk": "disks", "nic": "nics", "channel": "channels", "pci": "pci", "usb": "usb"}
TYPES: Final[dict[str, Any]] = {"disk": Disk, "nic": Nic, "channel": Channel, "pci": Pci, "usb": Usb}


def _complete(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Complete a domain, then an id of its devices."""
    before = context.params.get("words") or ()
    found = names.completed(context, "device", f"{before[0]}/{begun}") if before else []
    return [path.partition("/")[2] for path in found] if before else names.completed(context, "domain", begun)


@click.group()
def device() -> None:
    """Attach, detach and list the devices of domains.

    \b
    Example:
      manor device attach web disk id=more volume=web-more
    """


@device.command("list")
@names.argument("domain", "domain", required=False)
@answering
def list_(app: App, domain: str, output: str) -> None:
    """List connections between devices and their back ends; of one DOMAIN if named.

    \b
    Example:
      manor device list web -o wide
    """
    show(app, views.DEVICES, devices(app, "", domain=domain), output)


@device.command()
@names.argument("domain", "domain")
@click.argument("type_", metavar="TYPE", type=click.Choice(list(SECTIONS)))
@click.argument("settings", metavar="KEY=VALUE...", nargs=-1, required=True)
@reason_option
@follow.wait_option
@answering
def attach(
    app: App, domain: str, type_: str, settings: Sequence[str], reason: str, wait: bool, output: str
) -> None:
    """Attach a device: KEY=VALUE as in the document's spec, `id` at least.

    \b
    Example:
      manor device attach web disk id=more source=/srv/more.qcow2 format=qcow2
      manor device attach web nic id=lan network=lan
    """
    wanted = described(type_, settings)
    document = _domain(app, domain)
    if wanted.id in _ids(document):
        raise conflict(
            f"domain {domain} has a device {wanted.id} already", hint=f"manor device list {domain}"
        )
    present = getattr(document.spec, SECTIONS[type_])
    changed = {SECTIONS[type_]: (*present, wanted)}
    changes.post(app, _with(document, changed, reason), output, wait=wait, device=wanted.id)


@device.command()
@click.argument("words", metavar="DOMAIN ID", nargs=-1, required=True, shell_complete=_complete)
@click.option("--force", is_flag=True, help="The guest is not asked.")
@reason_option
@follow.wait_option
@answering
def detach(app: App, words: Sequence[str], force: bool, reason: str, wait: bool, output: str) -> None:
    """Detach a device. A guest that refuses to let go keeps it, and is asked again by repeating the command.

    \b
    Example:
      manor device detach web more
      manor device detach web more --force
    """
    domain, device_id = _device(words)
    document = _domain(app, domain)
    for section in SECTIONS.values():
        present = getattr(document.spec, section)
        kept = tuple(one for one in present if one.id != device_id)
        if len(kept) != len(present):
            request = _with(document, {section: kept}, reason)
            changes.post(app, request, output, wait=wait and not force, device=device_id)
            if not force:
                return
    again = DomainUnplug(name=domain, device=device_id, force=force, reason=reason)
    follow.each(app, [domain], lambda _: again, wait=wait, form=output)


def _device(words: Sequence[str]) -> tuple[str, str]:
    """Return domain and id of `web root`, `web/root`, or `device/web/root` as `-o name` prints it."""
    parts = words[0].removeprefix("device/").split("/") if len(words) == 1 else list(words)
    if len(parts) != 2:
        raise click.UsageError("name one device: DOMAIN ID, or device/DOMAIN/ID")
    return names.bare("domain", parts[0]), parts[1]


def described(type_: str, settings: Sequence[str]) -> Any:
    """Return the device that KEY=VALUE words describe; every word is checked against the document's type."""
    found: dict[str, Any] = {}
    for word in settings:
        key, equals, value = word.partition("=")
        if not equals or key not in TYPES[type_].__struct_fields__:
            allowed = ", ".join(TYPES[type_].__struct_fields__)
            problem = Problem(path=key, value=word, reason="not KEY=VALUE of this type", allowed=allowed)
            raise bad_request(f"{word!r} does not describe a {type_}", problem)
        found[key] = value.split(",") if key == "ip" else value
    try:
        return msgspec.convert(found, TYPES[type_], strict=False)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        problem = Problem(path=path.rstrip("`"), reason=reason)
        raise bad_request(f"this does not describe a {type_}", problem) from None


def _ids(document: Domain) -> list[str]:
    return [one.id for section in SECTIONS.values() for one in getattr(document.spec, section)]


def _domain(app: App, name: str) -> Domain:
    document = app.call(config.Get(kind="Domain", name=name), config.Got).document
    assert isinstance(document, Domain)
    return document


def _with(document: Domain, changed: dict[str, Any], reason: str) -> config.Apply:
    """Return the request to write the document with other devices."""
    spec = msgspec.structs.replace(document.spec, **changed)
    return changes.written(msgspec.structs.replace(document, spec=spec), reason=reason)
