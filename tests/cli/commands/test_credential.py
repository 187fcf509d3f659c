import pytest

from manor_bus import keys
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.bus import Reload, Reloaded
from tests.cli.fake import FakeClient, run


@pytest.fixture
def node(tmp_path):
    keys.create(tmp_path / "keys")
    return tmp_path


def bus(answer=None):
    return FakeClient({Reload: answer or Reloaded(keys=6, ended=1)})


def principals(node):
    return [row["principal"] for row in run("credential", "list", "-o", "json", directory=node).json]


def test_the_first_principals_are_listed(node):
    assert principals(node) == ["operator/admin", *(f"service/{name}" for name in sorted(keys.SERVICES))]


def test_a_new_principal_gets_a_key_and_the_broker_is_told(node):
    client = bus()
    ran = run("credential", "add", "observer/grafana", client=client, directory=node)
    assert ran.code == 0
    assert str(node / "keys" / "observer-grafana.key") in ran.out
    assert client.asked == [Reload(), Reload()]  # before it, too: it may be our own key that goes
    assert "observer/grafana" in principals(node)


def test_a_public_key_made_elsewhere_needs_no_secret_here(node):
    run("credential", "add", "operator/bob", "--public-key", "a" * 40, client=bus(), directory=node)
    assert "operator/bob" in principals(node)
    assert not (node / "keys" / "operator-bob.key").exists()


def test_a_key_is_replaced(node):
    before = keys.load(node / "keys" / "operator-admin.key")
    run("credential", "rotate", "operator/admin", client=bus(), directory=node)
    assert keys.load(node / "keys" / "operator-admin.key") != before


def test_a_key_is_taken_back_and_sessions_end(node):
    ran = run("credential", "revoke", "service/devices", client=bus(), directory=node)
    assert "ended 1 sessions" in ran.err
    assert "service/devices" not in principals(node)


def test_who_takes_his_own_key_back_is_told_that_the_broker_knows(node):
    keys.add(node / "keys", "operator/bob")
    answers = [Reloaded(keys=7, ended=0), ManorError(Kind.FORBIDDEN, "the broker does not know this key")]
    ran = run("credential", "revoke", "operator/admin", client=bus(lambda _: answers.pop(0)), directory=node)
    assert ran.code == 0, ran.err
    assert "ended this session" in ran.err


def test_the_last_operator_is_asked_for_before_nobody_can_command_the_node(node):
    ran = run("credential", "revoke", "operator/admin", client=bus(), directory=node)
    assert ran.code == 2
    assert "is the last operator" in ran.err
    assert "operator/admin" in principals(node)
    run("credential", "revoke", "operator/admin", "--yes", client=bus(), directory=node)
    assert "operator/admin" not in principals(node)


def test_without_a_broker_the_change_is_made_and_its_effect_told(node):
    client = bus(ManorError(Kind.UNAVAILABLE, "no bus answers"))
    ran = run("credential", "add", "operator/bob", client=client, directory=node)
    assert ran.code == 0
    assert "at its next start" in ran.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("add", "operator/admin"), 4),
        (("add", "root"), 2),
        (("add", "operator/x", "--public-key", "short"), 2),
        (("rotate", "operator/x"), 3),
        (("revoke", "operator/x"), 3),
    ],
)
def test_what_makes_no_sense_is_refused(node, words, code):
    assert run("credential", *words, client=bus(), directory=node).code == code
