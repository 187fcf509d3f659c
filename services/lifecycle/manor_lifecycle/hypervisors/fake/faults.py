"""What the fake hypervisor is told to do wrong: by `spec.extra["fake"]` of a document, by the file
`faults.json` in its directory (domain name or `*` -> the same keys, which come first), or by a test (`next`).

    {"create": "fail"}                      any call by name, see below; or {"wait_s": 2}
    {"create": {"do": "fail", "times": 1}}  only so many times
    {"shutdown": "ignore"}                  the guest does not react (default: it powers off)
    {"unplug": "refuse" | "ignore"}         the guest keeps the device (by force it goes: `force-unplug`)
    {"end": {"after_s": 3, "reason": "crash", "kept": true}}    the run ends by itself

fail: an error, no effect; refuse: the guest says no; fail-after: the effect, then an error; late: no answer
in time, and the effect before the next look; hang: no answer ever, no effect; lie: "done" without an effect;
stale: an answer about an older run, no effect; exit: the process ends at once, as in a crash (needs the
option `exits`). The option `hostile`, a seed, lets chance choose at every call.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec

from manor_bus.wire.errors import Kind, ManorError, denied_state

LATE_S: Final = 5.0
CHANCES: Final[Mapping[str, int]] = {
    "": 14,
    "fail": 1,
    "fail-after": 1,
    "late": 1,
    "hang": 1,
    "lie": 1,
    "stale": 1,
}

_log = logging.getLogger(__name__)


class Effect(StrEnum):
    """What becomes of the effect of a call that did not fail before it."""

    NOW = "now"
    NOW_THEN_ERROR = "now-then-error"
    LATER = "later"
    NONE = "none"


class Faults:
    """See the module. `told` is always what the document of the domain says."""

    def __init__(self, directory: Path, *, exits: bool = False, hostile: str = "") -> None:
        self._path = f"{directory}/faults.json"
        self._exits = exits
        self._times: Counter[tuple[str, str]] = Counter()
        self._read: tuple[int, dict[str, dict[str, Any]]] = (0, {})
        self._late: dict[str, list[Callable[[], None]]] = {}
        self._next: dict[str, list[str]] = {}
        self._chance = random.Random(hostile) if hostile else None
        if hostile:
            _log.warning("the fake hypervisor is hostile with the seed %s", hostile)

    def next(self, call: str, *wishes: str) -> None:
        """Tests: the next calls of that name, of any domain, go so; an empty wish is one that goes well."""
        self._next.setdefault(call, []).extend(wishes)

    def calm(self) -> None:
        """Tests: from now on nothing goes wrong by chance."""
        self._chance = None

    def wish(self, call: str, name: str, told: Mapping[str, Any]) -> object:
        """Return what is to happen at a call for a domain; None for nothing special."""
        return {**told, **self._of(name)}.get(call)

    async def obey(self, call: str, name: str, uuid: str, told: Mapping[str, Any]) -> Effect:
        """Wait, fail, refuse, hang or exit, if told so; otherwise say what becomes of the effect."""
        match await self._choose(call, name, uuid, told):
            case "fail":
                message = f"the fake hypervisor was told to fail {call} of {name}"
                raise ManorError(Kind.INTERNAL, message, hint="Change spec.extra.fake of the document.")
            case "refuse":
                message = f"the guest {name} refused {call}"
                raise denied_state(message, hint="Try again later, or force.")
            case "stale":
                raise ManorError(Kind.STALE, f"{call} of {name} was about an older run")
            case "hang":
                await asyncio.get_running_loop().create_future()
            case "exit" if self._exits:
                os._exit(9)
            case "fail-after":
                return Effect.NOW_THEN_ERROR
            case "late":
                return Effect.LATER
            case "lie":
                return Effect.NONE
            case _:
                pass
        return Effect.NOW

    async def carry(self, how: Effect, call: str, uuid: str, effect: Callable[[], None]) -> None:
        """Carry the effect out, now, later or not at all, and answer as it was told."""
        if how is Effect.LATER:
            self._late.setdefault(uuid, []).append(effect)
            await asyncio.sleep(LATE_S)
            raise ManorError(Kind.TIMEOUT, f"{call} was not answered within {LATE_S:g} s")
        if how is not Effect.NONE:
            effect()
        if how is Effect.NOW_THEN_ERROR:
            message = f"the fake hypervisor was told to fail {call} after its effect"
            raise ManorError(Kind.UNAVAILABLE, message, delivered=None)

    def arrive(self, uuid: str) -> None:
        """What was late comes before whatever is next in the lane."""
        for effect in self._late.pop(uuid, ()):
            effect()

    async def _choose(self, call: str, name: str, uuid: str, told: Mapping[str, Any]) -> object:
        if waiting := self._next.get(call):
            return waiting.pop(0)
        wish = self.wish(call, name, told)
        if isinstance(wish, dict):
            if "times" in wish and self._times[uuid, call] >= int(wish["times"]):
                return None
            await asyncio.sleep(float(wish.get("wait_s", 0)))
            wish = wish.get("do")
        if wish is not None:
            self._times[uuid, call] += 1
        elif self._chance is not None:
            (wish,) = self._chance.choices(list(CHANCES), list(CHANCES.values()))
            wish = "" if (call, wish) == ("look", "lie") else wish
        return wish

    def _of(self, name: str) -> dict[str, Any]:
        try:
            modified = os.stat(self._path).st_mtime_ns
        except FileNotFoundError:
            return {}
        if modified != self._read[0]:
            try:
                content = Path(self._path).read_bytes()
                told = msgspec.json.decode(content, type=dict[str, dict[str, Any]])
            except msgspec.MsgspecError as error:
                raise ManorError(Kind.BAD_REQUEST, f"{self._path} cannot be read: {error}") from None
            self._read = (modified, told)
        return {**self._read[1].get("*", {}), **self._read[1].get(name, {})}
