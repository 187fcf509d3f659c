"""One demo guest is booted for all tests; each test that wants one continues it from its saved state."""

import asyncio
import os
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from manor_lifecycle.hypervisors import Run
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
    yield place.folder / "state"
    shutil.rmtree(place.folder)


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
    assert os.listdir(made.folder / "qemu") in ([], ["accelerators.json"])
    shutil.rmtree(made.folder)


async def _destroy_all(place):
    async with place.hypervisor() as hypervisor:
        for domain in await hypervisor.domains():
            if domain.ours:
                await hypervisor.destroy(Run(domain.uuid, domain.incarnation))


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
                yield hypervisor, run, screen, Story(hypervisor.events())
            finally:
                await screen.stream.close()

    return continued
