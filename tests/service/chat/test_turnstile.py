"""Turns of a full process wait in the order in which they came."""

import asyncio

from prometheus_client import REGISTRY

from service.chat.turnstile import Turnstile


def waiting(place: str) -> float:
    return REGISTRY.get_sample_value("rapport_turns_waiting", {"place": place}) or 0.0


async def test_so_many_at_once_and_the_others_in_order() -> None:
    turnstile = Turnstile("test", 3)
    inside, most, order = 0, 0, list[int]()

    async def pass_through(number: int) -> None:
        nonlocal inside, most
        async with turnstile:
            order.append(number)
            inside += 1
            most = max(most, inside)
            for _ in range(3):
                await asyncio.sleep(0)
            inside -= 1

    tasks = [asyncio.create_task(pass_through(number)) for number in range(30)]
    await asyncio.sleep(0)
    assert waiting("test") == 27
    await asyncio.gather(*tasks)
    assert (most, order, waiting("test")) == (3, list(range(30)), 0)


async def test_who_leaves_takes_nobodys_place() -> None:
    turnstile = Turnstile("test", 1)
    entered = asyncio.Event()

    async def stay() -> None:
        async with turnstile:
            entered.set()
            await asyncio.sleep(60)

    async def enter() -> None:
        async with turnstile:
            pass

    staying, leaving = asyncio.create_task(stay()), asyncio.create_task(enter())
    await entered.wait()
    behind = asyncio.create_task(enter())
    await asyncio.sleep(0)
    leaving.cancel()
    staying.cancel()
    async with asyncio.timeout(30):
        await behind
    await asyncio.gather(staying, leaving, return_exceptions=True)
    assert waiting("test") == 0
