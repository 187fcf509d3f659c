"""Consoles: what a guest prints reaches everybody once and in order; one writer types."""

import asyncio

import pytest

from manor_bus.wire.errors import Kind, ManorError, denied_state
from manor_bus.wire.messages.consoles import ConsoleAttach, ConsoleOutput, ConsoleWrite
from manor_lifecycle.console import BATCH_BYTES, Consoles

UUID = "0b1c3b52-6d4c-4f3e-9c51-1d1f8f0c0001"


class Stream:
    """A console whose guest is the test."""

    def __init__(self, offset=0):
        self.offset = offset
        self.typed = b""
        self.closed = False
        self.printed = asyncio.Queue()

    async def read(self):
        content = await self.printed.get()
        self.offset += len(content)
        return content

    async def write(self, content):
        self.typed += content

    async def close(self):
        self.closed = True


class Bus:
    """Collects what is published."""

    def __init__(self):
        self.told: asyncio.Queue[ConsoleOutput] = asyncio.Queue()

    async def publish(self, subject, body):
        assert subject == f"console.{body.name}"
        self.told.put_nowait(body)


@pytest.fixture
def bus():
    return Bus()


@pytest.fixture
async def consoles(bus):
    tokens = iter(f"token-{number}" for number in range(100))
    made = Consoles(bus.publish, lambda: next(tokens))
    yield made
    await made.close()


def opening(*streams):
    rest = iter(streams)

    async def open_stream():
        try:
            return next(rest)
        except StopIteration:
            raise denied_state("no more streams") from None

    return open_stream


async def test_what_is_printed_is_published_and_kept(consoles, bus):
    stream = Stream()
    consoles.started(UUID, "web", 3, opening(stream))
    stream.printed.put_nowait(b"boo")
    stream.printed.put_nowait(b"ting\n")
    output = await bus.told.get()
    assert output == ConsoleOutput(name="web", incarnation=3, offset=0, content=b"booting\n")
    attached = await consoles.attach(UUID, ConsoleAttach(name="web", write=False), "alice", "k")
    assert (attached.scrollback, attached.offset, attached.incarnation) == (b"booting\n", 8, 3)
    assert attached.token == ""


async def test_after_a_restart_of_the_service_the_numbers_go_on(consoles, bus):
    stream = Stream(offset=5000)
    consoles.started(UUID, "web", 1, opening(stream))
    stream.printed.put_nowait(b"old words")
    assert (await bus.told.get()).offset == 5000
    attached = await consoles.attach(UUID, ConsoleAttach(name="web"), "alice", "k")
    assert (attached.scrollback, attached.offset) == (b"old words", 5009)


async def test_who_attaches_at_once_gets_what_was_printed_before_the_console_was_opened(consoles):
    stream = Stream(offset=100)
    stream.printed.put_nowait(b"old words")
    consoles.started(UUID, "web", 1, opening(stream))
    attached = await consoles.attach(UUID, ConsoleAttach(name="web"), "alice", "k")
    assert (attached.scrollback, attached.offset) == (b"old words", 109)


