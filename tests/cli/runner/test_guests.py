import pytest

from manor_bus import keys
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done
from manor_bus.wire.messages.guests import GuestEnded, GuestsEnded, GuestsShutDown, GuestsStart
from manor_cli.app import App
from manor_cli.runner import guests, present
from manor_cli.runner.guests import Ended
from tests.cli.fake import FakeClient

HOW = (
    GuestEnded(name="web", how="shut down"),
    GuestEnded(name="db", how="cut off", why="the guest did not shut down within 7 s"),
    GuestEnded(name="old", how="left", why="it is restored"),
)


@pytest.fixture
def app(tmp_path):
    def make(client):
        environment = {"MANOR_DIR": str(tmp_path), "MANOR_NODE": "n1"}
        return App(connect=lambda _: client, environment=environment, tty=False)

    return make


@pytest.fixture
def running(monkeypatch):
    """The services that guests are asked through."""
    monkeypatch.setattr(present, "services", lambda _: {"bus": [], "lifecycle": []})


def asking():
    client = FakeClient({GuestsShutDown: GuestsEnded(guests=HOW)})
    client.parts = {GuestsShutDown: list(HOW)}
    return client


def test_each_end_is_told_and_who_was_cut_off_is_named(app, running, capsys):
    client = asking()
    assert guests.shut_down(app(client), 5.0, "manor down") == Ended(cut_off=("db",))
    assert client.asked == [GuestsShutDown(timeout_s=5.0, reason="manor down")]
    assert capsys.readouterr().err.splitlines() == [
        "web: shut down",
        "db: cut off (the guest did not shut down within 7 s)",
        "old: left (it is restored)",
    ]


def test_guests_that_cannot_be_asked_are_told_by_why(app, running):
    client = FakeClient({GuestsShutDown: ManorError(Kind.UNAVAILABLE, "nobody serves it")})
    assert guests.shut_down(app(client), None, "manor down") == Ended(unasked="nobody serves it")


def test_without_the_services_there_is_nobody_to_ask(app):
    ended = guests.shut_down(app(None), 5.0, "manor down")
    assert ended == Ended(unasked="bus and lifecycle not running")


def test_an_empty_key_of_the_broker_is_made_anew_so_that_guests_can_be_asked(app, running, tmp_path):
    keys.create(tmp_path / "keys")
    (tmp_path / "keys" / "broker.pub").write_text("")
    guests.shut_down(app(asking()), 5.0, "manor down")
    assert keys.load_public(tmp_path / "keys" / "broker.pub")


def test_what_runs_with_the_node_is_started_with_it(app):
    client = FakeClient({GuestsStart: Done()})
    guests.start(app(client), "manor node start-guests")
    assert client.asked == [GuestsStart(reason="manor node start-guests")]
