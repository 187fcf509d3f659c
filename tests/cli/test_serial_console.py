import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor_bus.peer.events import Change, Synced
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done
from manor_bus.wire.messages.consoles import (
    ConsoleAttach,
    ConsoleAttached,
    ConsoleDetach,
    ConsoleOutput,
    ConsoleWrite,
)
from manor_bus.wire.messages.lifecycle import (
    DomainShow,
    State,
)
from manor_cli.serial_console import ESCAPE, WRITE_BYTES_MAX, Console, Place, Wish
from tests.cli.fake import domain


class Guest:
    """A bus with one console on it: `say` is what the guest prints, `heard` what was typed."""

    def __init__(self, before=b"boot\n", incarnation=1):
        self.printed, self.incarnation = before, incarnation
        self.watchers, self.asked, self.heard = {}, [], b""
        self.answers, self.called = {}, asyncio.Event()
        self.service = "service/lifecycle@n1/1"

    async def call(self, request, reply, *, timeout):
        if isinstance(request, DomainShow):
            return domain()
        self.asked.append(request)
        self.called.set()
        answer = self.answers.get(type(request), [])
        if answer:
            raise answer.pop(0)
        if isinstance(request, ConsoleAttach):
            token = f"t{len(self.asked)}" if request.write else ""
            return ConsoleAttached(
                token=token,
                scrollback=self.printed,
                offset=len(self.printed),
                incarnation=self.incarnation,
                subject="console.web",
            )
        if isinstance(request, ConsoleWrite):
            self.heard += request.content
        return Done()

    async def watch(self, pattern, *, policy="coalesce", snapshot=True):
        queue = asyncio.Queue()
        self.watchers[pattern] = queue
        yield Synced()
        while True:
            yield await queue.get()

    def say(self, content, *, lost=b""):
        """Print; `lost` is printed too but no event of it arrives."""
        self.printed += lost
        self.emit(self.incarnation, len(self.printed), content)
        self.printed += content

    def emit(self, incarnation, offset, content):
        output = ConsoleOutput(name="web", incarnation=incarnation, offset=offset, content=content)
        self.watchers["console.web"].put_nowait(Change("console.web", output, self.service))

    def become(self, state):
        self.watchers["domain.uuid-of-web"].put_nowait(Change("domain.web", domain(state=state)))

    async def until(self, kind, count=1):
        while len([one for one in self.asked if isinstance(one, kind)]) < count:
            self.called.clear()
            await self.called.wait()


class Keyboard:
    """Bytes that are typed one after the other; None ends them."""

    def __init__(self, *content):
        self.queue = asyncio.Queue()
        for one in content:
            self.queue.put_nowait(one)

    async def __aiter__(self):
        while (content := await self.queue.get()) is not None:
            yield content


class Attached:
    """A console that is being used."""

    def __init__(self, guest, keyboard=None, **wish):
        self.screen, self.notes, self.shown = bytearray(), [], asyncio.Event()
        self.keyboard = keyboard or Keyboard()
        console = Console(guest, Wish("web", **wish), self.show, self.notes.append)
        self.task = asyncio.ensure_future(console.run(aiter(self.keyboard)))

    def show(self, content):
        self.screen += content
        self.shown.set()

    async def until(self, content):
        while content not in self.screen:
            self.shown.clear()
            await self.shown.wait()

    async def end(self):
        self.keyboard.queue.put_nowait(ESCAPE)
        await self.task


async def test_first_comes_what_was_printed_before_then_what_is_printed_now():
    guest = Guest()
    it = Attached(guest)
    await guest.until(ConsoleAttach)
    guest.say(b"login: ")
    await it.until(b"login: ")
    await it.end()
    assert it.screen == b"boot\nlogin: "


async def test_what_is_typed_arrives_in_order_and_the_escape_does_not():
    guest = Guest()
    it = Attached(guest, Keyboard(b"root\n", b"up" + ESCAPE + b"never"))
    await it.task
    assert guest.heard == b"root\nup"


async def test_the_console_is_given_back_at_the_end():
    guest = Guest()
    it = Attached(guest)
    await guest.until(ConsoleAttach)
    await it.end()
    assert guest.asked[-1] == ConsoleDetach(name="web", token="t1")


async def test_a_long_paste_is_sent_in_pieces():
    guest = Guest()
    it = Attached(guest, Keyboard(b"x" * (2 * WRITE_BYTES_MAX + 1)))
    await guest.until(ConsoleWrite, 3)
    await it.end()
    assert len(guest.heard) == 2 * WRITE_BYTES_MAX + 1


async def test_a_watcher_writes_nothing():
    guest = Guest()
    it = Attached(guest, Keyboard(b"rm\n"), write=False)
    await guest.until(ConsoleAttach)
    await it.end()
    assert guest.heard == b""
    assert guest.asked == [ConsoleAttach(name="web", write=False)]


async def test_output_that_was_in_the_scrollback_already_is_not_shown_twice():
    guest = Guest(b"0123456789")
    it = Attached(guest)
    await guest.until(ConsoleAttach)
    guest.emit(1, 6, b"6789")
    guest.emit(1, 8, b"89ab")
    await it.until(b"ab")
    await it.end()
    assert it.screen == b"0123456789ab"


