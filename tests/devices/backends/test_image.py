"""What the back ends of disks share."""

import pytest

from manor_bus.wire.errors import ManorError
from manor_devices.backends.image import Grants, claims, disk_of, layers
from manor_devices.images import Layer
from tests.devices.backends.orders import disk_order, nic_order

TOP = Layer("/top", "qcow2", 0, 0, "1:1")
BELOW = Layer("/below", "raw", 0, 0, "1:2")


def test_only_a_disk_is_a_disk():
    with pytest.raises(ManorError, match="is not a disk"):
        disk_of(nic_order())


@pytest.mark.parametrize(("readonly", "shareable"), [(False, False), (True, False), (False, True)])
def test_the_image_is_claimed_as_the_disk_says_and_what_is_below_is_only_read(readonly, shareable):
    top, below = claims(disk_order("/top", readonly=readonly, shareable=shareable), (TOP, BELOW))
    assert (top.write, top.shareable) == (not readonly, shareable)
    assert (below.write, below.shareable) == (False, False)


async def test_a_raw_image_is_one_layer_whatever_it_contains(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"QFI\xfb" + bytes(1000))
    (layer,) = await layers(disk_order(path))
    assert (layer.path, layer.format) == (str(path), "raw")


async def test_a_device_without_a_user_of_its_own_needs_no_grant():
    grants = Grants()
    assert await grants.grant(disk_order("/top"), (TOP,)) == {}
    grants.revoke(disk_order("/top"))
