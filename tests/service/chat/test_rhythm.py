"""How long tokens gather: by what the process has to do, and in step where it is much."""

import asyncio
import math
import time

import pytest

from service.chat.rhythm import LAGS, MANY, MOST_SECONDS, SMOOTH_SECONDS, TOGETHER_SECONDS, Rhythm


def test_a_process_with_time_keeps_to_the_setting() -> None:
    assert Rhythm(range(1), 0.05).pause() == 0.05


def test_many_replies_gather_longer_but_flow_still() -> None:
    assert Rhythm(range(60), 0.05).pause() == pytest.approx(0.06)
    assert Rhythm(range(4000), 0.05).pause() == SMOOTH_SECONDS


def test_a_late_event_loop_gathers_longer_up_to_a_bound() -> None:
    rhythm = Rhythm(range(1), 0.05)
    rhythm.lag = 0.03
    assert rhythm.pause() == pytest.approx(0.03 * LAGS)
    rhythm.lag = 10.0
    assert rhythm.pause() == MOST_SECONDS


def test_a_setting_above_the_bound_is_kept() -> None:
    assert Rhythm(range(1), 1.0).pause() == 1.0


async def test_many_go_on_at_the_same_moments_and_few_wait_for_nobody() -> None:
    assert Rhythm(range(MANY - 1), 0.05).until_together() == 0.05
    rhythm = Rhythm(range(MANY), 0.05)
    clock = asyncio.get_running_loop().time
    for _ in range(20):
        before = clock()
        wait = rhythm.until_together()
        after = clock()
        assert wait > 0.05 - 1e-6
        earliest, latest = (at + wait for at in (before - 1e-6, after + 1e-6))
        assert math.floor(latest / TOGETHER_SECONDS) > math.floor(earliest / TOGETHER_SECONDS)
        await asyncio.sleep(0.001)


async def test_the_lag_is_felt_and_forgotten() -> None:
    rhythm = Rhythm(range(1), 0.05)
    beating = asyncio.create_task(rhythm.run())
    try:
        most = 0.0
        for _ in range(10):
            await asyncio.sleep(0.01)
            time.sleep(0.15)  # noqa: ASYNC251  what a busy event loop does
            most = max(most, rhythm.lag)
        assert most > 0.02
        async with asyncio.timeout(60):
            while rhythm.lag > most / 2:  # noqa: ASYNC110  nothing tells when
                await asyncio.sleep(0.05)
    finally:
        beating.cancel()
