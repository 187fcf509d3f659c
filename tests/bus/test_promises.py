"""The fourteen promises of the bus, held in histories in which anything may happen.

A failure prints the steps, which are the shortest known, and a line to repeat it.
"""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from manor_bus.broker.switch import LIMITS
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.messages import bus as words
from tests.testkit.chance import SEARCH
from tests.testkit.promises import HEAL_S, World, unexpected

BUDGETS = st.sampled_from([0.02, 0.2, 1.0, 3.0])
MODES = st.sampled_from(["quick", "quick", "slow", "hang", "refuse", "tell"])
NAMES = st.sampled_from("abc")
POLICIES = st.sampled_from(["coalesce", "gap", "kick"])
PICK = st.integers(0, 99)
TIMES = st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.7, 2.0])


def held(broken):
    """Fail with what was seen, if anything was."""
    assert not broken, "\n".join(broken[:5])


class Anything(RuleBasedStateMachine):
    """Histories. Each rule is something that happens; each invariant a promise."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed):
        self.world = World(seed)

    def of(self, some, pick):
        return some[pick % len(some)]

    # --- applications ---------------------------------------------------------------------------------

    @rule(pick=PICK, timeout=BUDGETS, mode=MODES, changes=st.booleans())
    def call(self, pick, timeout, mode, changes):
        self.world.call(self.of(self.world.callers, pick), timeout, mode, changes=changes)

    @rule(pick=PICK, timeout=BUDGETS)
    def call_again_with_the_same_key(self, pick, timeout):
        changing = [call for call in self.world.calls if call.changes]
        if changing:
            caller, before = self.of(self.world.callers, pick), self.of(changing, pick)
            self.world.call(caller, timeout, "quick", changes=True, key=before.key)

    @rule(pick=PICK)
    def withdraw(self, pick):
        under_way = [call for call in self.world.calls if not call.task.done()]
        if under_way:
            self.of(under_way, pick).task.cancel()
            self.world.run(asyncio.sleep(0))

    @rule(policy=POLICIES, pace=st.sampled_from([0.0, 0.0, 0.05, 0.5]), calls=st.booleans(), name=NAMES)
    def watch(self, policy, pace, calls, name):
        """Maybe somebody who also calls; while something changes."""
        world = self.world
        if len(world.watchers) < 3 and not (calls and policy == "kick"):  # its calls would go with it
            world.run(world.watch(policy, pace, world.callers[0] if calls else None))
            if world.servers:
                world.put(name, 3)

    @rule(name=NAMES)
    def watch_again_while_something_changes(self, name):
        """Each begins in a turn of the broker in which something has collected for those before it."""
        world = self.world
        for _ in range(3):
            if world.servers and len(world.watchers) < 4:
                world.put(name, 3)
                world.run(asyncio.sleep(0.001))  # so it is there before the wish
                world.run(world.watch("gap", 0.0, world.callers[1]))
                world.run(asyncio.sleep(0.003))

    # --- services -------------------------------------------------------------------------------------

    @rule(name=NAMES, count=st.sampled_from([1, 3, 30]))
    def change_state(self, name, count):
        if self.world.servers:
            self.world.put(name, count)

    @rule(name=NAMES)
    def end_an_object(self, name):
        if self.world.servers:
            self.world.drop(name)

    @rule()
    def start_a_service(self):
        if len(self.world.servers) < 2:
            self.world.run(self.world.start_server())

    @rule(pick=PICK)
    def kill_a_service(self, pick):
        if self.world.servers:
            server = self.of(self.world.servers, pick)
            self.world.left(server)
            self.world.kill(server.peer)

    @rule(pick=PICK)
    def stop_a_service(self, pick):
        if self.world.servers:
            server = self.of(self.world.servers, pick)
            self.world.left(server)
            self.world.run(self.world.stop(server))

    # --- trouble --------------------------------------------------------------------------------------

    @rule(seconds=TIMES)
    def wait(self, seconds):
        self.world.run(asyncio.sleep(seconds))

    @rule(name=NAMES, count=st.sampled_from([0, 30]))
    def leave_everybody_in_peace(self, name, count):
        """After which all agree, also when it begins with more than a slow reader takes."""
        world = self.world
        if world.servers and count:
            world.put(name, count)
        world.run(world.settle())
        held(world.promise_8_convergence())
        held(world.promise_12_restart())

    @rule(pause=st.sampled_from([0.0, 0.3, 2.0]))
    def restart_the_broker(self, pause):
        """Promise 12 is looked at a second after it has come back."""
        world = self.world
        world.network.kill_broker()
        world.run(asyncio.sleep(pause))
        world.start_broker()
        world.run(asyncio.sleep(HEAL_S))
        if not world.denied and not world.frozen:
            held(world.promise_12_restart())

    @rule(pick=PICK, noticed=st.sampled_from([0.0, 0.02, 0.3]))
    def lose_a_connection(self, pick, noticed):
        world = self.world
        everybody = [*world.callers, *(w.peer for w in world.watchers), *(s.peer for s in world.servers)]
        self.of(everybody, pick)._link.drop(noticed)

    @rule(pick=PICK, mode=MODES, changes=st.booleans())
    def cut_a_caller_off_and_refuse_it_then(self, pick, mode, changes):
        """What was sent before may have run, whatever is said of a later try."""
        world = self.world
        caller = self.of(world.callers, pick)
        world.call(caller, 3.0, mode, changes=changes)
        world.run(asyncio.sleep(0.01))
        caller._link.drop(0.0)
        world.change_policy(world.denied | {("operator/admin", "call", "lifecycle.>")})
        world.run(asyncio.sleep(0.2))

    @rule(pick=PICK, name=NAMES)
    def cut_a_watcher_off_that_is_behind(self, pick, name):
        world = self.world
        if world.watchers and world.servers:
            world.put(name, 30)
            world.run(asyncio.sleep(0.01))
            self.of(world.watchers, pick).peer._link.drop(0.0)
            world.run(asyncio.sleep(0.7))

    @rule(pick=PICK, timeout=st.sampled_from([0.02, 0.2]), changes=st.booleans())
    def freeze_a_service_for_longer_than_a_budget(self, pick, timeout, changes):
        world = self.world
        if world.servers:
            link = self.of(world.servers, pick).peer._link
            link.freeze()
            world.call(self.of(world.callers, pick), timeout, "quick", changes=changes)
            world.run(asyncio.sleep(timeout + 0.1))
            link.thaw()

    @rule(pick=PICK)
    def let_the_broker_forget_somebody(self, pick):
        """Its connection stays, and what it says next is answered by a reset."""
        network = self.world.network
        if network._waiting is None and network.by_conn:
            conn = self.of(list(network.by_conn), pick)
            network.switch.gone(conn, "audit", self.world.time())
            network.pump()

    @rule(pick=PICK)
    def freeze_somebody(self, pick):
        world = self.world
        everybody = [*(w.peer for w in world.watchers), *(s.peer for s in world.servers)]
        if everybody:
            peer = self.of(everybody, pick)
            peer._link.freeze()
            world.frozen.append(peer)

    @precondition(lambda self: self.world.frozen)
    @rule()
    def thaw_everybody(self):
        for peer in self.world.frozen:
            peer._link.thaw()
        self.world.frozen.clear()
        self.world.run(asyncio.sleep(0))

    @rule(pick=PICK, seconds=st.sampled_from([0.05, 0.5, 2.5]), timeout=BUDGETS, changes=st.booleans())
    def freeze_the_broker_while_somebody_calls(self, pick, seconds, timeout, changes):
        self.world.network.freeze_broker()
        self.world.call(self.of(self.world.callers, pick), timeout, "quick", changes=changes)
        self.world.run(asyncio.sleep(seconds))
        self.world.network.thaw_broker()

    @rule(
        what=st.sampled_from(
            [("observer/eye", "watch", "operation.*"), ("operator/admin", "call", "lifecycle.>"),
             ("operator/admin", "call", "lifecycle.domain.start"),
             ("service/lifecycle", "publish", "operation.a")]
        )
    )  # fmt: skip
    def flip_the_policy(self, what):
        self.world.change_policy(self.world.denied ^ {what})

    # --- a hostile peer -------------------------------------------------------------------------------

    @rule(garbage=st.binary(max_size=20))
    def send_garbage(self, garbage):
        self.world.hostile.link.send(garbage)

    @rule(pick=PICK, last=st.booleans())
    def forge_a_reply(self, pick, last):
        pending = list(self.world.network.switch.sessions.pending)
        if pending:
            caller, request = self.of(pending, pick)
            kind = Frame.REP if last else Frame.PART
            self.world.hostile.say(k=kind, to=caller, re=request, last=last, data={"forged": True})

    @rule(pick=PICK)
    def cancel_anothers_call(self, pick):
        self.world.call(self.of(self.world.callers, pick), 1.0, "hang", changes=False)
        self.world.run(asyncio.sleep(0.01))
        pending = list(self.world.network.switch.sessions.pending)
        if pending:
            self.world.hostile.say(k=Frame.CANCEL, re=self.of(pending, pick)[1])

    @rule(name=NAMES)
    def forge_an_event(self, name):
        forged = {"k": Frame.PUB, "subject": f"operation.{name}", "epoch": "f" * 16, "rev": 999_999}
        self.world.hostile.say(**forged, data={"forged": True})

    @rule(policy=POLICIES, tap=st.booleans())
    def subscribe_and_never_read(self, policy="gap", tap=False):
        self.world.hostile.sid = sid = self.world.next()
        wish = words.Subscribe(sid=sid, window=2, window_bytes=500, policy=policy, tap=tap)
        self.world.hostile.say(k=Frame.SUB, id="s", to=">", data=wish)

    @rule(messages=st.integers(0, 9), size=st.sampled_from([0, 0, 100_000]))
    def claim_credit(self, messages, size):
        if not self.world.hostile.sid:
            self.subscribe_and_never_read()
        credit = words.Credit(sid=self.world.hostile.sid, messages=messages, size=size)
        self.world.hostile.say(k=Frame.CREDIT, data=credit)

    @rule(count=st.sampled_from([1, 40]))
    def flood_with_calls(self, count):
        for _ in range(count):
            to = "lifecycle.operation.show"
            self.world.hostile.say(k=Frame.REQ, id=f"m{self.world.next()}", to=to, timeout=50)

    @rule(pick=PICK)
    def greet_in_anothers_name(self, pick):
        others = [*self.world.callers, *(server.peer for server in self.world.servers)]
        self.world.hostile.hello(self.of(others, pick).session.instance)

    # --- the promises ---------------------------------------------------------------------------------

    @invariant()
    def promise_1_order_5_one_delivery_11_authenticity_13_transparency(self):
        held(self.world.broken)

    @invariant()
    def promise_2_every_request_ends_by_its_budget(self):
        held(self.world.promise_2_termination())

    @invariant()
    def promise_3_what_was_not_delivered_does_not_run(self):
        held(self.world.promise_3_honesty())

    @invariant()
    def promise_4_nothing_starts_after_its_budget(self):
        held(self.world.promise_4_no_zombies())

    @invariant()
    def promise_6_one_key_one_effect_one_reply(self):
        held(self.world.promise_6_once())

    @invariant()
    def promise_7_no_silent_loss(self):
        held(self.world.promise_7_no_silent_loss())

    @invariant()
    def promise_9_what_the_broker_holds_is_bounded(self):
        held(self.world.promise_9_bounded())

    @invariant()
    def nothing_crashes_and_every_error_is_one_of_the_expected(self):
        held(self.world.crashes())
        held([wrong for call in self.world.calls if (wrong := unexpected(call))])

    def teardown(self):
        world = getattr(self, "world", None)
        if world is None:
            return
        try:
            self.leave_everybody_in_peace("a", 0)
            assert all(call.task.done() for call in world.calls)  # promise 2: nothing is under way for ever
            self.promise_3_what_was_not_delivered_does_not_run()
            self.promise_6_one_key_one_effect_one_reply()
            self.nothing_crashes_and_every_error_is_one_of_the_expected()
        finally:
            world.close()


def search(examples, steps=40):
    run_state_machine_as_test(
        Anything, settings=settings(SEARCH, max_examples=examples, stateful_step_count=steps)
    )


def test_the_promises_hold_whatever_happens():
    search(250)


@pytest.fixture
def world():
    made = World(1, LIMITS)
    yield made
    made.close()


async def load(world, seconds, timeout):
    """Somebody calls a hundred times a second; every other call changes something."""
    for number in range(int(seconds * 100)):
        world.call(
            world.callers[number % 2], timeout, "quick" if number % 3 else "slow", changes=number % 2 == 0
        )
        await asyncio.sleep(0.01)


@settings(SEARCH, max_examples=5)
@given(seed=st.integers(0, 2**32))
def test_promise_14_a_rolling_replacement_under_load_fails_no_call(seed):
    world = World(seed, LIMITS)

    async def replace():
        for _ in range(4):
            old = world.servers[0]
            await world.start_server()
            await world.servers[-1].peer.ready()
            world.servers.remove(old)
            await world.stop(old)
            await asyncio.sleep(0.2)

    async def both():
        await asyncio.gather(load(world, 2.5, 5.0), replace())
        await asyncio.sleep(5.0)

    try:
        world.run(both())
        assert [str(call.task.exception()) for call in world.calls if not call.replied] == []
        held(world.promise_6_once())
        assert len({start.server for start in world.starts}) >= 4
    finally:
        world.close()


def test_promise_12_a_broker_restart_under_load_fails_no_call(world):
    async def restarts():
        for _ in range(5):
            await asyncio.sleep(0.3)
            world.network.kill_broker()
            await asyncio.sleep(0.1)
            world.start_broker()

    async def both():
        await asyncio.gather(load(world, 2.5, 5.0), restarts())
        await asyncio.sleep(HEAL_S)

    world.run(both())
    held(world.promise_12_restart())
    world.run(asyncio.sleep(5.0))
    assert [str(call.task.exception()) for call in world.calls if not call.replied] == []
    held(world.promise_6_once())


def test_promise_10_a_peer_that_floods_and_never_reads_fails_nobodys_call(world):
    async def flood():
        for number in range(250):
            for _ in range(20):
                world.hostile.say(
                    k=Frame.REQ, id=f"f{world.next()}", to="lifecycle.operation.show", timeout=60_000,
                    data={"id": "f"},
                )  # fmt: skip
                world.hostile.say(k=Frame.PUB, subject="operator.mallory.x", data={"x": "y" * 500})
            wish = words.Subscribe(sid=number + 1, window=1, policy="coalesce")
            world.hostile.say(k=Frame.SUB, id=f"s{number}", to=">", data=wish)
            await asyncio.sleep(0.01)

    async def both():
        await asyncio.gather(load(world, 2.5, 2.0), flood())
        await asyncio.sleep(2.0)

    world.modes["f"] = "hang"  # and what it calls never comes back
    world.run(both())
    assert [str(call.task.exception()) for call in world.calls if not call.replied] == []
    held(world.promise_9_bounded())
