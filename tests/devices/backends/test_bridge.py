"""Network cards on a bridge, in a network namespace that lives as long as the test."""

import asyncio
import ctypes
import fcntl
import os
import struct
import subprocess
import threading

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.documents import NetworkSpec
from manor_devices.backends.bridge import interface, open_backend
from manor_host import privileges
from tests.devices.backends.orders import nic_order, settings

CLONE_NEWNET = 0x4000_0000
UID = 54321
LAN = NetworkSpec(type="bridge", bridge="lan0", create=True, address="10.77.0.1/24", mtu=1400)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network interfaces")


def in_a_network_of_its_own(test):
    """Run an async test in a thread with its own network namespace; it goes with the thread."""

    def run(tmp_path):
        outcome = []

        def body():
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWNET) != 0:
                outcome.append(OSError(ctypes.get_errno(), "unshare"))
                return
            try:
                asyncio.run(test(tmp_path))
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if outcome:
            raise outcome[0]

    run.__name__ = test.__name__
    return needs_root(run)


def ip(*words):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@in_a_network_of_its_own
async def test_a_card_gets_a_tap_of_its_users_own_on_a_bridge_made_for_it(tmp_path):
    backend = open_backend(settings(tmp_path))
    order = nic_order(LAN, uid=UID, queues=2)
    assert await backend.claim(order) == ()
    prepared = await backend.prepare(order)
    name = prepared.args["ifname"]
    assert prepared.type == "tap"
    assert prepared.args["vhost"] is os.access("/dev/vhost-net", os.R_OK | os.W_OK)
    shown = ip("-d", "link", "show", name)
    assert f"user {UID}" in shown
    assert "master lan0" in shown
    assert "mtu 1400" in shown
    assert "multi_queue" in shown
    assert "10.77.0.1/24" in ip("addr", "show", "lan0")
    await backend.release(order)
    assert name not in ip("link")
    assert "lan0" not in ip("link")
    await backend.release(order)
    await backend.close()


@in_a_network_of_its_own
async def test_a_bridge_stays_until_its_last_card_goes(tmp_path):
    backend = open_backend(settings(tmp_path))
    orders = [nic_order(LAN, device=f"net{number}") for number in range(3)]
    await asyncio.gather(*(backend.prepare(order) for order in orders))
    await asyncio.gather(*(backend.release(order) for order in orders[:2]))
    assert "lan0" in ip("link")
    await backend.release(orders[2])
    assert "lan0" not in ip("link")
    await backend.close()


@in_a_network_of_its_own
async def test_a_bridge_of_the_node_is_used_and_never_removed(tmp_path):
    ip("link", "add", "br0", "type", "bridge")
    backend = open_backend(settings(tmp_path))
    order = nic_order(NetworkSpec(type="bridge", bridge="br0", isolated=True))
    prepared = await backend.prepare(order)
    assert "isolated on" in ip("-d", "link", "show", prepared.args["ifname"])
    await backend.release(order)
    assert "br0" in ip("link")
    await backend.close()


@in_a_network_of_its_own
async def test_a_tap_survives_the_service_and_is_left_as_it_is(tmp_path):
    first = open_backend(settings(tmp_path))
    order = nic_order(LAN, uid=UID)
    name = (await first.prepare(order)).args["ifname"]
    number = ip("-o", "link", "show", name).partition(":")[0]
    await first.close()
    again = open_backend(settings(tmp_path))
    assert (await again.observe([order])).present == (order.key,)
    await again.prepare(nic_order(LAN, uid=UID, generation=2, epoch=2))
    assert ip("-o", "link", "show", name).partition(":")[0] == number
    await again.prepare(nic_order(LAN, uid=UID + 1, generation=3))
    assert f"user {UID + 1}" in ip("-d", "link", "show", name)
    await again.close()


@in_a_network_of_its_own
async def test_what_is_ours_and_unknown_is_a_leftover_and_what_is_not_ours_is_never_touched(tmp_path):
    backend = open_backend(settings(tmp_path))
    order = nic_order(LAN)
    name = (await backend.prepare(order)).args["ifname"]
    ip("tuntap", "add", "mnforeign", "mode", "tap")
    ip("link", "set", "mnforeign", "alias", "somebody's")
    again = open_backend(settings(tmp_path))
    leftovers = {leftover.name: leftover for leftover in (await again.observe([])).leftovers}
    assert {left: leftover.ours for left, leftover in leftovers.items()} == {name: True, "mnforeign": False}
    await again.discard(leftovers[name])
    assert name not in ip("link")
    assert "lan0" not in ip("link")
    assert "mnforeign" in ip("link")
    await backend.close()
    await again.close()


