"""The seam to hypervisors: what an adapter must offer, the values it speaks, and how it is found.

An adapter is an entry point of the group `manor.hypervisors`: an async factory
`open_hypervisor(settings: AdapterSettings) -> Hypervisor`. The rules every adapter keeps:

- It executes and observes; it decides nothing. Policies, retries and states are the service's.
- A run is (uuid, incarnation). A call for a run that the adapter does not have, or that ended, raises
  `not_found`, except `destroy`, which is then already done. A call for an older incarnation than the one
  it has raises `stale` and changes nothing.
- Every call may be repeated: what is already so is left so and returns normally.
- Every call may be cancelled (deadline or operator). It then undoes what it began or leaves it so that a
  repetition or `destroy` finishes it: never a half made guest, process, socket or file.
- Runs outlive the service. After a restart `look` shows them again, with their incarnations.
- An incarnation is made at most once: its number is noted durably before it is made, and that number and
  older ones are refused as `stale` afterwards.
- Events are hints to look again; a look shows what happened, also to whoever missed them.
- What it did not create is listed with `ours=False` and never touched.
- Only `ManorError` is raised for what can go wrong outside; anything else is a bug.
  `no_capacity`: not enough memory and the like; `denied_state`: the hypervisor cannot do that in this
  state, or the guest refused; `timeout`: no answer within the adapter's own bound, outcome unknown;
  `unavailable`: the hypervisor or a tool is absent; `bad_request`: it cannot do that with this spec.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from manor_bus import plugins
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.consoles import LastRun
from manor_bus.wire.messages.devices import Descriptor
from manor_bus.wire.messages.documents import DomainSpec
from manor_lifecycle.hypervisors.seen import Device, Feature, Leftover, LeftoverKind, Run, SavedImage, Seen

ENTRY_POINTS: Final = "manor.hypervisors"
LEFTOVERS: Final[tuple[LeftoverKind, ...]] = ("variables", "console", "log", "record", "note")


@dataclass(frozen=True, slots=True)
class Attachment:
    """A device of the document with the descriptor of its prepared back end."""

    device: Device
    descriptor: Descriptor


@dataclass(frozen=True, slots=True)
class Creation:
    """What `create` and `restore` make. `attachments` are present when the guest starts (cold plugged).

    `uid` is the unprivileged user that owns the guest's process; 0 means the service's own user.
    `spec.pci`, `spec.usb`, `spec.console` and `spec.graphics` need no descriptor: the adapter serves them.
    """

    run: Run
    name: str
    spec: DomainSpec
    attachments: tuple[Attachment, ...] = ()
    uid: int = 0


@dataclass(frozen=True, slots=True)
class Description:
    """The adapter and the machine it drives. `accelerators`: those that really ran guest code."""

    name: str
    version: str
    accelerators: tuple[str, ...] = ()
    features: frozenset[Feature] = frozenset()


@dataclass(frozen=True, slots=True)
class Changed:
    """Something about this domain is different: look again.

    `answered`: the guest has seen the request to shut down, which no look shows, and not all can tell.
    `foreign`: the name of a guest that is not ours, and may not be known yet.
    """

    uuid: str
    answered: bool = False
    foreign: str = ""


Progress = Callable[[float], None]  # 0 to 1


class ConsoleStream(Protocol):
    """The serial console of one run, one at a time per run.

    It begins with what is still kept of what the guest printed before it was opened (scroll-back).
    """

    @property
    def offset(self) -> int:
        """Of the byte that `read` returns next, counted from the start of the incarnation."""

    async def read(self) -> bytes:
        """Return what the guest printed next, at most 64 KiB; empty at the end of the run."""

    async def write(self, content: bytes) -> None:
        """Type `content`; returns when the guest's side took it. At most 4 KiB."""

    async def close(self) -> None:
        """Let the console go; it may be opened again."""


