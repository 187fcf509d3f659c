"""The bus: message types, envelope, codec, broker core and peer library. Knows no domain's disk."""

import sys

if "msgspec" not in sys.modules and "typing_extensions" not in sys.modules:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # typing has all that msgspec looks for
    import msgspec  # noqa: F401 - every command and service would spend 2 ms and 300 KiB on the other

    del sys.modules["typing_extensions"]

VERSION = "0.1.0"
PROTOCOL = 1  # grows with every breaking change of the wire page; negotiated in HELLO
