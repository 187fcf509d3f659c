"""Network interfaces as the kernel shows them."""

import pytest

from manor_bus.wire.errors import ManorError
from manor_devices.backends import links
from tests.devices.backends.test_bridge import in_a_network_of_its_own, ip


@in_a_network_of_its_own
async def test_interfaces_are_read_as_they_are(tmp_path):
    await links.add_bridge("br0", "ours", 1300, "fd00::1/64")
    await links.add_tap("tap0", "mine", 777, queues=False)
    found = await links.links()
    await links.plug("tap0", found["br0"].index, 1300, isolated=False)
    found = await links.links()
    assert found["lo"].kind == ""
    assert (found["br0"].kind, found["br0"].alias, found["br0"].owner) == ("bridge", "ours", -1)
    tap = found["tap0"]
    assert (tap.kind, tap.alias, tap.owner, tap.queues) == ("tun", "mine", 777, False)
    assert tap.bridge == found["br0"].index
    assert "fd00::1/64" in ip("addr", "show", "br0")


@in_a_network_of_its_own
async def test_removing_twice_is_harmless(tmp_path):
    await links.add_bridge("br0", "", 1500, "")
    await links.remove("br0")
    await links.remove("br0")
    assert "br0" not in await links.links()


@in_a_network_of_its_own
async def test_what_the_kernel_refuses_is_told(tmp_path):
    await links.add_bridge("br0", "", 1500, "")
    with pytest.raises(ManorError, match="the kernel refused a network interface: File exists"):
        await links.add_bridge("br0", "", 1500, "")
