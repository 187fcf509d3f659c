"""What installed packages offer under an entry point group: hypervisor adapters, back ends.

Reads the packages' own `entry_points.txt`. importlib.metadata would do, but keeps 2.5 MiB in every process
that asks.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

_PACKAGE: Final = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)\.dist-info")
_LINE: Final = re.compile(r"(?P<name>[\w.-]+)\s*=\s*(?P<module>[\w.]+):(?P<attribute>\w+)")


@dataclass(frozen=True)
class Plugin:
    """One thing that a package offers, and that package's version."""

    name: str
    version: str
    module: str
    attribute: str

    def load(self) -> Any:
        """Import it."""
        return getattr(import_module(self.module), self.attribute)


def installed(group: str, path: list[str] | None = None) -> dict[str, Plugin]:
    """Return what is offered under a group by name; of two with one name the first on the path counts."""
    found: dict[str, Plugin] = {}
    for folder in sys.path if path is None else path:
        for file in sorted(Path(folder or ".").glob("*.dist-info/entry_points.txt")):
            package = _PACKAGE.fullmatch(file.parent.name)
            for line in _lines(file, group) if package else ():
                match = _LINE.match(line)
                if match and match["name"] not in found:
                    version = package["version"] if package else ""
                    found[match["name"]] = Plugin(match["name"], version, match["module"], match["attribute"])
    return found


def _lines(file: Path, group: str) -> Iterator[str]:
    """Yield the lines of one section."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return  # a package that is being removed, or damaged, offers nothing
    within = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            within = line == f"[{group}]"
        elif within:
            yield line
