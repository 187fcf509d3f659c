"""`manor config`: backup and restore of all documents."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import click

from manor_bus.wire.errors import Kind, ManorError, Problem, bad_request
from manor_bus.wire.messages.config import Backup, BackupChunk, BackupDone, Restore, Restored
from manor_cli import follow
from manor_cli.app import App

CHUNK_BYTES: int = 524_288


@click.group()
def config() -> None:
    """Back up and restore the store of documents.

    \b
    Example:
      manor config backup manor.db
    """


@config.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def backup(app: App, file: Path) -> None:
    """Write a consistent copy of the store to FILE, while it is in use.

    \b
    Example:
      manor config backup manor-$(date +%F).db
    """
    if file.exists() and not file.is_file():
        problem = Problem(
            path="FILE", value=str(file), reason="no regular file; the copy would take its place"
        )
        raise bad_request(f"{file} is no file", problem)
    digest, size, file = hashlib.sha256(), 0, file.resolve()  # a link stays one
    partial = file.with_name(f".{file.name}.part")
    try:
        with partial.open("wb") as written:

            def take(chunk: BackupChunk) -> None:
                nonlocal size
                written.write(chunk.content)
                digest.update(chunk.content)
                size += len(chunk.content)

            done = app.call(Backup(), BackupDone, timeout=app.patience, on_part=take)
            written.flush()
            os.fsync(written.fileno())
        if (done.size, done.sha256) != (size, digest.hexdigest()):
            message = f"the copy arrived incomplete: {size} of {done.size} bytes"
            raise ManorError(Kind.INTERNAL, message, hint="repeat the command")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    app.out(f"{file}: revision {done.revision}, {size} bytes, sha256 {done.sha256}")


@config.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
@click.option(
    "--accept-loss", is_flag=True, help="No backup: where the store lost something, go on with the rest."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Runs that lose their document go on without one.")
@click.pass_obj
def restore(app: App, file: Path | None, accept_loss: bool, yes: bool, force: bool) -> None:
    """Replace all documents by those of a backup. Running domains are brought in line with them; who owns
    them stays as it is.

    \b
    Example:
      manor config restore manor.db --yes
    """
    if (file is None) != accept_loss:
        raise click.UsageError("name the FILE of a backup, or say --accept-loss")
    if file is None:
        if not yes:
            app.confirmed("Go on without the documents that were lost?")
        done = app.call(Restore(upload="", offset=0, content=b"", accept_loss=True), Restored)
        app.out(f"the store is at revision {done.revision}")
        return
    if not yes:
        app.confirmed(f"Replace all documents of {app.settings.directory} by {file}?")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    size, upload, offset = file.stat().st_size, follow.new_id(), 0
    with file.open("rb") as read:
        while True:
            content = read.read(CHUNK_BYTES)
            last = offset + len(content) >= size
            done = app.call(
                Restore(
                    upload=upload,
                    offset=offset,
                    content=content,
                    last=last,
                    sha256=digest if last else "",
                    force=force,
                ),
                Restored,
                timeout=app.patience,
            )
            offset += len(content)
            if last:
                break
    app.out(f"restored {done.size} bytes; the store is at revision {done.revision}")
    for uuid in done.left:
        app.out(f"domain {uuid} runs or is saved and has no document now: see `manor list`")
