from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from manor_config.engines.sqlite import Engine, in_memory
from tests.config.engines.contract import *  # noqa: F403
from tests.config.engines.contract import Open


@asynccontextmanager
async def _opened() -> AsyncIterator[Engine]:
    engine = in_memory()
    try:
        yield engine
    finally:
        await engine.close()


@pytest.fixture
def fresh_store() -> Callable[[], Open]:
    return lambda: _opened


@pytest.fixture
def open_engine(fresh_store: Callable[[], Open]) -> Open:
    return fresh_store()
