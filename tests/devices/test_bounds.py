"""Somebody else's coroutine within a time."""

import asyncio
import contextlib

import pytest

from manor_bus.wire.errors import Kind, ManorError, denied_state
from manor_devices.bounds import GRACE_S, bounded
from tests.testkit import virtual


async def after(seconds, result=None):
    await asyncio.sleep(seconds)
    return result


def test_a_result_in_time_is_returned():
    assert virtual.run(bounded("it", after(5, "done"), 10)) == "done"


def test_a_late_one_is_cancelled_and_told_as_a_timeout():
    with pytest.raises(ManorError, match="it did not answer within 10 s") as caught:
        virtual.run(bounded("it", after(11), 10))
    assert caught.value.kind is Kind.TIMEOUT


def test_one_that_does_not_let_itself_be_cancelled_is_left_behind():
    async def deaf(end):
        while not end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await end.wait()

    async def main():
        end, begun = asyncio.Event(), asyncio.get_running_loop().time()
        with pytest.raises(ManorError, match="did not answer"):
            await bounded("it", deaf(end), 10)
        assert asyncio.get_running_loop().time() - begun == pytest.approx(10 + GRACE_S)
        end.set()

    virtual.run(main())


def test_a_clean_up_after_the_cancellation_is_waited_for():
    cleaned = []

    async def careful():
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)
            cleaned.append(True)

    async def main():
        task = asyncio.ensure_future(bounded("it", careful(), 100))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait({task})
        assert cleaned == [True]
        assert task.cancelled()

    virtual.run(main())


async def raising(error):
    raise error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (denied_state("no"), Kind.DENIED_STATE),
        (OSError(28, "No space left on device"), Kind.DENIED_STATE),
        (KeyError("x"), Kind.INTERNAL),
    ],
)
def test_what_goes_wrong_arrives_as_one_kind_of_error(error, kind):
    with pytest.raises(ManorError) as caught:
        virtual.run(bounded("it", raising(error), 10))
    assert caught.value.kind is kind
