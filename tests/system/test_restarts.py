"""Real processes under load: each part is killed with -9, then replaced, and no caller notices.

A call may take as long as a restart does, but within its 10 s budget none fails, none is lost, and none has
its effect twice.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manor_bus.peer.blocking import Client
from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages import config, devices, discovery, lifecycle
from tests.system.nodes import Node, node

BUDGET_S = 10.0
PARTS = ("bus", "config", "discovery", "lifecycle", "devices")

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("restarts"), "--hypervisor", "fake") as made:
        with made.client() as client:
            documents = tuple(
                {"kind": "Domain", "metadata": {"name": f"load{n}"}, "spec": {"run": "always"}}
                for n in range(2)
            )
            client.call(config.Apply(documents=documents), config.Applied, timeout=BUDGET_S)
            for document in documents:
                _wait_state(client, str(document["metadata"]["name"]), "RUNNING")  # type: ignore[index]
        yield made


def _wait_state(client: Client, name: str, wanted: str) -> None:
    for change in client.watch("domain.*", timeout=30.0):
        value = getattr(change, "value", None)
        if value is not None and (value.name, value.state) == (name, wanted):
            return
    raise AssertionError(f"{name} did not become {wanted}")


class Load:
    """Callers that never stop: each kind of call in a thread of its own."""

    def __init__(self, running: Node) -> None:
        self._node = running
        self._stop = threading.Event()
        self.failures: list[str] = []
        self.done: Counter[str] = Counter()
        self.slowest = 0.0
        self.applied: list[int] = []  # revisions of acknowledged applies
        self.keys: list[str] = []  # of acknowledged operations
        kinds: tuple[Callable[[Client, int], None], ...] = (
            self._apply, self._toggle, self._find, self._devices,
        )  # fmt: skip
        self._threads = [threading.Thread(target=self._repeat, args=(kind,)) for kind in kinds]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60.0)

    def go_on(self, calls: int) -> None:
        """Wait until so many more calls have ended."""
        before = self.done.total()
        _until(lambda: self.done.total() > before + calls)

    def _repeat(self, kind: Callable[[Client, int], None]) -> None:
        name, n = kind.__name__, 0
        with self._node.client() as client:
            while not self._stop.is_set():
                n += 1
                began = time.monotonic()
                try:
                    kind(client, n)
                except ManorError as error:
                    self.failures.append(f"{name} {n} after {time.monotonic() - began:.1f} s: {error}")
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.done[name] += 1
                self._stop.wait(0.01)  # the load shall be steady, not the machine full

    def _apply(self, client: Client, n: int) -> None:
        document = {"kind": "Network", "metadata": {"name": "load", "annotations": {"n": str(n)}}, "spec": {}}
        done = client.call(config.Apply(documents=(document,)), config.Applied, timeout=BUDGET_S)
        self.applied.append(done.changes[0].revision)

    def _toggle(self, client: Client, n: int) -> None:
        verb = lifecycle.DomainPause if n % 2 else lifecycle.DomainResume
        key = f"load-{id(self)}-{n}"
        accepted = client.call(verb(name="load0"), lifecycle.Operation, timeout=BUDGET_S, key=key)
        follow = lifecycle.OperationFollow(id=accepted.id)
        ended = client.call(follow, lifecycle.Operation, timeout=BUDGET_S)
        if ended.state != lifecycle.OperationState.DONE:
            self.failures.append(f"operation {ended.id} ended {ended.state}: {ended.error}")
        self.keys.append(accepted.id)

    def _find(self, client: Client, n: int) -> None:
        names: list[str] = []
        found = client.call(
            discovery.Find(kind="domain"), discovery.Found, timeout=BUDGET_S,
            on_part=lambda part: names.extend(entry.fact.name for entry in part.entries),
        )  # fmt: skip
        if found.complete and len(names) < 2:
            self.failures.append(f"discovery {n} found {names}")

    def _devices(self, client: Client, n: int) -> None:
        client.call(devices.DeviceList(), devices.DevicesListed, timeout=BUDGET_S)


def _nothing_doubled(running: Node, load: Load) -> None:
    with running.client() as client:
        assert load.applied == sorted(set(load.applied)), "an acknowledged apply was lost or repeated"
        history = client.call(
            config.History(kind="Network", name="load", limit=10_000),
            config.HistoryListed,
            timeout=BUDGET_S,
        )
        assert set(load.applied) <= {entry.revision for entry in history.entries}
        recent = [entry for entry in history.entries if load.applied[0] <= entry.revision <= load.applied[-1]]
        assert len(recent) == len(load.applied), "an apply took effect twice"
        listed = client.call(
            lifecycle.OperationList(target="load0", limit=2_000),
            lifecycle.OperationsListed,
            timeout=BUDGET_S,
        )
        ids = Counter(operation.id for operation in listed.operations)
        assert all(ids[key] == 1 for key in load.keys), "an operation was lost or doubled"


def _uptimes(running: Node) -> dict[str, int]:
    rows = running.json("list", "--partial")  # after a restart under load not all may be heard yet
    return {row["name"]: row["generation"] for row in rows if row["state"] != "DEFINED"}


@pytest.mark.parametrize("part", PARTS)
def test_a_killed_part_comes_back_and_no_call_fails(running: Node, part: str) -> None:
    with Load(running) as load:
        _until(lambda: len(load.applied) > 5 and len(load.keys) > 5)
        for _ in range(2):
            running.wait_replaced(part, running.kill(part))
            load.go_on(20)
    assert load.failures == []
    assert load.slowest < BUDGET_S
    _nothing_doubled(running, load)
    _until(lambda: set(_uptimes(running)) == {"load0", "load1"})


@pytest.mark.parametrize("part", PARTS[1:])
def test_a_service_is_replaced_by_a_second_instance_and_no_call_fails(running: Node, part: str) -> None:
    with Load(running) as load:
        _until(lambda: len(load.applied) > 5 and len(load.keys) > 5)
        old = running.pid(part)
        running.manor("service", "replace", part)
        running.wait_replaced(part, old)
        load.go_on(20)
    assert load.failures == []
    _nothing_doubled(running, load)


def _until(condition: Callable[[], bool], timeout: float = 60.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "the load made no progress"
        threading.Event().wait(0.02)


def test_nothing_is_left_after_down(tmp_path: Path) -> None:
    with node(tmp_path, "--hypervisor", "fake") as made:
        pids = [row["pid"] for row in made.json("service", "list")]
        assert len(pids) == len(PARTS)
        made.manor("down")
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
