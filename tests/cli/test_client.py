import inspect

import pytest

from manor_bus.peer.blocking import Client as BusClient
from manor_cli.client import Client
from tests.cli.fake import FakeClient

METHODS = [
    name for name, member in vars(Client).items() if inspect.isfunction(member) and not name.startswith("_")
]


@pytest.mark.parametrize("made", [BusClient, FakeClient])
@pytest.mark.parametrize("name", METHODS)
def test_what_commands_use_is_there_with_the_same_arguments(made, name):
    wanted, given = (inspect.signature(getattr(one, name)).parameters for one in (Client, made))
    assert list(wanted) == [argument for argument in given if argument in wanted]
    for argument, parameter in wanted.items():
        assert given[argument].kind == parameter.kind
