"""Orders and settings for trying a back end by itself."""

from manor_bus.wire.messages.devices import Connect, DeviceKey
from manor_bus.wire.messages.documents import Disk, NetworkSpec, Nic
from manor_devices.backends import BackendSettings, Order, Target

UUID = "22222222-2222-2222-2222-222222222222"


def disk_order(path, *, id="vda", uid=0, incarnation=1, generation=1, epoch=1, notes=None, **fields):  # noqa: A002
    disk = Disk(id=id, source=str(path), **fields)
    request = Connect(
        key=DeviceKey(uuid=UUID, incarnation=incarnation, id=id),
        domain="web",
        type="disk",
        disk=disk,
        uid=uid,
    )
    return Order(
        request, Target("x", path=str(path), format=disk.format or "raw"), generation, epoch, notes or {}
    )


def nic_order(network=None, *, device="net0", uid=0, incarnation=1, generation=1, epoch=1, **fields):
    nic = Nic(id=device, network="lan", **fields)
    key = DeviceKey(uuid=UUID, incarnation=incarnation, id=device)
    request = Connect(key=key, domain="web", type="nic", nic=nic, uid=uid)
    return Order(request, Target("x", network=network or NetworkSpec()), generation, epoch)


def settings(directory, notices=None, mark="f00d", **values):
    told = [] if notices is None else notices
    return BackendSettings("x", directory, mark, told.append, values)
