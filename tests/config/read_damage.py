"""A process that meets damage while it serves: it must end. Argument: a directory."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages import config as m
from tests.config.desk import opened
from tests.config.examples import domain


async def main(directory: Path) -> None:
    async with opened(directory) as desk:
        await desk.ask(m.Apply(documents=(domain(),)), m.Applied)
        with closing(sqlite3.connect(directory / "config.db")) as other:
            other.execute("UPDATE hist SET value=x'00'")
            other.commit()
        try:
            await desk.ask(m.History(kind="Domain", name="web"), m.HistoryListed)
        except ManorError as error:
            sys.stdout.write(f"{error.kind}\n")
            sys.stdout.flush()
        await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1])))
