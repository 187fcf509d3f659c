import errno
import os
import subprocess

import pytest

from manor_bus import keys
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.discovery import Find, Found, FoundPart
from manor_bus.wire.messages.lifecycle import DomainDestroy, DomainShutdown, DomainStart, State
from manor_cli.app import App
from manor_cli.runner import present, stopping, systemd
from manor_host import durable
from tests.cli import programs
from tests.cli.fake import FakeClient, domain, fact, operation


class Guests(FakeClient):
    """A bus whose domains stop when they are told to; a deaf one only when it is destroyed."""

    def __init__(self, *statuses, deaf=()):
        super().__init__({DomainShutdown: self.shutdown, DomainDestroy: self.destroy, Find: Found(count=0)})
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
    stopping.halt_guests(app(client), 5.0)
    assert asked(client, DomainShutdown) == ["a", "b"]
    assert asked(client, DomainDestroy) == []


def test_a_deaf_guest_is_destroyed_when_the_deadline_has_passed(app, running, monkeypatch, capsys):
    ticks = iter(range(0, 10_000, 4))
    monkeypatch.setattr(stopping.time, "sleep", lambda _: None)
    monkeypatch.setattr(stopping.time, "monotonic", lambda: float(next(ticks)))
    client = Guests(domain("a"), domain("b"), deaf=("b",))
    stopping.halt_guests(app(client), 5.0)
    assert asked(client, DomainDestroy) == ["b"]
    assert "destroying b" in capsys.readouterr().err


def test_guests_of_other_nodes_are_left_alone(app, running):
    client = Guests(domain("a", node="n2"))
    stopping.halt_guests(app(client), 5.0)
    assert asked(client, DomainShutdown) == []


def test_what_shall_always_run_is_started_again_by_the_next_up(app, running):
    client = Guests(domain("a", run="always"), domain("b", run="on-request"))
    stopping.halt_guests(app(client), 5.0)
    client.answers = {DomainStart: operation()}
    client.asked.clear()
    stopping.resume(app(client))
    assert client.asked == [DomainStart(name="a", reason="manor up")]
    stopping.resume(app(client))
    assert len(client.asked) == 1


def test_a_domain_that_cannot_be_started_again_is_told_and_not_fatal(app, tmp_path, capsys):
    (tmp_path / "resume").write_text("a\n")
    stopping.resume(app(FakeClient({DomainStart: ManorError(Kind.NO_CAPACITY, "no memory")})))
    assert "no memory" in capsys.readouterr().err


def test_guests_that_cannot_be_asked_are_told_by_why(app, running):
    client = FakeClient({Find: ManorError(Kind.UNAVAILABLE, "nobody serves it")})
    assert stopping.halt_guests(app(client), 5.0) == "nobody serves it"


def test_without_the_services_there_is_nobody_to_ask(app):
    assert stopping.halt_guests(app(None), 5.0) == "bus and lifecycle not running"


def test_a_disk_that_takes_nothing_keeps_no_guest_running(app, running, monkeypatch, capsys):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(durable, "replace", read_only)
    client = Guests(domain("a", run="always"))
    assert stopping.halt_guests(app(client), 5.0) == ""
    assert asked(client, DomainShutdown) == ["a"]
    assert "Read-only file system" in capsys.readouterr().err


def test_an_empty_public_key_of_the_broker_is_made_anew_so_that_guests_can_be_asked(app, running, tmp_path):
    keys.create(tmp_path / "keys")
    (tmp_path / "keys" / "broker.pub").write_text("")
    client = Guests(domain("a"))
    stopping.halt_guests(app(client), 5.0)
    assert keys.load_public(tmp_path / "keys" / "broker.pub")


def test_services_are_ended_even_without_a_supervisor(app, tmp_path):
    environment = programs.environment(tmp_path)
    children = [
        programs.start(*programs.serving(tmp_path, name)[1:], env=environment)
        for name in ("bus", "config", "config")
    ]
    try:
        while sum(map(len, present.services(tmp_path).values())) < len(children):
            assert all(child.poll() is None for child in children)
        assert stopping.stop_everything(app(None), guests=True) == []
        assert [child.wait() for child in children] == [-15, -15, -15]
    finally:
        for child in children:
            child.kill()
            child.stdout.close()


def test_it_is_looked_again_before_it_is_said_that_everything_is_stopped(app, monkeypatch):
    looks = iter([{"config": []}, {"config": []}, {}])
    monkeypatch.setattr(present, "services", lambda _: next(looks))
    assert stopping.stop_everything(app(None), guests=False) == []
    assert list(looks) == []


def test_guests_that_nobody_answers_for_are_ended(app, tmp_path):
    (tmp_path / "lifecycle").mkdir()
    with (tmp_path / "lifecycle" / "log").open("w") as log:
        command = ["qemu-system-x86_64", "-c", "read"]
        guest = programs.seen(
            subprocess.Popen(command, executable="/bin/bash", stdin=subprocess.PIPE, stdout=log)
        )
    try:
        assert stopping.stop_everything(app(None), guests=False) == []
        assert guest.poll() is None
        assert stopping.stop_everything(app(None), guests=True) == []
        assert guest.wait() == -15
    finally:
        guest.kill()
        guest.stdin.close()


def test_units_of_systemd_are_stopped_by_systemd(app, monkeypatch):
    asked = []
    unit = systemd.Unit("manor@config.service", "active", 7, 0)
    monkeypatch.setattr(systemd, "units", lambda _: {"config": unit})
    monkeypatch.setattr(systemd, "act", lambda *words: asked.append(words))
    stopping.stop_everything(app(None), guests=False)
    assert asked == [("stop", "manor@config.service")]
