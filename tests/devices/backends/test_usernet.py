"""User-mode networking."""

import pytest

from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages.documents import NetworkSpec
from manor_devices.backends.usernet import open_backend
from tests.devices.backends.orders import nic_order, settings


async def test_the_networks_addresses_are_told(tmp_path):
    backend = open_backend(settings(tmp_path))
    order = nic_order(NetworkSpec(cidr="10.8.0.0/24"))
    assert await backend.claim(order) == ()
    prepared = await backend.prepare(order)
    assert (prepared.type, prepared.args) == ("user", {"cidr": "10.8.0.0/24"})
    await backend.release(order)
    assert (await backend.observe([order])).present == (order.key,)


async def test_a_vlan_needs_a_bridge(tmp_path):
    with pytest.raises(ManorError, match="vlan has no effect"):
        await open_backend(settings(tmp_path)).claim(nic_order(vlan=7))
