from pathlib import Path

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_cli.runner import systemd
from manor_cli.runner.systemd import Unit

TOLD = """\
Id=manor-bus.service
MainPID=11
NRestarts=2
Environment=MANOR_DIR=/srv/manor "X=a b"
ActiveState=active

Id=manor-config.service
MainPID=0
NRestarts=9
Environment=MANOR_DIR=/srv/manor
ActiveState=activating

Id=manor-devices.service
MainPID=0
Environment=MANOR_DIR=/srv/manor
ActiveState=inactive

Id=manor-lifecycle.service
MainPID=12
Environment=MANOR_DIR=/srv/other
ActiveState=active
"""


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """A program of that name, which prints what it is told and ends as it is told."""

    def make(text, code=0):
        program = tmp_path / "systemctl"
        (tmp_path / "told").write_text(text)
        program.write_text(
            f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ {code} = 0 ] || echo no such unit >&2\n'
            f"/bin/cat {tmp_path}/told\nexit {code}\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return make


def test_the_units_of_a_state_directory_that_are_not_at_rest(systemctl):
    systemctl(TOLD)
    assert systemd.units(Path("/srv/manor")) == {
        "bus": Unit("manor-bus.service", "active", 11, 2),
        "config": Unit("manor-config.service", "activating", 0, 9),
    }


def test_without_systemd_there_are_none(systemctl, monkeypatch, tmp_path):
    systemctl("", code=1)
    assert systemd.units(Path("/srv/manor")) == {}
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert systemd.units(Path("/srv/manor")) == {}


def test_what_systemd_refuses_is_told(systemctl, tmp_path):
    systemctl("")
    systemd.act("stop", "manor-bus.service")
    assert "stop manor-bus.service" in (tmp_path / "asked").read_text()
    systemctl("", code=5)
    with pytest.raises(ManorError, match="no such unit") as caught:
        systemd.act("restart", "manor-bus.service")
    assert caught.value.kind is Kind.UNAVAILABLE