def open_tap(name):
    """Attach to a tap as a hypervisor does."""
    tap = os.open("/dev/net/tun", os.O_RDWR)
    iff_tap_no_pi_vnet_hdr, tunsetiff = 0x0002 | 0x1000 | 0x4000, 0x400454CA
    fcntl.ioctl(tap, tunsetiff, struct.pack("16sH", name.encode(), iff_tap_no_pi_vnet_hdr))
    return tap


@in_a_network_of_its_own
async def test_a_leftover_that_a_guest_has_open_is_said_to_be_used(tmp_path):
    backend = open_backend(settings(tmp_path))
    name = (await backend.prepare(nic_order(LAN))).args["ifname"]
    tap = open_tap(name)
    again = open_backend(settings(tmp_path))
    assert [(left.name, left.used) for left in (await again.observe([])).leftovers] == [(name, True)]
    os.close(tap)
    assert [left.used for left in (await again.observe([])).leftovers] == [False]
    await backend.close()
    await again.close()


@in_a_network_of_its_own
async def test_an_interface_of_somebody_else_in_our_place_is_told_and_not_taken(tmp_path):
    order = nic_order(LAN)
    ip("tuntap", "add", interface(order), "mode", "tap")
    ip("link", "set", interface(order), "alias", "somebody's")
    backend = open_backend(settings(tmp_path))
    with pytest.raises(ManorError, match="that is not ours"):
        await backend.prepare(order)
    await backend.release(order)
    assert interface(order) in ip("link")
    await backend.close()


@in_a_network_of_its_own
async def test_a_tap_that_somebody_removes_is_told_as_a_resource_gone(tmp_path):
    told, notices = asyncio.Event(), []
    made = settings(tmp_path)
    object.__setattr__(made, "notify", lambda notice: (notices.append(notice), told.set()))
    backend = open_backend(made)
    order = nic_order(LAN, generation=2, epoch=7)
    name = (await backend.prepare(order)).args["ifname"]
    while not told.is_set():  # until the watch is up, a removal goes unseen: make and remove once more
        ip("link", "del", name)
        try:
            await asyncio.wait_for(told.wait(), 1)
        except TimeoutError:
            await backend.prepare(order)
    (notice,) = notices
    assert (notice.what, notice.key, notice.generation, notice.epoch) == ("gone", order.key, 2, 7)
    await backend.release(order)
    await backend.close()


@in_a_network_of_its_own
async def test_a_missing_bridge_that_nobody_wants_made_is_an_error_that_says_what_to_do(tmp_path):
    backend = open_backend(settings(tmp_path))
    with pytest.raises(ManorError, match="there is no bridge br7") as caught:
        await backend.prepare(nic_order(NetworkSpec(type="bridge", bridge="br7")))
    assert "create: true" in caught.value.hint
    with pytest.raises(ManorError, match="interface lo is not a bridge"):
        await backend.prepare(nic_order(NetworkSpec(type="bridge", bridge="lo")))
    with pytest.raises(ManorError, match=r"spec\.address"):
        await backend.prepare(
            nic_order(NetworkSpec(type="bridge", bridge="br7", create=True, address="10.0.0/x"))
        )
    assert "br7" not in ip("link")


@needs_root
@pytest.mark.parametrize(
    ("network", "fields", "path"),
    [
        (NetworkSpec(type="bridge"), {}, "spec.bridge"),
        (NetworkSpec(type="bridge", bridge="name-of-17-chars-"), {}, "spec.bridge"),
        (NetworkSpec(type="bridge", bridge="a/b"), {}, "spec.bridge"),
        (LAN, {"vlan": 7}, "nic.vlan"),
        (LAN, {"rate_kib_per_second": 100}, "nic.rate_kib_per_second"),
    ],
)
async def test_what_cannot_be_is_refused_with_the_field(tmp_path, network, fields, path):
    with pytest.raises(ManorError) as caught:
        await open_backend(settings(tmp_path)).claim(nic_order(network, **fields))
    assert caught.value.kind is Kind.BAD_REQUEST
    assert caught.value.problems[0].path == path


@pytest.mark.parametrize("capabilities", ["0000000000000000", "ffffffffffffefff"])
def test_without_the_privilege_the_back_end_says_so_instead_of_opening(tmp_path, monkeypatch, capabilities):
    (tmp_path / "status").write_text(f"Name:\tx\nCapEff:\t{capabilities}\n")
    monkeypatch.setattr(privileges, "STATUS", tmp_path / "status")
    with pytest.raises(ManorError, match="CAP_NET_ADMIN") as caught:
        open_backend(settings(tmp_path))
    assert "Networks of type user" in caught.value.hint


def test_interface_names_fit_and_differ():
    names = {interface(nic_order(LAN, device=f"net{number}")) for number in range(100)}
    assert len(names) == 100
    assert {len(name) for name in names} == {15}
    assert interface(nic_order(LAN, generation=1)) == interface(nic_order(LAN, generation=2))
