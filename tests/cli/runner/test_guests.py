import errno
import os

import pytest

from manor_bus import keys
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import List, Listed
from manor_bus.wire.messages.discovery import Find, Found, FoundPart
from manor_bus.wire.messages.documents import Domain, DomainSpec, Metadata
from manor_bus.wire.messages.lifecycle import DomainDestroy, DomainShutdown, DomainStart, State
from manor_cli.app import App
from manor_cli.runner import guests, present
from manor_cli.runner.guests import Ended
from manor_host import durable
from tests.cli.fake import FakeClient, domain, fact, operation

WHY = "manor down"


class Guests(FakeClient):
    """A bus whose domains stop when they are told to; a deaf one only when it is destroyed."""

    def __init__(self, *statuses, deaf=(), documents=()):
        listed = Listed(documents=tuple(documents), revision=1)
        answers = {DomainShutdown: self.shutdown, DomainDestroy: self.destroy}
        super().__init__({**answers, Find: Found(count=0), List: listed})
        self.statuses, self.deaf = list(statuses), deaf

    def call(self, request, reply, **more):
        self.parts = {Find: [FoundPart(entries=tuple(fact(status) for status in self.statuses))]}
        return super().call(request, reply, **more)

    def shutdown(self, request):
        if request.name not in self.deaf:
            self.destroy(request)
        return operation(kind="shutdown")

    def destroy(self, request):
        self.statuses = [
            domain(one.name, State.DEFINED) if one.name == request.name else one for one in self.statuses
        ]
        return operation(kind="destroy")


@pytest.fixture
def app(tmp_path):
    def make(client):
        environment = {"MANOR_DIR": str(tmp_path), "MANOR_NODE": "n1"}
        return App(connect=lambda _: client, environment=environment, tty=False)

    return make


def asked(client, kind):
    return [one.name for one in client.asked if isinstance(one, kind)]


@pytest.fixture
def running(monkeypatch):
    """The services that guests are asked through."""
    monkeypatch.setattr(present, "services", lambda _: {"bus": [], "lifecycle": []})


def test_every_running_guest_is_asked_and_nobody_is_destroyed(app, running):
    client = Guests(domain("a"), domain("b", State.PAUSED), domain("c", State.DEFINED))
    guests.shut_down(app(client), 5.0, WHY)
    assert asked(client, DomainShutdown) == ["a", "b"]
    assert asked(client, DomainDestroy) == []


def test_a_deaf_guest_is_destroyed_when_the_deadline_has_passed(app, running, monkeypatch, capsys):
    ticks = iter(range(0, 10_000, 4))
    monkeypatch.setattr(guests.time, "sleep", lambda _: None)
    monkeypatch.setattr(guests.time, "monotonic", lambda: float(next(ticks)))
    client = Guests(domain("a"), domain("b"), deaf=("b",))
    assert guests.shut_down(app(client), 5.0, WHY) == Ended(cut_off=("b",))
    assert asked(client, DomainDestroy) == ["b"]
    assert "destroying b, which had 5 s" in capsys.readouterr().err


def test_guests_of_other_nodes_are_left_alone(app, running):
    client = Guests(domain("a", node="n2"))
    guests.shut_down(app(client), 5.0, WHY)
    assert asked(client, DomainShutdown) == []


def test_what_shall_always_run_is_started_again_by_the_next_up(app, running):
    client = Guests(domain("a", run="always"), domain("b", run="on-request"))
    guests.shut_down(app(client), 5.0, WHY)
    client.answers = {DomainStart: operation()}
    client.asked.clear()
    guests.resume(app(client), "manor up")
    assert client.asked == [DomainStart(name="a", reason="manor up")]
    guests.resume(app(client), "manor up")
    assert len(client.asked) == 1


def test_what_is_needed_runs_before_who_needs_it_is_started_again(app, running):
    written = [document("db"), document("web", depends_on=("db",))]
    client = Guests(domain("web", run="always"), domain("db", run="always"), documents=written)
    guests.shut_down(app(client), 5.0, WHY)

    def start(request):
        runs = {one.name for one in client.statuses if one.state == State.RUNNING}
        assert request.name == "db" or "db" in runs
        client.statuses = [domain(one) for one in {*runs, request.name}]
        return operation()

    client.answers = {**client.answers, DomainStart: start}
    guests.resume(app(client), "manor up")
    assert asked(client, DomainStart) == ["db", "web"]


