"""What travels on the bus: envelope, codec, errors, subjects, and the messages. Nothing here does I/O."""

import sys

if "msgspec" not in sys.modules and "typing_extensions" not in sys.modules:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # typing has all that msgspec looks for
    import msgspec  # noqa: F401 - every command and service would spend 2 ms and 300 KiB on the other

    del sys.modules["typing_extensions"]
