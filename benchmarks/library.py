"""Peers as a user writes them: our asyncio library against our broker, nats-py against nats-server.

A child process: `python -m benchmarks.library caller|service|publisher|subscriber manor|nats KEYS ENDPOINT`.
Both encode and decode the same structs with msgspec; nats-py gets no envelope, no key and no checks.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import nats
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from benchmarks import bodies
from manor_bus import keys
from manor_bus.peer import serving as service
from manor_bus.peer.aio import Change, Context, Peer
from manor_bus.settings import BusSettings
from manor_bus.wire import codec
from manor_bus.wire.messages.lifecycle import DomainShow, DomainStatus, Operation

SUBJECT: Final = "lifecycle.domain.show"
Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
Once = Callable[[], Awaitable[None]]


async def serve(answer: Answer) -> None:
    """Say ready, then answer the questions on standard input without stopping the loop."""
    print('{"ready": true}', flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await answer(json.loads(line))), flush=True)


async def peer(principal: str, folder: Path, endpoint: str) -> Peer:
    """Attach to our broker."""
    settings = BusSettings(
        node="n1", endpoint=endpoint, key_file=keys.key_file(folder, principal),
        broker_key_file=folder / "broker.pub",
    )  # fmt: skip
    made = service.connect(settings)
    await made.ready()
    return made


async def measure(question: dict[str, Any], once: Once) -> dict[str, Any]:
    """Call for some seconds, one after the other or many at a time."""
    outstanding, end = question["outstanding"], time.perf_counter() + question["seconds"]
    latencies: list[float] = []

    async def worker() -> None:
        while (asked := time.perf_counter()) < end:
            await once()
            latencies.append((time.perf_counter() - asked) * 1e6)

    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(outstanding)))
    latencies.sort()
    rate = len(latencies) / (time.perf_counter() - start)
    return {"p50_us": latencies[len(latencies) // 2], "rate": rate, "calls": len(latencies)}


# --- ours -------------------------------------------------------------------------------------------------


async def manor_caller(folder: Path, endpoint: str) -> None:
    """Calls through `Peer.call`."""
    mine = await peer("operator/admin", folder, endpoint)

    async def once() -> None:
        await mine.call(bodies.SHOW, DomainStatus, timeout=30)

    await serve(lambda question: measure(question, once))


async def manor_service(folder: Path, endpoint: str) -> None:
    """Answers through `Peer.serve`."""
    mine = await peer("service/lifecycle", folder, endpoint)

    def show(request: DomainShow, context: Context) -> DomainStatus:
        return bodies.STATUS

    mine.serve({DomainShow: show})
    await mine.call(bodies.SHOW, DomainStatus, timeout=10)  # we are reachable
    await serve(_nothing)


async def manor_publisher(folder: Path, endpoint: str) -> None:
    """Publishes through `Peer.state`, the way the services do."""
    mine = await peer("service/lifecycle", folder, endpoint)
    mine.serve({}, owns=("operation.*",))
    numbers = itertools.count()
    await mine.ready()

    async def publish(question: dict[str, Any]) -> dict[str, Any]:
        for number in itertools.islice(numbers, question["count"]):
            mine.state.put(*bodies.operation(number))
            if number & 63 == 63:
                await asyncio.sleep(0)  # let the loop send: a service publishes from many tasks
        return {}

    await serve(publish)


async def manor_subscribers(folder: Path, endpoint: str, count: int) -> None:
    """Watch through `Peer.watch`, every event (policy `gap`), each as a typed object."""
    peers = [await peer("operator/admin", folder, endpoint) for _ in range(count)]
    counter = _Counter(count)

    async def follow(index: int) -> None:
        stream = peers[index].watch("operation.>", policy="gap", snapshot=False, window=16_384)
        async for change in stream:
            if isinstance(change, Change):
                assert isinstance(change.value, Operation)
                counter.took(index)
            else:
                counter.live(index)

    tasks = [asyncio.create_task(follow(index)) for index in range(count)]
    await counter.all_live.wait()
    await serve(counter.answer)
    del tasks


# --- NATS -------------------------------------------------------------------------------------------------


async def _nats(folder: Path, endpoint: str) -> Nats:
    if not endpoint.startswith("tls://"):
        return await nats.connect(endpoint)
    certificate, key = folder.parent / "cert.pem", folder.parent / "key.pem"
    context = ssl.create_default_context(cafile=str(certificate))
    context.load_cert_chain(certificate, key)
    return await nats.connect(endpoint, tls=context)


async def nats_caller(folder: Path, endpoint: str) -> None:
    """Calls through `Client.request`."""
    mine = await _nats(folder, endpoint)

    async def once() -> None:
        reply = await mine.request(SUBJECT, codec.encode(bodies.SHOW), timeout=30)
        codec.decode(reply.data, DomainStatus)

    await serve(lambda question: measure(question, once))


async def nats_service(folder: Path, endpoint: str) -> None:
    """Answers through `Client.subscribe`."""
    mine = await _nats(folder, endpoint)

    async def show(message: Msg) -> None:
        codec.decode(message.data, DomainShow)
        await message.respond(codec.encode(bodies.STATUS))

    await mine.subscribe(SUBJECT, cb=show)
    await mine.flush()
    await serve(_nothing)


async def nats_publisher(folder: Path, endpoint: str) -> None:
    """Publishes through `Client.publish`."""
    mine = await _nats(folder, endpoint)
    numbers = itertools.count()

    async def publish(question: dict[str, Any]) -> dict[str, Any]:
        for number in itertools.islice(numbers, question["count"]):
            subject, operation = bodies.operation(number)
            await mine.publish(subject, codec.encode(operation))
        await mine.flush()
        return {}

    await serve(publish)


async def nats_subscribers(folder: Path, endpoint: str, count: int) -> None:
    """Subscribes, one connection each."""
    counter = _Counter(count)
    connections = [await _nats(folder, endpoint) for _ in range(count)]
    for index, connection in enumerate(connections):

        async def took(message: Msg, index: int = index) -> None:
            codec.decode(message.data, Operation)
            counter.took(index)

        await connection.subscribe("operation.>", cb=took)
        await connection.flush()
    await serve(counter.answer)


class _Counter:
    """Counts what each connection has had, and says when all have had enough."""

    def __init__(self, count: int) -> None:
        self._had = [0] * count
        self._wanted = 0
        self._live: set[int] = set()
        self._behind = count
        self._enough = asyncio.Event()
        self.all_live = asyncio.Event()

    def live(self, index: int) -> None:
        """A subscription stands."""
        self._live.add(index)
        if len(self._live) == len(self._had):
            self.all_live.set()

    def took(self, index: int) -> None:
        """One event."""
        self._had[index] += 1
        if self._had[index] == self._wanted:
            self._behind -= 1
            if self._behind == 0:
                self._enough.set()

    async def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Wait until every connection has had `count` events more."""
        self._wanted += question["count"]
        self._behind = sum(had < self._wanted for had in self._had)
        self._enough.clear()
        if self._behind:
            await self._enough.wait()
        return {"over": 0}


async def _nothing(question: dict[str, Any]) -> dict[str, Any]:
    return {}


async def main() -> None:
    """Be one of the four, of one of the two."""
    role, side, folder, endpoint, *rest = sys.argv[1:]
    if role == "subscriber":
        subscribers = manor_subscribers if side == "manor" else nats_subscribers
        await subscribers(Path(folder), endpoint, int(rest[1]))
        return
    roles = {
        ("caller", "manor"): manor_caller, ("caller", "nats"): nats_caller,
        ("service", "manor"): manor_service, ("service", "nats"): nats_service,
        ("publisher", "manor"): manor_publisher, ("publisher", "nats"): nats_publisher,
    }  # fmt: skip
    await roles[role, side](Path(folder), endpoint)


if __name__ == "__main__":
    asyncio.run(main())
