import pytest

from manor_bus.wire.errors import EXIT_CODES, Kind, ManorError, Problem
from manor_cli import exits


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_has_a_next_step_and_its_code(kind):
    assert exits.NEXT_STEP[kind]
    assert exits.code(ManorError(kind, "x")) == EXIT_CODES[kind]


def test_a_refused_field_is_told_with_its_value_and_what_is_allowed():
    problem = Problem(path="spec.cpu.count", reason="out of range", value="0", allowed="1 to 512")
    error = ManorError(Kind.BAD_REQUEST, "refused", problems=(problem,), hint="correct it")
    assert list(exits.lines(error)) == [
        "error: bad_request: refused",
        "  spec.cpu.count: out of range (got 0; allowed: 1 to 512)",
        "hint: correct it",
    ]


def test_what_a_service_says_cannot_write_to_the_terminal():
    error = ManorError(Kind.INTERNAL, "a\x1b]0;b", hint="c\x07", problems=(Problem(path="\n", reason="\r"),))
    told = "\n".join(exits.lines(error))
    assert not any(one in told for one in "\x1b\x07\r")
