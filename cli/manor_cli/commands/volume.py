"""`manor volume`: storage for disks. A volume is a document; the devices service makes the file behind it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import click
import msgspec

from manor_bus.wire.messages import config
from manor_bus.wire.messages.documents import Metadata, Volume, VolumeSpec
from manor_cli import changes, follow, names, settle
from manor_cli.app import App
from manor_cli.listing import listed
from manor_cli.output import output_option, reason_option

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
@output_option
@click.pass_obj
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
@output_option
@click.pass_obj
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
    _write(app, Volume(metadata=Metadata(name=name), spec=spec), new=True, wait=wait, form=output)


@volume.command()
@names.argument("volume")
@click.option("--size", callback=size_mib, required=True, help="New size; volumes only grow.")
@follow.wait_option
@output_option
@click.pass_obj
def resize(app: App, name: str, size: int, wait: bool, output: str) -> None:
    """Grow a volume; one in use grows when it is detached.

    \b
    Example:
      manor volume resize web-root --size 20G
    """
    document = _volume(app, name)
    spec = msgspec.structs.replace(document.spec, size_mib=size)
    _write(app, msgspec.structs.replace(document, spec=spec), new=False, wait=wait, form=output)


@volume.command()
@names.argument("volume", "source")
@click.argument("name")
@click.option("--size", callback=size_mib, help="Size, when the clone shall be larger.")
@follow.wait_option
@output_option
@click.pass_obj
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
    _write(app, Volume(metadata=Metadata(name=name), spec=spec), new=True, wait=wait, form=output)


@volume.command()
@names.argument("volume", "names", many=True)
@reason_option
@output_option
@click.pass_obj
def delete(app: App, names: Sequence[str], reason: str, output: str) -> None:
    """Delete volumes and their files, all or none; refused while a domain uses one.

    \b
    Example:
      manor volume delete web-root
    """
    references = tuple(config.Reference(kind="Volume", name=name) for name in names)
    request = config.Delete(references=references, reason=reason)
    changes.told(app, app.call(request, config.Applied, key=follow.new_id()), output)


def _volume(app: App, name: str) -> Volume:
    document = app.call(config.Get(kind="Volume", name=name), config.Got).document
    assert isinstance(document, Volume)
    return document


def _write(app: App, document: Volume, *, new: bool, wait: bool, form: str) -> None:
    """Write the document, and wait until there is such a volume. A new one must not exist yet."""
    content = msgspec.to_builtins(document)
    content["metadata"]["revision"] = 0 if new else document.metadata.revision
    applied = app.call(config.Apply(documents=(content,)), config.Applied, key=follow.new_id())
    changes.told(app, applied, form)
    if wait:
        settle.wait(app, applied.changes)
