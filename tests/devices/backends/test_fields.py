"""Every field of a network card and its network, asked of every back end of cards."""

import msgspec
import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.documents import NetworkSpec, Nic
from manor_devices.backends.fields import NETWORK, NIC, check


@pytest.mark.parametrize("backend", NIC)
def test_every_field_has_its_word(backend):
    assert set(NIC[backend]) == set(Nic.__struct_fields__)
    assert set(NETWORK[backend]) == set(NetworkSpec.__struct_fields__)


VALUES = {"mtu": 9000, "ip": ("10.0.0.2",), "rate_kib_per_second": 5, "vlan": 7, "queues": 2}


@pytest.mark.parametrize("field", VALUES)
def test_what_would_have_no_effect_is_refused_with_the_field(field):
    nic = msgspec.structs.replace(Nic(id="net0"), **{field: VALUES[field]})
    with pytest.raises(ManorError) as caught:
        check("usernet", nic, None)
    assert caught.value.kind is Kind.BAD_REQUEST
    assert caught.value.problems[0].path == f"nic.{field}"


def test_a_wall_that_would_not_be_there_is_refused():
    with pytest.raises(ManorError, match="isolated has no effect"):
        check("usernet", Nic(id="net0"), NetworkSpec(isolated=True))
    check("bridge", Nic(id="net0", mtu=9000, queues=2), NetworkSpec(type="bridge", bridge="b", isolated=True))
