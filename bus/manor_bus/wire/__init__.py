"""What travels on the bus: envelope, codec, errors, subjects, and the messages. Nothing here does I/O."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


def _later(name: str) -> ModuleType:
    """Return a module that is imported when somebody looks into it."""
    module = ModuleType(name)

    def look(attribute: str) -> Any:
        if attribute.startswith("__") and attribute != "__path__":
            raise AttributeError(attribute)
        if sys.modules.get(name) is module:
            del sys.modules[name]
        real = import_module(name)
        vars(module).update(vars(real))
        return getattr(real, attribute)

    module.__getattr__ = look  # type: ignore[method-assign]
    return module


# msgspec, pathlib and zmq import these and hardly use them: 5 ms and 1 MiB of every command and service.
for _module in ("msgspec.inspect", "textwrap", "ipaddress", "json", "random"):
    if _module not in sys.modules:
        sys.modules[_module] = _later(_module)
if "msgspec" not in sys.modules and "typing_extensions" not in sys.modules:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # typing has all that msgspec looks for
    import msgspec  # noqa: F401

    del sys.modules["typing_extensions"]