def test_a_domain_that_cannot_be_started_again_is_told_and_not_fatal(app, tmp_path, capsys):
    (tmp_path / "resume").write_text("a\n")
    guests.resume(app(FakeClient({DomainStart: ManorError(Kind.NO_CAPACITY, "no memory")})), "manor up")
    assert "no memory" in capsys.readouterr().err


def test_guests_that_cannot_be_asked_are_told_by_why(app, running):
    client = FakeClient({Find: ManorError(Kind.UNAVAILABLE, "nobody serves it")})
    assert guests.shut_down(app(client), 5.0, WHY) == Ended(unasked="nobody serves it")


def test_without_the_services_there_is_nobody_to_ask(app):
    assert guests.shut_down(app(None), 5.0, WHY) == Ended(unasked="bus and lifecycle not running")


def test_a_disk_that_takes_nothing_keeps_no_guest_running(app, running, monkeypatch, capsys):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(durable, "replace", read_only)
    client = Guests(domain("a", run="always"))
    assert guests.shut_down(app(client), 5.0, WHY) == Ended()
    assert asked(client, DomainShutdown) == ["a"]
    assert "Read-only file system" in capsys.readouterr().err


def test_an_empty_public_key_of_the_broker_is_made_anew_so_that_guests_can_be_asked(app, running, tmp_path):
    keys.create(tmp_path / "keys")
    (tmp_path / "keys" / "broker.pub").write_text("")
    client = Guests(domain("a"))
    guests.shut_down(app(client), 5.0, WHY)
    assert keys.load_public(tmp_path / "keys" / "broker.pub")


def document(name, **spec):
    return Domain(metadata=Metadata(name=name, uuid=f"uuid-of-{name}"), spec=DomainSpec(**spec))


def test_each_guest_has_its_own_time_and_never_more_than_the_limit(app, running):
    written = [document("a", shutdown_timeout_s=3), document("b", shutdown_timeout_s=900)]
    client = Guests(domain("a"), domain("b"), domain("c"), documents=written)
    guests.shut_down(app(client), 120.0, WHY)
    given = {one.name: one.timeout_s for one in client.asked if isinstance(one, DomainShutdown)}
    assert given == {"a": 3.0, "b": 120.0, "c": 60.0}


def test_who_is_needed_ends_after_those_who_need_it(app, running):
    written = [document("db"), document("web", depends_on=("db",)), document("proxy", depends_on=("web",))]
    client = Guests(domain("db"), domain("proxy"), domain("web"), documents=written)
    guests.shut_down(app(client), 5.0, WHY)
    assert asked(client, DomainShutdown) == ["proxy", "web", "db"]


def test_the_order_of_starting_is_followed_backwards():
    specs = {"a": DomainSpec(start_order=1), "b": DomainSpec(start_order=2), "c": DomainSpec(start_order=2)}
    assert guests.in_turns(specs) == [["b", "c"], ["a"]]


def test_need_comes_before_order_and_a_circle_ends_as_one():
    need = {"a": DomainSpec(start_order=9), "b": DomainSpec(depends_on=("a",))}
    assert guests.in_turns(need) == [["b"], ["a"]]
    circle = {"a": DomainSpec(depends_on=("b",)), "b": DomainSpec(depends_on=("a",))}
    assert guests.in_turns(circle) == [["a", "b"]]


def test_without_config_all_are_asked_at_once_and_that_is_told(app, running, capsys):
    client = Guests(domain("a"), domain("b"))
    client.answers = {**client.answers, List: ManorError(Kind.UNAVAILABLE, "config is away")}
    guests.shut_down(app(client), 5.0, WHY)
    assert asked(client, DomainShutdown) == ["a", "b"]
    assert "config is away" in capsys.readouterr().err


def test_a_guest_that_not_even_a_destroy_ends_keeps_nobody_waiting(app, running, monkeypatch):
    ticks = iter(range(0, 10_000, 4))
    monkeypatch.setattr(guests.time, "sleep", lambda _: None)
    monkeypatch.setattr(guests.time, "monotonic", lambda: float(next(ticks)))
    client = Guests(domain("a"), deaf=("a",))
    client.answers = {**client.answers, DomainDestroy: operation(kind="destroy")}
    assert guests.shut_down(app(client), 5.0, WHY) == Ended(cut_off=("a",))
    assert asked(client, DomainDestroy) == ["a"]
