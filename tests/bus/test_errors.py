import pytest

from manor_bus.wire import codec, errors
from manor_bus.wire.errors import EXIT_CODES, ErrorBody, Kind, ManorError, Origin, Problem


def test_every_kind_has_an_exit_code_of_its_own():
    assert set(EXIT_CODES) == set(Kind)
    assert len(set(EXIT_CODES.values())) == len(Kind)
    assert 0 not in EXIT_CODES.values()


def test_an_error_crosses_the_wire_whole():
    problem = Problem(path="spec.disks[0].source", reason="missing", value="", allowed="a path")
    error = ManorError(
        Kind.BAD_REQUEST, "no", hint="Fix it.", problems=(problem,), origin=Origin.BROKER, delivered=None
    )
    again = ManorError.from_body(codec.decode(codec.encode(error.body()), ErrorBody))
    assert vars(again) == vars(error)


def test_an_error_prints_what_and_where():
    error = errors.bad_request("invalid", Problem(path="spec.name", reason="too long"))
    assert str(error) == "bad_request: invalid\n  spec.name: too long"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.bad_request("m"), Kind.BAD_REQUEST), (errors.not_found("m"), Kind.NOT_FOUND),
        (errors.conflict("m"), Kind.CONFLICT), (errors.denied_state("m"), Kind.DENIED_STATE),
        (errors.unavailable("m", delivered=None), Kind.UNAVAILABLE),
    ],
)  # fmt: skip
def test_each_kind_can_be_made_in_one_word(error, kind):
    assert (error.kind, error.message) == (kind, "m")
