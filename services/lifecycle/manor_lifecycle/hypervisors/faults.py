"""What the fake hypervisor is told to do wrong, by `spec.extra["fake"]` of a document, or by the file
`faults.json` in its directory (domain name or `*` -> the same keys, which then come first):

    {"create": "fail"}                      any call by name: fail, refuse, hang, exit, or {"wait_s": 2};
    {"create": {"do": "fail", "times": 1}}  only so many times
    {"shutdown": "ignore"}                  the guest does not react (default: it powers off)
    {"unplug": "refuse" | "ignore"}         the guest keeps the device (by force it goes: `force-unplug`)
    {"end": {"after_s": 3, "reason": "crash", "kept": true}}    the run ends by itself

`exit` ends the process at once, as a crash would; it needs the option `exits`.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from manor_bus.wire.errors import Kind, ManorError, denied_state


class Faults:
    """See the module. `told` is always what the document of the domain says."""

    def __init__(self, directory: Path, *, exits: bool = False) -> None:
        self._path = directory / "faults.json"
        self._exits = exits
        self._times: Counter[tuple[str, str]] = Counter()
        self._read: tuple[float, dict[str, dict[str, Any]]] = (0.0, {})

    def wish(self, call: str, name: str, told: Mapping[str, Any]) -> object:
        """Return what is to happen at a call for a domain; None for nothing special."""
        return {**told, **self._of(name)}.get(call)

    async def obey(self, call: str, name: str, uuid: str, told: Mapping[str, Any]) -> None:
        """Wait, fail, refuse, hang or exit, if told so."""
        wish = self.wish(call, name, told)
        if isinstance(wish, dict):
            if "times" in wish and self._times[uuid, call] >= int(wish["times"]):
                return
            await asyncio.sleep(float(wish.get("wait_s", 0)))
            wish = wish.get("do")
        if wish in ("fail", "refuse", "hang", "exit"):
            self._times[uuid, call] += 1
        match wish:
            case "fail":
                message = f"the fake hypervisor was told to fail {call} of {name}"
                raise ManorError(Kind.INTERNAL, message, hint="Change spec.extra.fake of the document.")
            case "refuse":
                message = f"the guest {name} refused {call}"
                raise denied_state(message, hint="Try again later, or force.")
            case "hang":
                await asyncio.get_running_loop().create_future()
            case "exit" if self._exits:
                os._exit(9)

    def _of(self, name: str) -> dict[str, Any]:
        try:
            modified = self._path.stat().st_mtime_ns / 1e9
        except FileNotFoundError:
            return {}
        if modified != self._read[0]:
            try:
                told = msgspec.json.decode(self._path.read_bytes(), type=dict[str, dict[str, Any]])
            except msgspec.MsgspecError as error:
                raise ManorError(Kind.BAD_REQUEST, f"{self._path} cannot be read: {error}") from None
            self._read = (modified, told)
        return {**self._read[1].get("*", {}), **self._read[1].get(name, {})}
