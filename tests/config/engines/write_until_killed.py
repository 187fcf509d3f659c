"""A process that commits and says what was acknowledged, until it is killed. Argument: a directory."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from manor_config.engines.place import Place
from manor_config.engines.sqlite import open_engine
from manor_config.revision import Transaction, Write


async def main() -> None:
    engine = open_engine(Place(Path(sys.argv[1])))

    async def client(number: int) -> None:
        for turn in range(1_000_000):
            key = f"c{number}/{turn}"
            outcome = await engine.txn(Transaction(writes=(Write(key, b"v"),), op_id=key))
            sys.stdout.write(f"{outcome.revision} {key}\n")
            sys.stdout.flush()

    await asyncio.gather(*(client(number) for number in range(8)))


asyncio.run(main())
