"""What the front end makes by itself: user-mode networking, serial consoles."""

import pytest

from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages.documents import NetworkSpec
from manor_devices.backends.front import open_console, open_usernet
from tests.devices.backends.orders import nic_order, settings


async def test_the_networks_addresses_are_told(tmp_path):
    backend = open_usernet(settings(tmp_path))
    order = nic_order(NetworkSpec(cidr="10.8.0.0/24"))
    assert await backend.claim(order) == ()
    prepared = await backend.prepare(order)
    assert (prepared.type, prepared.args) == ("user", {"cidr": "10.8.0.0/24"})
    await backend.release(order)
    assert (await backend.observe([order])).present == (order.key,)
    assert backend.classes == ("nic",)


async def test_a_vlan_needs_a_bridge(tmp_path):
    with pytest.raises(ManorError, match="vlan has no effect"):
        await open_usernet(settings(tmp_path)).claim(nic_order(vlan=7))


async def test_a_console_needs_nothing_and_is_always_there(tmp_path):
    backend = open_console(settings(tmp_path))
    order = nic_order()
    assert await backend.claim(order) == ()
    prepared = await backend.prepare(order)
    assert (prepared.type, prepared.args) == ("console", {})
    assert (await backend.observe([order])).present == (order.key,)
    assert backend.classes == ("console",)
