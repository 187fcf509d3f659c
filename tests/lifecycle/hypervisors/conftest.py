"""One demo guest is booted for all tests; each test that wants one continues it from its saved state."""

import asyncio
import os
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from manor_lifecycle.hypervisors.qemu import saved as saved_state
from manor_lifecycle.hypervisors.seen import Run
from tests.lifecycle.hypervisors.qemu.guests import UUID, Place, Screen, Story, build_image, why_not


def _folder(name):
    path = Path(tempfile.mkdtemp(prefix=f"manor-{name}-"))
    path.chmod(0o711)
    return path


@pytest.fixture(scope="session")
def image():
    """The demo guest's kernel and initramfs."""
    if why_not():
        pytest.skip(why_not())
    try:
        return build_image()
    except RuntimeError as error:
        pytest.skip(f"the demo guest cannot be built here: {error}")


@pytest.fixture(scope="session")
def saved(image):
    """The state of the demo guest with a root disk and a card, at its prompt."""
    place = Place(_folder("saved"), *image)
    asyncio.run(_boot_and_save(place))
    _fit_any_disk(place.folder / "state")
    yield place.folder / "state"
    shutil.rmtree(place.folder)


def _fit_any_disk(state):
    """Each test brings a disk of its own: the header forgets which one it was."""
    with state.open("r+b") as file:
        block = file.read(saved_state.HEADER_BYTES)
        header = saved_state.decode(block, state.stat().st_size, str(state))
        file.seek(0)
        file.write(saved_state.encode(msgspec.structs.replace(header, disks=())))


async def _boot_and_save(place):
    run = Run(UUID, 1)
    async with place.hypervisor() as hypervisor:
        try:
            await hypervisor.create(place.creation(place.linux(), place.disk("root"), place.nic("net")))
            await hypervisor.resume(run)
            screen = Screen(await hypervisor.console(run))
            await screen.until("MANOR-GUEST-READY")
            await screen.until("guest#")
            assert "10.0.2.15" in await screen.ask("while ! ip addr | grep 10.0.2; do sleep 0.1; done")
            await screen.stream.close()
            await hypervisor.save(run, place.folder / "state", lambda part: None)
        finally:
            await hypervisor.destroy(run)


@pytest.fixture
def place(image):
    """A folder of the test's own; nothing of it runs on afterwards."""
    made = Place(_folder("test"), *image)
    yield made
    asyncio.run(_destroy_all(made))
    assert set(os.listdir(made.folder / "qemu")) <= {"accelerators.json"}
    shutil.rmtree(made.folder)


async def _destroy_all(place):
    async with place.hypervisor() as hypervisor:
        for seen in (await hypervisor.look()).values():
            if seen.run is None or seen.run.ours:
                await hypervisor.destroy(Run(seen.uuid, seen.last))
                await hypervisor.remove(seen.uuid)


@pytest.fixture
def living(place, saved):
    """Continue the booted guest: `async with living() as (hypervisor, run, screen, story)`."""

    @asynccontextmanager
    async def continued(incarnation=2):
        async with place.hypervisor() as hypervisor:
            run = Run(UUID, incarnation)
            creation = place.creation(
                place.linux(), place.disk("root"), place.nic("net"), incarnation=incarnation
            )
            await hypervisor.restore(creation, saved)
            await hypervisor.resume(run)
            screen = Screen(await hypervisor.console(run))
            try:
                yield hypervisor, run, screen, Story(hypervisor)
            finally:
                await screen.stream.close()

    return continued
