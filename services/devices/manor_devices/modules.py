"""Back ends as loadable modules: found by entry point, opened, watched, opened again when they die.

A name is an entry point of the group `manor.backends`, or a Provider document that gives one settings of its
own. What is loaded, and each epoch, is durable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from manor_bus import plugins
from manor_bus.wire.errors import Kind, ManorError, bad_request, denied_state, not_found
from manor_bus.wire.messages.devices import BackendStatus
from manor_devices import loading
from manor_devices.backends import (
    ENTRY_POINTS,
    Backend,
    BackendSettings,
    Factory,
    Notice,
    Observation,
    Order,
)
from manor_devices.bounds import bounded
from manor_devices.loading import Module, Trigger
from manor_devices.records import Records

OBSERVE_S: Final = 60.0
CLOSE_S: Final = 10.0
STEADY_S: Final = 60.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Installed:
    """An entry point that is there, and the version of who brought it."""

    version: str
    load: Callable[[], Factory]


def installed() -> dict[str, Installed]:
    """Find the back ends installed on this node."""
    return {name: Installed(one.version, one.load) for name, one in plugins.installed(ENTRY_POINTS).items()}


class Listener(Protocol):
    """Who uses the back ends: the driver of the connections."""

    def known(self, name: str) -> list[Order]:
        """Return the devices this back end serves or served."""

    def users(self, name: str) -> tuple[str, ...]:
        """Name the connections (`domain/device`) that use it."""

    def came(self, name: str, observation: Observation, *, found: bool) -> None:
        """It serves now. `found`: again, after a restart of this service only."""

    def lost(self, name: str, reason: str) -> None:
        """It serves no more."""

    def noticed(self, name: str, notice: Notice) -> None:
        """It told about one of its devices."""

    def changed(self, name: str) -> None:
        """Its status changed."""


class Modules:
    """All back ends of this node."""

    def __init__(
        self,
        records: Records,
        directory: Path,
        mark: str,
        found: Mapping[str, Installed],
        listener: Listener,
    ) -> None:
        self._records = records
        self._directory = directory
        self._mark = mark
        self._installed = dict(found)
        self._listener = listener
        self._modules: dict[str, Module] = {}
        self._backends: dict[str, Backend] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._early: dict[str, list[Notice]] = {}  # told while opening
        self._tasks: set[asyncio.Task[None]] = set()
        for key in records.keys("module/"):
            kept = records.get(key, Module)
            if kept is not None:
                self._add(kept)
        for name in self._installed:
            if name not in self._modules:
                self._add(Module(name, backend=name, values={}))

    # --- asking ---------------------------------------------------------------------------------------

    def names(self) -> tuple[str, ...]:
        """List all names."""
        return tuple(sorted(self._modules))

    def given(self) -> tuple[str, ...]:
        """List the names that a Provider document made or set."""
        mine = (module for module in self._modules.values() if module.values or module.name != module.backend)
        return tuple(module.name for module in mine)

    def module(self, name: str) -> Module:
        """Return what is known of a name."""
        module = self._modules.get(name)
        if module is None:
            raise not_found(
                f"there is no back end {name!r} on this node", hint=f"There are: {', '.join(self.names())}."
            )
        return module

    def backend(self, name: str) -> Backend | None:
        """Return the back end when it serves."""
        return self._backends.get(name)

    def epoch(self, name: str) -> int:
        """Return the epoch of a back end that serves, or 0."""
        module = self._modules.get(name)
        return module.epoch if module is not None and name in self._backends else 0

    def status(self, name: str) -> BackendStatus:
        """Return what is published."""
        module = self.module(name)
        return BackendStatus(
            name=name,
            state=module.state,
            version=module.version,
            epoch=module.epoch,
            classes=module.classes,
            in_use=len(self._listener.users(name)),
            reason=module.reason,
        )

    # --- wishes ---------------------------------------------------------------------------------------

    def unknown(self, name: str) -> bool:
        """Return whether a back end that shall serve could not be asked yet since this service began."""
        module = self._modules.get(name)
        return module is not None and module.wanted and not module.seen

    async def start(self) -> None:
        """After a start of the service: open what was loaded before."""
        wanted = [name for name, module in self._modules.items() if module.wanted]
        await asyncio.gather(*(self._open_again(name) for name in wanted))

    async def load(self, name: str) -> None:
        """Load a back end, or find it loaded. Raises why it cannot be opened."""
        self.module(name)
        async with self._lock(name):
            await self._load(name)

    async def unload(self, name: str, *, force: bool = False) -> None:
        """Unload a back end. In use: refused unless `force`, which orphans its connections."""
        self.module(name)
        async with self._lock(name):
            users = self._listener.users(name)
            if users and not force and name in self._backends:
                raise denied_state(
                    f"back end {name} is in use by {', '.join(users[:20])}",
                    hint="Detach these devices, or use force: they reconnect when it is loaded again.",
                )
            effect = self._step(name, Trigger.UNLOAD_FORCE if force else Trigger.UNLOAD)
            await self._records.sync()
            if effect is loading.Effect.CLOSE:
                await self._close(name, "the back end was unloaded")
                self._step(name, Trigger.CLOSED)

    async def configure(self, name: str, backend: str, values: Mapping[str, str]) -> None:
        """Take a Provider document: a name for an entry point with settings."""
        if backend not in self._installed:
            raise bad_request(f"provider {name}: there is no back end {backend!r} on this node")
        module = self._modules.get(name)
        if module is not None and (module.backend, dict(module.values)) == (backend, dict(values)):
            return
        if module is None:
            self._add(Module(name, backend, dict(values)))
        elif name in self._backends and self._listener.users(name):
            self._set(replace(module, reason="its new settings apply when nothing uses it any more"))
            return
        else:
            await self.unload(name)
            self._set(replace(self._modules[name], backend=backend, values=dict(values)))
        await self.load(name)

    async def forget(self, name: str) -> None:
        """A Provider document is gone. An entry point of that name gets its own settings back."""
        await self.unload(name)
        if name in self._installed:
            await self.configure(name, name, {})
        else:
            del self._modules[name]
            self._records.drop(f"module/{name}")
            self._listener.changed(name)

    def renew(self, name: str) -> None:
        """One of its servers died and will be started again: that is a new epoch."""
        module = self.module(name)
        self._set(replace(module, epoch=module.epoch + 1))

    async def close(self) -> None:
        """Stop watching; what is prepared stays."""
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for name in list(self._backends):
            await self._close_quietly(name, self._backends.pop(name))

    # --- doing ----------------------------------------------------------------------------------------

    def _add(self, kept: Module) -> None:
        """Take a name up; of one that was kept only the wish and the epoch still hold."""
        version = self._installed[kept.backend].version if kept.backend in self._installed else ""
        name, backend, values, wanted = kept.name, kept.backend, kept.values, kept.wanted
        self._modules[name] = Module(
            name, backend, values, wanted=wanted, epoch=kept.epoch, seen=not wanted, version=version
        )

    def _set(self, module: Module) -> None:
        self._modules[module.name] = module
        self._records.put(f"module/{module.name}", module)
        self._listener.changed(module.name)

    def _step(self, name: str, trigger: Trigger, reason: str = "") -> loading.Effect | None:
        outcome = loading.step(self._modules[name], trigger, reason)
        if outcome is None:
            return None
        module, effect = outcome
        self._set(module)
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        loop = asyncio.get_running_loop()
        retry = loading.retry_s(module)
        if retry is not None:
            self._timers[name] = loop.call_later(retry, self._spawn, name)
        elif module.state == "loaded" and module.deaths:
            self._timers[name] = loop.call_later(STEADY_S, self._step, name, Trigger.STEADY)
        return effect

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _spawn(self, name: str) -> None:
        task = asyncio.get_running_loop().create_task(self._open_again(name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open_again(self, name: str) -> None:
        async with self._lock(name):
            try:
                await self._load(name)
            except ManorError as error:
                log.warning("back end %s: %s", name, error)

    async def _load(self, name: str) -> None:
        if self._step(name, Trigger.LOAD) is not loading.Effect.OPEN:
            return
        self._early.pop(name, None)
        found = not self._modules[name].seen
        try:
            observation = await self._open(name)
        except ManorError as error:
            if found and self._listener.known(name):  # it may serve them still: asked again, nothing is lost
                self._step(name, Trigger.NOT_SEEN, error.message)
            else:
                self._step(name, Trigger.OPEN_FAILED, error.message)
                self._listener.lost(name, error.message)
            raise
        self._step(name, Trigger.FOUND if found else Trigger.OPENED)
        self._listener.came(name, observation, found=found)
        for notice in self._early.pop(name, []):
            self._noticed(name, notice)
        await self._records.sync()

    async def _open(self, name: str) -> Observation:
        module = self._modules[name]
        entry = self._installed.get(module.backend)
        if entry is None:
            raise not_found(f"back end {module.backend!r} is not installed any more")
        settings = BackendSettings(
            provider=name,
            directory=self._directory / name,
            mark=self._mark,
            notify=lambda notice: self._noticed(name, notice),
            values=module.values,
        )
        backend = _opened(entry, settings)
        try:
            observation = await bounded(
                f"back end {name}", backend.observe(self._listener.known(name)), OBSERVE_S
            )
        except ManorError:
            await self._close_quietly(name, backend)
            raise
        self._backends[name] = backend
        self._modules[name] = replace(self._modules[name], classes=backend.classes)
        return observation

    def _noticed(self, name: str, notice: Notice) -> None:
        if self._modules[name].state == "loading":
            self._early.setdefault(name, []).append(notice)
            return
        if name not in self._backends:
            return
        if notice.key is not None:
            self._listener.noticed(name, notice)
            return
        backend = self._backends.pop(name)
        self._step(name, Trigger.DIED, notice.reason)
        self._listener.lost(name, notice.reason)
        task = asyncio.get_running_loop().create_task(self._close_quietly(name, backend))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close(self, name: str, reason: str) -> None:
        backend = self._backends.pop(name)
        self._listener.lost(name, reason)
        await self._close_quietly(name, backend)

    async def _close_quietly(self, name: str, backend: Backend) -> None:
        try:
            await bounded(f"back end {name}", backend.close(), CLOSE_S)
        except ManorError as error:
            log.warning("back end %s did not close: %s", name, error)


def _opened(entry: Installed, settings: BackendSettings) -> Backend:
    """Import and open a back end, which may be anybody's: whatever it raises is told as its failure."""
    try:
        return entry.load()(settings)
    except ManorError:
        raise
    except Exception as error:
        log.exception("back end %s cannot be opened", settings.provider)
        raise ManorError(Kind.INTERNAL, f"{type(error).__name__}: {error}") from error
