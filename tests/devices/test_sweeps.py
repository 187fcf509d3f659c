"""What a run left connected goes when lifecycle says twice that it is over, never for its silence."""

import asyncio

import pytest

from manor_bus.wire.errors import unavailable
from manor_bus.wire.messages.devices import ConnectionState, DeviceKey, DeviceStatus
from manor_bus.wire.messages.lifecycle import DomainStatus, State
from manor_devices.sweeps import Sweeps, gone
from tests.devices.driving import UUID, bench, on_virtual_time


def domain(state=State.RUNNING, incarnation=1, **fields):
    return DomainStatus(
        name="web",
        uuid=UUID,
        state=state,
        generation=1,
        node="n1",
        hypervisor="fake",
        incarnation=incarnation,
        **fields,
    )


class Lifecycle:
    """Says what the test wants."""

    def __init__(self, *domains):
        self.domains, self.silent = domains, False

    async def ask(self):
        if self.silent:
            raise unavailable("lifecycle is not there", delivered=False)
        return {one.uuid: one for one in self.domains}


@on_virtual_time
async def test_what_an_ended_run_left_is_released_after_two_looks(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        sweeps = Sweeps(made.calls, Lifecycle(domain(State.DEFINED)).ask)
        await sweeps.look()
        assert made.states() == {("vda", 1): "CONNECTED"}
        await sweeps.look()
        assert (made.states(), made.world.served) == ({}, {})


@on_virtual_time
async def test_what_a_domain_that_nobody_knows_left_is_released(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        keeping = asyncio.ensure_future(Sweeps(made.calls, Lifecycle().ask).keep())
        await asyncio.sleep(1_000)
        keeping.cancel()
        assert made.world.served == {}


@on_virtual_time
async def test_a_lifecycle_that_does_not_answer_proves_nothing(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        lifecycle = Lifecycle(domain(State.DEFINED))
        sweeps = Sweeps(made.calls, lifecycle.ask)
        for silent in (False, True, False):
            lifecycle.silent = silent
            await sweeps.look()
        assert made.states() == {("vda", 1): "CONNECTED"}


@on_virtual_time
async def test_a_connection_that_was_touched_between_two_looks_stays(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        sweeps = Sweeps(made.calls, Lifecycle(domain(State.DEFINED)).ask)
        await sweeps.look()
        await made.calls.released(made.connection().request.key, 1, made.soon())
        await made.attach()
        await sweeps.look()
        assert made.states() == {("vda", 1): "CONNECTED"}


@pytest.mark.parametrize(
    "status",
    [
        domain(State.RUNNING),
        domain(State.RUNNING, incarnation=5),
        domain(State.STARTING),
        domain(State.CRASHED),
        domain(State.LOST),
        domain(State.DYING),
        domain(State.DEFINED, operation="o1"),
        domain(State.DEFINED, incarnation=0),
    ],
)
def test_a_run_that_is_or_may_be_there_is_not_gone(status):
    device = _device()
    assert gone([device], {UUID: status}) == {}
    assert gone([device], {UUID: domain(State.SUSPENDED)}) == {(UUID, 1): 1}


def _device():
    key = DeviceKey(uuid=UUID, incarnation=1, id="vda")
    return DeviceStatus(key=key, domain="web", type="disk", state=ConnectionState.CONNECTED, generation=1)
