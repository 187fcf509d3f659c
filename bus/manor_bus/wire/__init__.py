"""What travels on the bus: envelope, codec, errors, subjects, and the messages. Nothing here does I/O."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Later(ModuleType):
    """A module that is imported when somebody looks into it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        module = import_module(self.__name__)
        self.__dict__.update(vars(module))
        return getattr(module, name)


# msgspec, pathlib and zmq import these and hardly use them: 5 ms and 1 MiB of every command and service.
for _module in ("msgspec.inspect", "textwrap", "ipaddress", "json", "random"):
    if _module not in sys.modules:
        sys.modules[_module] = _Later(_module)
if "msgspec" not in sys.modules and "typing_extensions" not in sys.modules:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # typing has all that msgspec looks for
    import msgspec  # noqa: F401

    del sys.modules["typing_extensions"]
