"""`python -m manor_cli.runner`: supervise without a terminal; lines go to the log of `manor up --detach`."""

from __future__ import annotations

import asyncio
import signal
import sys
import time

import click

from manor_bus.wire.errors import ManorError
from manor_cli import failures
from manor_cli.runner import supervise
from manor_cli.settings import Settings


def main() -> int:
    """Supervise until told to stop."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def report(line: str) -> None:
        click.echo(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {line}")

    try:
        asyncio.run(supervise.supervise(Settings.from_environment(), report))
    except (ManorError, OSError) as error:
        report(str(failures.known(error) or error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
