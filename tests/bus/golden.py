"""Golden bytes: what every message looked like on the wire. `python -m tests.bus.golden` adds to them.

golden.json holds for every message the encoded examples, oldest first. One is added when the present example
differs from the last one (a field was added); none is ever changed or removed.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.errors import ErrorBody
from manor_bus.wire.messages import bus as words
from tests.testkit.examples import bodies, example

FILE = Path(__file__).with_name("golden.json")
SESSION = (
    words.Hello, words.Welcome, words.Subscribe, words.Subscribed, words.Unsubscribe, words.Credit,
    words.Reset, words.Serving, ErrorBody, Envelope,
)  # fmt: skip


def shapes() -> dict[str, type[msgspec.Struct]]:
    """Every struct whose bytes are promised, by name."""
    return {**bodies(), **{f"bus {one.__name__}": one for one in SESSION}}


def present() -> dict[str, bytes]:
    """The examples of the present code: full ones, and `… bare` with what must be set alone."""
    made = {}
    for name, shape in shapes().items():
        full, bare = (codec.encode(example(shape, full=full)) for full in (True, False))
        made[name] = full
        if bare != full:
            made[f"{name} bare"] = bare
    return made


def known() -> dict[str, list[bytes]]:
    """The golden bytes."""
    return {name: [bytes.fromhex(one) for one in old] for name, old in json.loads(FILE.read_text()).items()}


def main() -> None:
    """Add what is new."""
    golden = known() if FILE.exists() else {}
    for name, frame in present().items():
        if frame not in golden.setdefault(name, []):
            golden[name].append(frame)
    text = {name: [one.hex() for one in old] for name, old in sorted(golden.items())}
    FILE.write_text(json.dumps(text, indent=0) + "\n")


if __name__ == "__main__":
    main()