async def test_a_flood_is_published_with_a_hole_that_the_numbers_show(consoles, bus):
    stream = Stream()
    consoles.started(UUID, "web", 1, opening(stream))
    flood = bytes(range(256)) * (3 * BATCH_BYTES // 256)
    stream.printed.put_nowait(flood)
    first = await bus.told.get()
    assert first.offset == len(flood) - BATCH_BYTES
    assert flood[first.offset :].startswith(first.content)
    attached = await consoles.attach(UUID, ConsoleAttach(name="web", write=False), "alice", "k")
    assert flood.endswith(attached.scrollback)
    assert len(attached.scrollback) == len(flood)


async def test_one_types_and_others_watch(consoles, bus):
    stream = Stream()
    consoles.started(UUID, "web", 1, opening(stream))
    stream.printed.put_nowait(b"login: ")
    await bus.told.get()
    writer = await consoles.attach(UUID, ConsoleAttach(name="web"), "alice", "k1")
    with pytest.raises(ManorError, match="alice"):
        await consoles.attach(UUID, ConsoleAttach(name="web"), "bob", "k2")
    await consoles.write(UUID, ConsoleWrite(name="web", token=writer.token, content=b"root\n"))
    assert stream.typed == b"root\n"
    thief = await consoles.attach(UUID, ConsoleAttach(name="web", steal=True), "bob", "k3")
    with pytest.raises(ManorError, match="bob") as refused:
        await consoles.write(UUID, ConsoleWrite(name="web", token=writer.token, content=b"x"))
    assert refused.value.kind is Kind.CONFLICT
    await consoles.detach(UUID, thief.token)
    await consoles.attach(UUID, ConsoleAttach(name="web"), "carol", "k4")


async def test_too_much_at_once_is_refused(consoles, bus):
    consoles.started(UUID, "web", 1, opening(Stream()))
    attached = await consoles.attach(UUID, ConsoleAttach(name="web"), "alice", "k1")
    with pytest.raises(ManorError) as refused:
        await consoles.write(UUID, ConsoleWrite(name="web", token=attached.token, content=b"x" * 4097))
    assert refused.value.problems[0].path == "content"


async def test_a_new_incarnation_begins_at_zero_and_the_old_stream_is_closed(consoles, bus):
    old, new = Stream(), Stream()
    consoles.started(UUID, "web", 1, opening(old))
    old.printed.put_nowait(b"first life")
    await bus.told.get()
    consoles.started(UUID, "web", 2, opening(new))
    old.printed.put_nowait(b"")
    new.printed.put_nowait(b"second life")
    output = await bus.told.get()
    assert (output.incarnation, output.offset, output.content) == (2, 0, b"second life")
    await consoles.close()
    assert old.closed
    assert new.closed


async def test_the_last_words_of_a_run_are_told_and_can_be_read_afterwards(consoles, bus):
    stream = Stream()
    consoles.started(UUID, "web", 1, opening(stream))
    stream.printed.put_nowait(b"Power down\n")
    stream.printed.put_nowait(b"")
    assert (await bus.told.get()).content == b"Power down\n"
    consoles.ended(UUID)
    attached = await consoles.attach(UUID, ConsoleAttach(name="web"), "alice", "k1")
    assert attached.scrollback == b"Power down\n"
    with pytest.raises(ManorError) as refused:
        await consoles.write(UUID, ConsoleWrite(name="web", token=attached.token, content=b"x"))
    assert refused.value.kind is Kind.DENIED_STATE


async def test_a_stream_that_breaks_is_opened_again_and_overlaps_are_trimmed(consoles, bus):
    first, second = Stream(), Stream()
    consoles.started(UUID, "web", 1, opening(first, second))
    first.printed.put_nowait(b"hello ")
    await bus.told.get()
    first.printed.put_nowait(b"")
    second.printed.put_nowait(b"hello world")
    output = await bus.told.get()
    assert (output.offset, output.content) == (6, b"world")


async def test_a_renamed_domain_prints_under_its_new_name(consoles, bus):
    stream = Stream()
    consoles.started(UUID, "web", 1, opening(stream))
    consoles.started(UUID, "shop", 1, opening())
    stream.printed.put_nowait(b"x")
    assert (await bus.told.get()).name == "shop"


async def test_a_domain_without_a_console_says_why(consoles, bus):
    consoles.started(UUID, "web", 1, opening())
    with pytest.raises(ManorError, match="no more streams") as refused:
        await consoles.attach(UUID, ConsoleAttach(name="web"), "alice", "k1")
    assert refused.value.kind is Kind.DENIED_STATE


async def test_a_domain_that_never_ran_has_nothing_to_attach_to(consoles):
    with pytest.raises(ManorError) as refused:
        await consoles.attach(UUID, ConsoleAttach(name="web"), "alice", "k1")
    assert refused.value.kind is Kind.DENIED_STATE
    consoles.forget(UUID)
    consoles.ended(UUID)
