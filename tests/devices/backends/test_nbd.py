"""Disks over NBD, with real qemu-storage-daemons."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_devices import images
from manor_devices.backends import daemons, nbd
from manor_devices.processes import run
from manor_host import processes
from tests.devices.backends.orders import disk_order, settings

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-storage-daemon") is None or shutil.which("qemu-io") is None,
    reason="qemu-storage-daemon and qemu-io are not installed",
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: serves another user")
UID = 54321


@pytest.fixture
def folder():
    """A folder with a short name (sockets), which everybody may pass through."""
    with tempfile.TemporaryDirectory(prefix="manor-nbd-") as name:
        os.chmod(name, 0o711)
        yield Path(name)


class Provider:
    """A back end, restarted at will; what it started is ended with the test."""

    def __init__(self, folder, **values):
        self.folder, self.values, self.notices, self.orders = folder, values, [], {}
        self.told = asyncio.Event()
        self.open()

    def open(self):
        made = settings(self.folder / "nbd", self.notices, **self.values)
        self.backend = nbd.open_backend(made)
        object.__setattr__(made, "notify", self.notify)
        self.backend._notify = self.notify

    def notify(self, notice):
        self.notices.append(notice)
        self.told.set()

    async def prepare(self, order):
        self.orders[order.key] = order
        return await self.backend.prepare(order)

    async def restart(self):
        await self.backend.close()
        self.open()
        return await self.backend.observe(list(self.orders.values()))

    async def end(self):
        for order in self.orders.values():
            await self.backend.release(order)
        await self.backend.close()

    def pid(self, order):
        mark = nbd._listen(Path(self.backend._address(order).path))
        return daemons.find(nbd.PROGRAM, mark).get(mark)


@pytest.fixture
async def provider(folder):
    made = Provider(folder)
    await made.backend.observe([])
    yield made
    await made.end()


@pytest.fixture
async def raw(folder):
    await images.create(folder / "disk.raw", "raw", 4)
    return folder / "disk.raw"


def uri(prepared):
    return f"nbd+unix:///{prepared.args['export']}?socket={prepared.args['path']}"


async def qemu_io(prepared, *commands):
    argv = [word for command in commands for word in ("-c", command)]
    process = await asyncio.create_subprocess_exec(
        "qemu-io",
        "-f",
        "raw",
        *argv,
        uri(prepared),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_what_is_written_over_nbd_is_in_the_image(provider, raw):
    prepared = await provider.prepare(disk_order(raw))
    assert prepared.type == "nbd"
    assert prepared.args["reconnect_s"] == 86_400
    code, out = await qemu_io(prepared, "write -P 77 4096 512")
    assert code == 0, out
    assert raw.read_bytes()[4096:4608] == bytes([77]) * 512


async def test_a_qcow2_image_is_served_as_the_disk_in_it_over_its_backing_file(provider, raw, folder):
    raw.write_bytes(b"\x55" * (4 << 20))
    top = folder / "top, with a comma.qcow2"
    await images.create(top, "qcow2", 8, below=(str(raw), "raw"))
    order = disk_order(top, format="qcow2")
    claims = await provider.backend.claim(order)
    assert [claim.write for claim in claims] == [True, False]
    prepared = await provider.prepare(order)
    code, out = await qemu_io(prepared, "read -P 0x55 0 4096", "write -P 1 0 512", "length")
    assert code == 0, out
    assert "8 MiB" in out
    assert raw.read_bytes()[:512] == b"\x55" * 512


async def test_a_readonly_disk_cannot_be_written(provider, raw):
    prepared = await provider.prepare(disk_order(raw, readonly=True))
    code, out = await qemu_io(prepared, "write 0 512")
    assert code != 0
    assert "Permission denied" in out


async def test_the_daemon_survives_the_service_and_is_found_again(provider, raw):
    order = disk_order(raw)
    prepared = await provider.prepare(order)
    pid = provider.pid(order)
    observation = await provider.restart()
    assert observation.present == (order.key,)
    assert observation.leftovers == ()
    assert provider.pid(order) == pid
    assert (await qemu_io(prepared, "read 0 512"))[0] == 0
    await provider.backend.release(order)
    assert provider.pid(order) is None
    assert not Path(prepared.args["path"]).parent.exists()


async def test_a_killed_daemon_is_noticed_at_once_and_started_again_at_the_same_place(provider, raw):
    order = disk_order(raw, generation=3, epoch=5)
    first = await provider.prepare(order)
    os.kill(provider.pid(order), signal.SIGKILL)
    await asyncio.wait_for(provider.told.wait(), 10)
    (notice,) = provider.notices
    assert (notice.what, notice.key, notice.generation, notice.epoch) == ("lost", order.key, 3, 5)
    second = await provider.prepare(disk_order(raw, generation=4, epoch=6))
    assert second.args == first.args


async def test_a_killed_daemon_that_was_found_again_is_noticed_too(provider, raw):
    order = disk_order(raw)
    await provider.prepare(order)
    await provider.restart()
    os.kill(provider.pid(order), signal.SIGKILL)
    await asyncio.wait_for(provider.told.wait(), 10)
    assert provider.notices[0].key == order.key


async def test_a_stopped_daemon_is_noticed_and_killed_before_anything_new_is_started(
    folder, raw, monkeypatch
):
    monkeypatch.setattr(nbd, "GREET_S", 0.2)
    provider = Provider(folder, probe_s="0.05")
    await provider.backend.observe([])
    order = disk_order(raw)
    await provider.prepare(order)
    pid = provider.pid(order)
    held = daemons.hold(pid, nbd._listen(Path(provider.backend._address(order).path)))
    os.kill(pid, signal.SIGSTOP)
    await asyncio.wait_for(provider.told.wait(), 20)
    assert held._ended.is_set() or not processes.command_line(pid)
    held.let_go()
    assert (await provider.prepare(order)).type == "nbd"
    await provider.end()


async def test_a_stopped_daemon_can_be_released(provider, raw, monkeypatch):
    monkeypatch.setattr(daemons, "TERM_S", 0.2)
    order = disk_order(raw)
    await provider.prepare(order)
    os.kill(provider.pid(order), signal.SIGSTOP)
    await provider.backend.release(order)
    assert provider.pid(order) is None


async def test_a_daemon_that_no_device_explains_is_a_leftover_of_ours_and_others_are_left_alone(
    provider, raw, folder
):
    order = disk_order(raw)
    await provider.prepare(order)
    await images.create(folder / "other.raw", "raw", 1)
    foreign = Provider(folder / "elsewhere")
    await foreign.backend.observe([])
    other = disk_order(folder / "other.raw")
    await foreign.prepare(other)
    provider.orders.clear()
    observation = await provider.restart()
    assert [leftover.ours for leftover in observation.leftovers] == [True]
    await provider.backend.discard(observation.leftovers[0])
    assert provider.pid(order) is None
    assert foreign.pid(other) is not None
    await foreign.end()


async def test_an_image_that_cannot_be_opened_is_refused_with_what_the_daemon_said(provider, raw):
    with pytest.raises(ManorError, match="not in qcow2 format"):
        await provider.prepare(disk_order(raw, format="qcow2"))
    assert provider.pid(disk_order(raw)) is None


async def test_a_path_too_long_for_a_socket_is_refused(folder, raw):
    provider = Provider(folder / ("long" * 25))
    await provider.backend.observe([])
    with pytest.raises(ManorError, match="too long for a unix socket"):
        await provider.prepare(disk_order(raw))
    await provider.backend.close()


@needs_root
async def test_the_daemon_and_its_socket_belong_to_the_domains_user(provider, raw):
    raw.chmod(0o600)
    order = disk_order(raw, uid=UID)
    prepared = await provider.prepare(order)
    assert os.stat(f"/proc/{provider.pid(order)}").st_uid == UID
    assert os.stat(prepared.args["path"]).st_uid == UID
    question = ["qemu-io", "-f", "raw", "-c", "write -P 9 0 512", uri(prepared)]
    await run(question, 30, uid=UID)
    with pytest.raises(ManorError, match="Permission denied"):
        await run(question, 30, uid=UID + 1)
    await provider.backend.release(order)
    assert stat.S_IMODE(raw.stat().st_mode) == 0o600


async def test_a_client_with_a_reconnect_delay_takes_the_death_of_the_daemon_for_a_pause(provider, raw):
    order = disk_order(raw)
    prepared = await provider.prepare(order)
    place = f"driver=nbd,server.type=unix,server.path={prepared.args['path']},export=vda,reconnect-delay=60"
    client = await asyncio.create_subprocess_exec(
        "qemu-io", "--image-opts", place, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )

    async def say(line, answer):
        client.stdin.write(line.encode() + b"\n")
        await client.stdin.drain()
        await asyncio.wait_for(client.stdout.readuntil(answer), 30)

    await say("write -P 5 0 64k", b"wrote 65536/65536")
    os.kill(provider.pid(order), signal.SIGKILL)
    await asyncio.wait_for(provider.told.wait(), 10)
    client.stdin.write(b"write -P 6 64k 64k\n")
    await client.stdin.drain()
    await provider.prepare(disk_order(raw, generation=2, epoch=2))
    await asyncio.wait_for(client.stdout.readuntil(b"wrote 65536/65536"), 30)
    await say("read -P 5 0 64k", b"read 65536/65536")
    client.stdin.write(b"quit\n")
    assert await asyncio.wait_for(client.wait(), 30) == 0
    assert raw.read_bytes()[: 128 << 10] == b"\x05" * (64 << 10) + b"\x06" * (64 << 10)


# ---- Servers elsewhere -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("nbd://host/disk", nbd.Address("disk", host="host")),
        ("nbd://[::1]:4444/a%20b", nbd.Address("a b", host="::1", port=4444)),
        ("nbd://10.0.0.1", nbd.Address("", host="10.0.0.1")),
        ("nbd+unix:///x?socket=/run/s", nbd.Address("x", path="/run/s")),
    ],
)
def test_a_uri_says_where_a_server_is(text, address):
    assert nbd.parse(text) == address


@pytest.mark.parametrize(
    "text",
    ["http://x/", "nbds://x/", "nbd:///x", "nbd+unix:///x", "nbd+unix:///x?socket=rel", "nbd://h:99999/", ""],
)
def test_what_is_no_such_uri_is_refused(text):
    with pytest.raises(ManorError) as caught:
        nbd.parse(text)
    assert caught.value.kind is Kind.BAD_REQUEST
    assert caught.value.problems[0].path == "disk.nbd"


async def test_a_server_elsewhere_is_used_and_its_loss_is_noticed(folder, raw, monkeypatch):
    monkeypatch.setattr(nbd, "GREET_S", 0.2)
    server = Provider(folder)
    await server.backend.observe([])
    local = disk_order(raw)
    address = uri(await server.prepare(local))
    client = Provider(folder / "client", probe_s="0.05")
    await client.backend.observe([])
    order = disk_order("", nbd=address)
    order = type(order)(order.request, type(order.target)("x", path=address), 1, 1)
    assert await client.backend.claim(order) == ()
    prepared = await client.prepare(order)
    assert uri(prepared) == address
    assert (await client.restart()).present == (order.key,)
    await server.end()
    await asyncio.wait_for(client.told.wait(), 10)
    assert client.notices[0].reason == "the NBD server does not answer"
    with pytest.raises(ManorError, match="cannot be reached"):
        await client.backend.prepare(order)
    await client.end()


async def test_what_answers_but_is_no_nbd_server_is_told():
    def serve(reader, writer):
        writer.write(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, family=socket.AF_INET)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ManorError, match="is not an NBD server"):
            await nbd.greet(nbd.Address("x", host="127.0.0.1", port=port))


async def test_a_leftover_that_a_front_end_is_connected_to_is_said_to_be_used(provider, raw):
    prepared = await provider.prepare(disk_order(raw))
    reader, writer = await asyncio.open_unix_connection(prepared.args["path"])
    assert await reader.readexactly(len(nbd.GREETING)) == nbd.GREETING
    known, provider.orders = provider.orders, {}
    leftovers = (await provider.restart()).leftovers
    provider.orders = known
    assert [leftover.used for leftover in leftovers] == [True]
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "inf"])
def test_a_pause_between_looks_that_is_none_is_refused(tmp_path, text):
    with pytest.raises(ManorError) as caught:
        nbd.open_backend(settings(tmp_path, probe_s=text))
    assert caught.value.problems[0].path == "settings.probe_s"


def test_without_its_program_the_back_end_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(nbd.shutil, "which", lambda name: None)
    with pytest.raises(ManorError, match="qemu-storage-daemon is not installed") as caught:
        nbd.open_backend(settings(tmp_path))
    assert "Debian" in caught.value.hint
