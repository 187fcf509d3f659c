"""`manor volume`: storage for disks. A volume is a document; the devices service makes the file behind it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import click
import msgspec

from manor_bus.wire.messages import config
from manor_bus.wire.messages.documents import Metadata, Volume, VolumeSpec
from manor_cli import changes, follow, names
from manor_cli.app import App
from manor_cli.listing import listed
from manor_cli.output import answering, reason_option

_SIZE: Final = re.compile(r"(\d{1,9})(M|MiB|G|GiB|T|TiB)")
_FACTOR: Final = {"M": 1, "G": 1024, "T": 1_048_576}


def size_mib(_context: click.Context, option: click.Parameter, value: str | None) -> int:
    """Return a size in MiB: `512M`, `20G`, `1T`; 0 when there is none. A number alone has no unit."""
    if value is None:
        return 0
    match = _SIZE.fullmatch(value)
    if match is None:
        message = f"{value!r} is not a size; write 512M, 20G or 1T"
        raise click.BadParameter(message, param=option)
    return int(match[1]) * _FACTOR[match[2][:1]]


@click.group()
def volume() -> None:
    """Create, grow, clone and delete volumes.

    \b
    Example:
      manor volume create web-root --size 10G
    """


@volume.command("list")
@answering
def list_(app: App, output: str) -> None:
    """List the volumes of this node with their state and who uses them.

    \b
    Example:
      manor volume list -o wide
    """
    listed(app, "volume", output)


@volume.command()
@click.argument("name")
@click.option("--size", callback=size_mib, required=True, help="Size: 512M, 20G.")
@click.option("--format", "format_", type=click.Choice(["qcow2", "raw"]), default="qcow2", show_default=True)
@click.option("--backing-file", default="", help="Image file to start from; never written.")
@click.option("--backing-format", type=click.Choice(["", "raw", "qcow2"]), default="")
@click.option("--preallocate", is_flag=True, help="Take the space now.")
@click.option("--keep", is_flag=True, help="Deleting the volume leaves the file.")
@follow.wait_option
@answering
def create(
    app: App, name: str, size: int, format_: Any, backing_file: str, backing_format: Any, preallocate: bool,
    keep: bool, wait: bool, output: str,
) -> None:  # fmt: skip
    """Create a volume.

    \b
    Example:
      manor volume create web-root --size 10G
      manor volume create web-root --size 10G --backing-file /srv/debian.qcow2 --backing-format qcow2
    """
    spec = VolumeSpec(
        size_mib=size, format=format_, backing_file=backing_file, backing_format=backing_format,
        preallocate=preallocate, keep=keep,
    )  # fmt: skip
    _make(app, name, spec, output, wait=wait)


@volume.command()
@names.argument("volume")
@click.option("--size", callback=size_mib, required=True, help="New size; volumes only grow.")
@follow.wait_option
@answering
def resize(app: App, name: str, size: int, wait: bool, output: str) -> None:
    """Grow a volume; one in use grows when it is detached.

    \b
    Example:
      manor volume resize web-root --size 20G
    """
    document = _volume(app, name)
    spec = msgspec.structs.replace(document.spec, size_mib=size)
    request = changes.written(msgspec.structs.replace(document, spec=spec))
    changes.post(app, request, output, wait=wait)


@volume.command()
@names.argument("volume", "source")
@click.argument("name")
@click.option("--size", callback=size_mib, help="Size, when the clone shall be larger.")
@follow.wait_option
@answering
def clone(app: App, source: str, name: str, size: int, wait: bool, output: str) -> None:
    """Make volume NAME as a copy of SOURCE; a qcow2 clone shares what was not changed since.

    \b
    Example:
      manor volume clone golden web-root
    """
    original = _volume(app, source).spec
    spec = VolumeSpec(
        size_mib=size or original.size_mib, format=original.format, pool=original.pool, clone_of=source
    )
    _make(app, name, spec, output, wait=wait)


@volume.command()
@names.argument("volume")
@click.argument("new_name")
@reason_option
@follow.wait_option
@answering
def rename(app: App, name: str, new_name: str, reason: str, wait: bool, output: str) -> None:
    """Give a volume another name; its file stays, and documents that use it follow.

    \b
    Example:
      manor volume rename web-root web-old
    """
    request = config.Rename(kind="Volume", name=name, new_name=new_name, reason=reason)
    changes.post(app, request, output, wait=wait)


@volume.command()
@names.argument("volume", "names", many=True)
@reason_option
@answering
def delete(app: App, names: Sequence[str], reason: str, output: str) -> None:
    """Delete volumes and their files, all or none; refused while a domain uses one.

    \b
    Example:
      manor volume delete web-root
    """
    references = tuple(config.Reference(kind="Volume", name=name) for name in names)
    changes.post(app, config.Delete(references=references, reason=reason), output)


def _make(app: App, name: str, spec: VolumeSpec, output: str, *, wait: bool) -> None:
    document = Volume(metadata=Metadata(name=name), spec=spec)
    changes.post(app, changes.written(document, new=True), output, wait=wait)


def _volume(app: App, name: str) -> Volume:
    document = app.call(config.Get(kind="Volume", name=name), config.Got).document
    assert isinstance(document, Volume)
    return document
