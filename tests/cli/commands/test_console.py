import io
import os
import sys

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.consoles import ConsoleAttach, ConsoleRecall, LastRun
from manor_cli import reach
from manor_cli.app import App
from manor_cli.main import main
from tests.cli.fake import FakeClient, run
from tests.cli.test_serial_console import Guest


class Peer(Guest):
    """A guest that answers what is typed, on a connection that can be closed."""

    closed = False

    async def call(self, request, reply, *, timeout):
        answer = await super().call(request, reply, timeout=timeout)
        if hasattr(request, "content"):
            self.say(b"you said \x1b[1m" + request.content)
        return answer

    async def close(self):
        self.closed = True


@pytest.fixture
def attach(monkeypatch, tmp_path):
    """Run the command with a file to type and one to print into; returns its code, its output, its peer."""
    peers = []

    async def attached(settings, budget):
        peers.append(Peer(b"login: "))
        return peers[-1]

    monkeypatch.setattr(reach, "attached", attached)

    def run(*words, typed=b""):
        (tmp_path / "in").write_bytes(typed)
        with (tmp_path / "in").open("rb") as read, (tmp_path / "out").open("wb") as written:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.FileIO(os.dup(read.fileno()))))
            monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.FileIO(os.dup(written.fileno()), "wb")))
            try:
                code = main(words, App(environment={"MANOR_DIR": "/nowhere"}, tty=False))
            finally:
                for stream in (sys.stdin, sys.stdout):
                    stream.close()
                monkeypatch.undo()
        return code, (tmp_path / "out").read_bytes(), peers[-1] if peers else None

    return run


def test_a_script_types_and_reads_until_the_answer(attach):
    code, printed, peer = attach("console", "web", "--until", "said", typed=b"uptime\n")
    assert code == 0
    assert printed.startswith(b"login: you said")
    assert peer.heard == b"uptime\n"
    assert peer.closed


def test_without_a_text_to_wait_for_silence_ends_it(attach):
    code, printed, _ = attach("console", "web", "--idle", "0.01", typed=b"x")
    assert code == 0
    assert printed == b"login: you said \x1b[1mx"


def test_control_characters_of_a_guest_can_be_escaped(attach):
    assert b"you said \\x1b[1mx" in attach("console", "web", "--idle", "0.01", "--safe", typed=b"x")[1]


def test_a_watcher_types_nothing_and_ends_with_its_time(attach):
    code, printed, peer = attach("--timeout", "0.1", "console", "web", "--watch", typed=b"rm\n")
    assert code == 0
    assert printed == b"login: "
    assert peer.asked == [ConsoleAttach(name="web", write=False)]


def test_a_text_that_does_not_come_has_the_code_of_a_timeout(attach, capsys):
    assert attach("--timeout", "0.1", "console", "web", "--until", "never")[0] == 9


def test_what_was_printed_before_can_be_left_out(attach):
    assert attach("console", "web", "--idle", "0.01", "--no-scrollback")[1] == b""


def test_a_bus_that_is_not_there_is_told(attach, monkeypatch):
    async def unreachable(settings, budget):
        raise ManorError(Kind.UNAVAILABLE, "no bus answers")

    monkeypatch.setattr(reach, "attached", unreachable)
    assert attach("console", "web")[0] == 8


def test_the_log_of_the_last_run_is_printed_and_without_one_that_is_said():
    last = LastRun(console=b"panic\n", log=b"qemu: \x1b[1mbroke\n")
    client = FakeClient({ConsoleRecall: last})
    assert run("logs", "web", client=client).out == "qemu: \\x1b[1mbroke\n"
    told = run("logs", "domain/web", "-o", "json", client=client).json
    assert told == {"name": "web", "console": "panic\n", "log": "qemu: \x1b[1mbroke\n"}
    assert client.asked == [ConsoleRecall(name="web")] * 2
    none = FakeClient({ConsoleRecall: ManorError(Kind.NOT_FOUND, "no run is kept", hint="Start it.")})
    for words in (["logs", "web"], ["console", "web", "--run", "-1"]):
        ran = run(*words, client=none)
        assert (ran.code, ran.out) == (3, "")
        assert "no run is kept" in ran.err
