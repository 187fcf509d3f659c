from __future__ import annotations

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_lifecycle.hypervisors.qemu.options import Options, read


def test_nothing_said_means_the_defaults() -> None:
    assert read({}) == Options()


def test_numbers_come_as_text_from_the_environment() -> None:
    assert read({"spare_slots": "9", "heartbeat_s": "0.5"}) == Options(spare_slots=9, heartbeat_s=0.5)


@pytest.mark.parametrize("wrong", [{"accelerator": "hax"}, {"spare_slots": "many"}, {"sparse_slots": "1"}])
def test_a_wrong_option_is_refused_and_the_known_ones_are_named(wrong: dict[str, str]) -> None:
    with pytest.raises(ManorError) as refused:
        read(wrong)
    assert refused.value.kind is Kind.BAD_REQUEST
    assert "spare_slots" in refused.value.hint
