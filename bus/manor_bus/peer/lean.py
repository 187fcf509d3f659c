"""What keeps an idle service small. Imported by `serving` before anything else.

asyncio imports ssl only to offer TLS, which the bus does not use: OpenSSL's two libraries cost every service
more than a megabyte of its own.
"""

from __future__ import annotations

import gc
import sys

if "asyncio" not in sys.modules and "ssl" not in sys.modules:
    sys.modules["ssl"] = None  # type: ignore[assignment]  # the import system's way to say: there is none
    import asyncio  # noqa: F401

    del sys.modules["ssl"]  # whoever needs it may still import it


def settle() -> None:
    """Give back what only the start needed; what lives now is for good and is not looked through again."""
    gc.collect()
    gc.freeze()
