"""What wakes the writer of a reply."""

import asyncio

import pytest

from service.chat.wake import Wake


async def test_what_was_set_before_is_not_waited_for() -> None:
    wake = Wake()
    wake.set()
    await asyncio.wait_for(wake.wait(), 30)
    assert wake.waited().done()
    wake.clear()
    assert not wake.waited().done()


async def test_who_waits_is_woken_and_waits_anew_when_it_was_cleared() -> None:
    wake = Wake()
    for _ in range(3):
        waiting = asyncio.create_task(wake.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        wake.set()
        wake.set()
        await asyncio.wait_for(waiting, 30)
        wake.clear()


async def test_who_gives_up_takes_nothing_from_the_next() -> None:
    wake = Wake()
    leaving = asyncio.create_task(wake.wait())
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    waiting = asyncio.create_task(wake.wait())
    await asyncio.sleep(0)
    wake.set()
    await asyncio.wait_for(waiting, 30)


async def test_one_future_serves_until_it_is_set() -> None:
    wake = Wake()
    first = wake.waited()
    assert wake.waited() is first
    wake.set()
    assert first.done()
