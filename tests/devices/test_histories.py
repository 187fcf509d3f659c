"""Any history of wishes, deaths and restarts: no limbo, nothing stale acts, records equal reality."""

import asyncio
import tempfile
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.devices import ConnectionState
from manor_devices.backends.fake import World
from manor_devices.connection import Connection
from manor_devices.machine import RESTING
from tests.devices.driving import UUID, Bench, key
from tests.testkit.virtual import VirtualLoop

S = ConnectionState
devices = st.sampled_from(["vda", "vdb"])
verbs = st.sampled_from(["prepare", "release"])
words = st.sampled_from(["ok", "refuse", "hang"])
HOLDING = {S.READY, S.CONNECTING, S.CONNECTED, S.DETACH_PENDING}
AT_PEACE = HOLDING | {S.ABSENT, S.FAILED}


class Histories(RuleBasedStateMachine):
    """The calls a lifecycle service could make, in any order, right and wrong, and what can break."""

    @initialize()
    def begin(self):
        self.loop, self.dead = VirtualLoop(), []
        self.folder = tempfile.TemporaryDirectory()
        self.bench = Bench(Path(self.folder.name), world=World(fresh=False))
        self.do(self.bench.start())
        self.run_number = 1
        self.handed = {}  # device key -> highest generation a front end was given
        self.calls = []

    def do(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def happen(self, what, *arguments):
        async def now():
            what(*arguments)

        self.do(now())

    def ask(self, coroutine):
        """Make a call; any answer is allowed, a hang is not."""

        async def bounded():
            try:
                return await asyncio.wait_for(coroutine, 30)
            except ManorError as error:
                return error

        return self.do(bounded())

    def present(self, device):
        slot = self.bench.driver.slots.get((UUID, self.run_number, device))
        return slot.connection if slot is not None else None

    # ---- wishes ----

    @rule(device=devices, policy=st.sampled_from(["wait", "detach"]))
    def connect(self, device, policy):
        answer = self.ask(self.bench.connect(device, self.run_number, within=20, on_provider_loss=policy))
        if not isinstance(answer, ManorError):
            before = self.handed.get((self.run_number, device), 0)
            assert answer.generation >= before
            self.handed[self.run_number, device] = answer.generation

    @rule(device=devices, older=st.integers(0, 2))
    def front_connected(self, device, older):
        self.tell(device, older, lambda k, g: self.bench.calls.connected(k, g), since=False)

    @rule(device=devices, older=st.integers(0, 2), pending=st.booleans())
    def front_refused(self, device, older, pending):
        self.tell(device, older, lambda k, g: self.bench.calls.refused(k, g, "in use", pending=pending))

    @rule(device=devices, older=st.integers(0, 2))
    def front_released(self, device, older):
        self.tell(device, older, lambda k, g: self.bench.calls.released(k, g, self.loop.time() + 5))

    def tell(self, device, older, call, *, since=True):
        self.do(asyncio.sleep(0.001))
        before = self.present(device)
        generation = before.generation - older if before is not None else 1
        answer = self.ask(call(key(device, self.run_number), generation))
        same = since and before is not None and 0 < before.since <= generation
        if before is not None and older and not same:
            assert isinstance(answer, ManorError)
            assert answer.kind is Kind.STALE
            assert self.present(device) == before

    @rule(device=devices, force=st.booleans())
    def detach(self, device, force):
        self.ask(self.bench.calls.detach(key(device, self.run_number), force=force))

    @rule()
    def the_run_ends(self):
        self.ask(self.bench.calls.domain_gone(UUID, self.run_number, self.loop.time() + 5))
        late = self.ask(self.bench.connect("vda", self.run_number, within=5))
        assert isinstance(late, ManorError)
        assert late.kind is Kind.STALE
        self.run_number += 1

    # ---- what breaks ----

    @rule(device=devices)
    def a_server_dies(self, device):
        self.happen(self.bench.world.kill, key(device, self.run_number))

    @rule(device=devices)
    def a_resource_goes(self, device):
        self.happen(self.bench.world.take_away, key(device, self.run_number))

    @rule()
    def the_back_end_dies(self):
        self.happen(self.bench.world.die)

    @rule(verb=verbs, word=words)
    def it_behaves(self, verb, word):
        self.bench.world.behaviour[verb] = word

    @rule(force=st.booleans())
    def unload(self, force):
        self.ask(self.bench.modules.unload("fake", force=force))

    @rule()
    def load(self):
        self.ask(self.bench.modules.load("fake"))

    @rule()
    def restart(self):
        self.do(self.bench.restart())

    @rule()
    def crash(self):
        """As kill -9 and a power cut in one: not one more step is done, what was not durable is lost."""
        self.dead.append(self.loop)
        now, self.loop = self.loop.time(), VirtualLoop()
        self.loop._virtual.now = now
        self.bench.world.tell = None
        self.do(self.bench.start())

    @rule(seconds=st.sampled_from([0.001, 1, 45, 400]))
    def time_passes(self, seconds):
        self.do(asyncio.sleep(seconds))

    # ---- what always holds ----

    @invariant()
    def what_is_served_was_written_down_before(self):
        for served, (generation, _) in self.bench.world.served.items():
            record = self.bench.records.get(f"connection/{UUID}/{served.incarnation}/{served.id}", Connection)
            assert record is None or record.generation >= generation

    @invariant()
    def only_a_served_generation_is_called_connected(self):
        for slot in self.bench.driver.slots.values():
            now = slot.connection
            if now.state is S.CONNECTED and not slot.queue:
                assert now.epoch > 0
                assert now.descriptor.generation == now.generation

    def teardown(self):
        if hasattr(self, "bench"):
            try:
                self.settle()
            finally:
                self.end()

    def end(self):
        for loop in (*self.dead, self.loop):
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(100))
            loop.close()
        self.folder.cleanup()

    def settle(self):
        self.bench.world.behaviour.clear()
        self.ask(self.bench.modules.load("fake"))
        self.do(asyncio.sleep(1_000))
        self.check_peace()
        self.do(self.bench.restart())
        self.do(asyncio.sleep(1_000))
        self.check_peace()
        self.do(self.bench.stop())

    def check_peace(self):
        connections = [slot.connection for slot in self.bench.driver.slots.values()]
        assert {connection.state for connection in connections} <= AT_PEACE <= RESTING
        holding = {c.request.key: (c.generation, c.epoch) for c in connections if c.state in HOLDING}
        assert self.bench.world.served == holding
        assert all(c.request.key.incarnation == self.run_number for c in connections)
        for connection in connections:
            k = connection.request.key
            if connection.generation == 0:  # asked for in vain: there was never anything to write down
                continue
            stored = self.bench.records.get(f"connection/{UUID}/{k.incarnation}/{k.id}", Connection)
            assert msgspec.json.encode(stored) == msgspec.json.encode(connection)


Histories.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestHistories = Histories.TestCase
