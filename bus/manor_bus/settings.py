"""Where the bus is and who we are: read from the environment, once. The only os.environ of the room."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from manor_bus.keys import key_file


def state_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the state directory of this node: MANOR_DIR, or the usual place for this user."""
    chosen = environment.get("MANOR_DIR")
    if chosen:
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/manor")
    state = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "manor"


def node_name(environment: Mapping[str, str] = os.environ) -> str:
    """Return this node's name: MANOR_NODE, else what `manor init` wrote, else `node1`."""
    chosen = environment.get("MANOR_NODE")
    if chosen:
        return chosen
    try:
        return (state_directory(environment) / "node").read_text(encoding="utf-8").strip() or "node1"
    except (OSError, ValueError):
        return "node1"


class BusSettings(msgspec.Struct, frozen=True):
    """What every peer needs to attach."""

    node: str
    endpoint: str
    key_file: Path
    broker_key_file: Path

    @staticmethod
    def from_environment(principal: str, environment: Mapping[str, str] = os.environ) -> BusSettings:
        """Read MANOR_DIR, MANOR_NODE, MANOR_BUS, MANOR_KEYS, and MANOR_KEY (a key file of one's own)."""
        directory = state_directory(environment)
        keys = Path(environment.get("MANOR_KEYS") or directory / "keys")
        own = environment.get("MANOR_KEY")
        return BusSettings(
            node=node_name(environment),
            endpoint=environment.get("MANOR_BUS") or f"ipc://{directory}/run/bus.sock",
            key_file=Path(own) if own else key_file(keys, principal),
            broker_key_file=keys / "broker.pub",
        )


class BrokerSettings(msgspec.Struct, frozen=True):
    """What the broker needs: where to listen, and the keys. `group` may reach its ipc socket, too."""

    node: str
    endpoints: tuple[str, ...]
    keys: Path
    group: str = ""
    directory: Path | None = None  # of its lock: there is one broker on a node
    own: Path | None = None  # its key, when it does not lie in `keys`

    @property
    def key_file(self) -> Path:
        """Where its own key is."""
        return self.own or self.keys / "broker.key"

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> BrokerSettings:
        """Read MANOR_BUS (default: ipc in MANOR_DIR), MANOR_BUS_TCP (a further tcp end point),
        MANOR_BUS_GROUP (who may reach the ipc socket), MANOR_KEYS, and MANOR_KEY (a key file of its own)."""
        directory = state_directory(environment)
        first = environment.get("MANOR_BUS") or f"ipc://{directory}/run/bus.sock"
        tcp, own = environment.get("MANOR_BUS_TCP"), environment.get("MANOR_KEY")
        return BrokerSettings(
            node=node_name(environment),
            endpoints=(first, tcp) if tcp else (first,),
            keys=Path(environment.get("MANOR_KEYS") or directory / "keys"),
            group=environment.get("MANOR_BUS_GROUP", ""),
            directory=directory / "bus",
            own=Path(own) if own else None,
        )
