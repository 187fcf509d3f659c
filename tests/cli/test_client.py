import inspect

import pytest

from manor_bus.peer.blocking import Client
from tests.cli.fake import FakeClient

METHODS = ["call", "raw_call", "publish", "watch", "items", "close"]


@pytest.mark.parametrize("name", METHODS)
def test_the_bus_of_tests_takes_what_the_real_one_takes(name):
    real, fake = (inspect.signature(getattr(one, name)).parameters for one in (Client, FakeClient))
    assert {argument: real[argument].kind for argument in fake} == {
        argument: one.kind for argument, one in fake.items()
    }
