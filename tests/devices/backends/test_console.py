"""Serial consoles."""

from manor_devices.backends.console import open_backend
from tests.devices.backends.orders import nic_order, settings


async def test_a_console_needs_nothing_and_is_always_there(tmp_path):
    backend = open_backend(settings(tmp_path))
    order = nic_order()
    assert await backend.claim(order) == ()
    prepared = await backend.prepare(order)
    assert (prepared.type, prepared.args) == ("console", {})
    assert (await backend.observe([order])).present == (order.key,)
    assert backend.describe().classes == ("console",)
