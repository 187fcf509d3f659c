import os
import pty
import signal
import termios

import pytest

from manor_cli import terminal


@pytest.fixture
def window():
    """A terminal's two ends: the person's, and the program's."""
    person, program = pty.openpty()
    yield person, program
    os.close(person)
    os.close(program)


def test_keys_pass_as_they_are_and_the_window_is_as_before(window):
    person, program = window
    before = termios.tcgetattr(program)
    with terminal.raw(program):
        os.write(person, b"\x03\x1a\r")
        assert os.read(program, 10) == b"\x03\x1a\r"
        assert termios.tcgetattr(program) != before
    assert termios.tcgetattr(program) == before


def test_the_window_is_restored_after_a_crash(window):
    _, program = window
    before = termios.tcgetattr(program)
    with pytest.raises(ZeroDivisionError), terminal.raw(program):
        raise ZeroDivisionError
    assert termios.tcgetattr(program) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_window_is_restored_when_a_signal_ends_us(window, number):
    _, program = window
    before, ends = termios.tcgetattr(program), signal.getsignal(number)
    with pytest.raises(SystemExit) as caught, terminal.raw(program):
        os.kill(os.getpid(), number)
    assert caught.value.code == 128 + number
    assert termios.tcgetattr(program) == before
    assert signal.getsignal(number) is ends


def test_what_a_guest_switched_on_is_switched_off(window):
    person, program = window
    with terminal.raw(program):
        pass
    assert os.read(person, 200) == terminal.CALM


async def test_typing_is_read_from_a_pipe_until_its_end():
    reader, writer = os.pipe()
    os.write(writer, b"hello")
    typed = terminal.typed(reader)
    assert await anext(typed) == b"hello"
    os.close(writer)
    assert [content async for content in typed] == []
    os.close(reader)


async def test_typing_is_read_from_a_file(tmp_path):
    (tmp_path / "typed").write_bytes(b"x" * 5_000)
    descriptor = os.open(tmp_path / "typed", os.O_RDONLY)
    assert b"".join([content async for content in terminal.typed(descriptor)]) == b"x" * 5_000
    os.close(descriptor)


async def test_a_window_that_was_closed_is_an_end():
    person, program = pty.openpty()
    os.close(person)
    assert [content async for content in terminal.typed(program)] == []
    os.close(program)


def test_everything_is_written():
    reader, writer = os.pipe()
    terminal.written(writer, b"abc")
    assert os.read(reader, 10) == b"abc"
    os.close(reader)
    os.close(writer)


def test_harmless_output_keeps_lines_and_shows_the_rest():
    assert terminal.harmless(b"a\tb\r\n\x1b[2J\x07\xff") == "a\tb\r\n\\x1b[2J\\x07\ufffd".encode()
