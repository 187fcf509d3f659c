import subprocess

import pytest

from manor_cli.app import App
from manor_cli.runner import present, stopping, systemd
from tests.cli import programs


@pytest.fixture
def app(tmp_path):
    def make(client):
        environment = {"MANOR_DIR": str(tmp_path), "MANOR_NODE": "n1"}
        return App(connect=lambda _: client, environment=environment, tty=False)

    return make


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
    unit = systemd.Unit("manor-config.service", "active", 7, 0)
    monkeypatch.setattr(systemd, "units", lambda _: {"config": unit})
    monkeypatch.setattr(systemd, "act", lambda *words: asked.append(words))
    stopping.stop_everything(app(None), guests=False)
    assert asked == [("stop", "manor-config.service")]