class Hypervisor(Protocol):
    """One hypervisor of this node. See the module for the rules of all calls."""

    async def describe(self) -> Description:
        """Return what this is and what it can do. Accelerators are probed by running guest code."""

    async def look(self, uuid: str | None = None) -> Mapping[str, Seen]:
        """Return what is there, of one domain (it is in the answer in any case) or of all.

        It waits, bounded, behind the calls about the same run: what a look does not show, a call that was
        given up before will not do any more. What could not be asked in time is `unknown`, never absent.
        """

    async def create(self, creation: Creation) -> None:
        """Make a run, paused, complete with its attachments. On any error nothing of it is left.

        Already there with the same incarnation: returns. Another incarnation, or its remains: `conflict`.
        """

    async def restore(self, creation: Creation, path: Path, image: str = "") -> None:
        """As `create`, with memory, device state and spec from a file made by `save`, which is never changed.

        `stale` when it is not the image of that id (if one is given); `denied_state` naming what changed when
        a disk is not what it was.
        """

    async def resume(self, run: Run) -> None:
        """Let the virtual CPUs run."""

    async def pause(self, run: Run) -> None:
        """Stop the virtual CPUs."""

    async def shutdown(self, run: Run) -> None:
        """Ask the guest to power off and return at once."""

    async def reset(self, run: Run, incarnation: int) -> None:
        """Press the reset button; from now on the run carries the new incarnation, also after a restart."""

    async def destroy(self, run: Run) -> None:
        """End the run without asking and release everything of it. Returns when it is gone.

        `timeout` when the hypervisor still holds it after the adapter's bound (a zombie).
        """

    async def plug(self, run: Run, attachment: Attachment) -> None:
        """Attach a device to the live run. On error nothing of it is left.

        Same id already attached with an older descriptor generation: reconnect it to the new descriptor.
        """

    async def unplug(self, run: Run, device: str, *, force: bool, timeout_s: float) -> None:
        """Detach a device; returns when the guest let it go.

        Safe (`force=False`): `denied_state` with the guest's reason when it refused, `timeout` when it did
        not answer within `timeout_s`. The device stays attached and usable; the guest may let go later.
        Force: it is gone on return, whatever the guest says; `bad_request` if impossible.
        """

    async def save(self, run: Run, path: Path, progress: Progress, image: str = "") -> SavedImage:
        """Write memory and device state to `path` (whole and synced on return) under an id, the caller's or
        one made up; the run then stands, for the caller to destroy. On error or cancellation the run
        continues as before and no file is left.
        """

    async def saved_image(self, path: Path) -> SavedImage:
        """Return what a file of `save` is. `not_found` when it is not there, `bad_request` if damaged."""

    async def last_run(self, uuid: str) -> LastRun | None:
        """Return the ends of what the last run that is over printed, and of what the hypervisor said about
        it; None when nothing is kept of one. A kept ENDED run is over.
        """

    async def leftovers(self, uuid: str) -> tuple[Leftover, ...]:
        """Return all that this adapter keeps of a domain on this node beyond its run."""

    async def remove(self, uuid: str, kinds: Collection[LeftoverKind] = LEFTOVERS) -> None:
        """Remove these; `denied_state` while there is a run. Without its note, numbers may be made again."""

    async def coredump(self, run: Run, path: Path) -> None:
        """Write the guest's memory to `path` for a debugger; also for a kept ENDED run."""

    async def set_memory(self, run: Run, memory_mib: int) -> None:
        """Ask the balloon for a size up to the spec's maximum; returns at once, the guest takes its time."""

    async def set_cpus(self, run: Run, count: int) -> None:
        """Make the number of virtual CPUs `count`, up to the spec's maximum."""

    async def rename(self, run: Run, name: str) -> None:
        """Show the run under another name, also after a restart."""

    async def nmi(self, run: Run) -> None:
        """Send a non-maskable interrupt."""

    async def screenshot(self, run: Run) -> bytes:
        """Return a PNG of the graphical console; `denied_state` without one."""

    async def console(self, run: Run) -> ConsoleStream:
        """Open the serial console."""

    def events(self) -> AsyncIterator[Changed]:
        """Return what happens, in order per run, from now on. One consumer; ends with `close`."""

    async def close(self) -> None:
        """Let go of everything of this process; guests stay."""


@dataclass(frozen=True)
class AdapterSettings:
    """What the service gives to a factory. `directory` belongs to the adapter alone, and exists.

    `options` are strings from the environment `MANOR_LIFECYCLE_<ADAPTER>_<OPTION>`, names in lower case.
    `durable` False: nothing needs to survive this process (tests). `state_id` names the state directory.
    """

    directory: Path
    node: str
    options: Mapping[str, str] = field(default_factory=dict)
    durable: bool = True
    state_id: str = ""


OpenHypervisor = Callable[[AdapterSettings], Awaitable[Hypervisor]]


def load(name: str) -> OpenHypervisor:
    """Return the factory of an installed adapter; `not_found` lists those that are."""
    found = plugins.installed(ENTRY_POINTS)
    if name not in found:
        message = (
            f"no hypervisor adapter {name!r} is installed; installed: {', '.join(sorted(found)) or 'none'}"
        )
        raise ManorError(Kind.NOT_FOUND, message, hint="Name an installed one, or install its package.")
    factory: OpenHypervisor = found[name].load()
    return factory