async def test_a_hole_is_filled_from_the_scrollback():
    guest = Guest(b"one ")
    it = Attached(guest)
    await guest.until(ConsoleAttach)
    guest.say(b"three", lost=b"two ")
    await it.until(b"three")
    await it.end()
    assert it.screen == b"one two three"
    assert it.notes == []


async def test_what_is_too_old_for_that_is_told():
    guest = Guest(b"one ")
    it = Attached(guest)
    await guest.until(ConsoleAttach)
    guest.emit(1, 1_000, b"far")
    await it.until(b"far")
    await it.end()
    assert it.notes == ["[996 bytes of output were lost]"]


async def test_after_a_reboot_the_output_begins_anew():
    guest = Guest(b"old")
    it = Attached(guest)
    await guest.until(ConsoleAttach)
    guest.emit(2, 0, b"new")
    guest.emit(1, 3, b"late")
    guest.emit(2, 3, b"er")
    await it.until(b"newer")
    await it.end()
    assert it.screen == b"oldnewer"


async def test_it_ends_when_the_domain_does():
    guest = Guest()
    it = Attached(guest)
    await guest.until(ConsoleAttach)
    guest.become(State.REBOOTING)
    guest.become(State.DEFINED)
    await it.task
    assert it.notes == ["[web is DEFINED]"]


async def test_a_text_is_waited_for_also_in_what_was_printed_before():
    it = Attached(Guest(b"debian login: "), until=b"login:")
    await it.task
    assert it.screen == b"debian login: "


async def test_after_something_was_typed_the_text_must_be_new():
    guest = Guest(b"load average: 1")
    it = Attached(guest, Keyboard(b"uptime\n", None), until=b"average: 2")
    await guest.until(ConsoleWrite)
    guest.say(b"load average: 2\n")
    await it.task
    assert it.screen.endswith(b"2\n")


async def test_a_text_that_comes_in_pieces_is_found():
    guest = Guest(b"")
    it = Attached(guest, until=b"login:")
    await guest.until(ConsoleAttach)
    for piece in (b"lo", b"gi", b"n:"):
        guest.say(piece)
    await it.task


async def test_a_text_that_does_not_come_is_a_timeout():
    guest = Guest()
    it = Attached(guest, Keyboard(None), until=b"login:", timeout_s=0.01)
    with pytest.raises(ManorError) as caught:
        await it.task
    assert caught.value.kind is Kind.TIMEOUT
    assert isinstance(guest.asked[-1], ConsoleDetach)


async def test_a_time_limit_alone_is_a_good_end():
    await Attached(Guest(), timeout_s=0.01).task


async def test_after_the_end_of_the_input_silence_ends_it():
    guest = Guest()
    it = Attached(guest, Keyboard(b"uptime\n", None), idle_s=0.01)
    await it.task
    assert guest.heard == b"uptime\n"


async def test_a_service_that_restarted_is_attached_to_again():
    guest = Guest()
    guest.answers[ConsoleWrite] = [ManorError(Kind.STALE, "unknown token")]
    it = Attached(guest, Keyboard(b"x"))
    await guest.until(ConsoleWrite, 2)
    await it.end()
    assert guest.heard == b"x"
    assert [one.token for one in guest.asked if isinstance(one, ConsoleWrite)] == ["t1", "t3"]


async def test_a_service_that_lost_count_is_followed_from_where_it_began_anew():
    guest = Guest(b"0123456789")
    it = Attached(guest)
    await guest.until(ConsoleAttach)
    guest.say(b"a")
    guest.service, guest.printed = "service/lifecycle@n1/2", b"hi "
    guest.say(b"again")
    await it.until(b"again")
    await it.end()
    assert it.screen == b"0123456789ahi again"


async def test_a_service_that_kept_count_is_followed_without_a_gap():
    guest = Guest(b"0123456789")
    it = Attached(guest)
    await guest.until(ConsoleAttach)
    guest.say(b"a")
    guest.service = "service/lifecycle@n1/2"
    guest.say(b"c", lost=b"b")
    await it.until(b"c")
    await it.end()
    assert it.screen == b"0123456789abc"


async def test_a_second_writer_is_refused_with_the_name_of_the_first():
    guest = Guest()
    guest.answers[ConsoleAttach] = [ManorError(Kind.CONFLICT, "operator/bob writes here")]
    with pytest.raises(ManorError, match="operator/bob"):
        await Attached(guest).task


PRINTED = bytes(range(256)) * 4


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 50)), max_size=30))
def test_whatever_arrives_shown_and_missing_bytes_are_everything_once(pieces):
    place, seen = Place(1, 0), 0
    for start, length in pieces:
        missing, fresh = place.take(1, start, PRINTED[start : start + length])
        if fresh:
            assert PRINTED[seen + missing : seen + missing + len(fresh)] == fresh
        seen += missing + len(fresh)
        assert place.offset >= seen - missing
        seen = place.offset
