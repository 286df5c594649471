"""The counters, in memory and in Redis: one suite holds both."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.limits.config import LimitsConfig, Window, parse_windows
from service.limits.errors import LimitsConfigError
from service.limits.windows import Count, MemoryWindows, RedisWindows
from sessions.config import RedisConfig
from sessions.link import RedisLink

Hit = Callable[[str, Sequence[Window]], Awaitable[tuple[bool, list[Count]]]]


@pytest.fixture(params=["memory", "redis"])
async def hit(request: pytest.FixtureRequest) -> AsyncIterator[Hit]:
    if request.param == "memory":
        memory = MemoryWindows()

        async def locally(holder: str, windows: Sequence[Window]) -> tuple[bool, list[Count]]:
            return memory.hit(holder, windows)

        yield locally
        return
    link = RedisLink(RedisConfig(request.getfixturevalue("redis_url"), timeout=20))
    shared = RedisWindows(link)

    async def remotely(holder: str, windows: Sequence[Window]) -> tuple[bool, list[Count]]:
        return await shared.hit([(holder, windows)])

    yield remotely
    await link.aclose()


async def accepted(hit: Hit, windows: Sequence[Window], times: int, holder: str | None = None) -> int:
    holder = holder or uuid4().hex
    return sum([(await hit(holder, windows))[0] for _ in range(times)])


async def test_a_burst_gets_what_is_allowed_and_no_more(hit: Hit) -> None:
    assert await accepted(hit, [Window("turn", 60, 86_400)], 100) == 60


async def test_what_remains_is_told(hit: Hit) -> None:
    window = [Window("turn", 3, 86_400)]
    told = [(await hit("a", window))[1][0].remaining for _ in range(4)]
    assert told == [2, 1, 0, 0]


async def test_holders_and_names_count_apart_and_kinds_of_one_name_together(hit: Hit) -> None:
    turn, day = Window("turn", 2, 86_400), Window("day", 3, 86_400)
    assert await accepted(hit, [turn], 5, "a") == 2
    assert await accepted(hit, [turn], 5, "b") == 2
    assert await accepted(hit, [Window("other", 2, 86_400)], 5, "a") == 2
    assert await accepted(hit, [Window("search", 9, 86_400), day], 2, "c") == 2
    assert await accepted(hit, [Window("import", 9, 86_400), day], 5, "c") == 1


async def test_a_refused_request_costs_nothing_elsewhere(hit: Hit) -> None:
    minute, day = Window("turn", 1, 86_400), Window("day", 5, 86_400)
    assert await accepted(hit, [minute, day], 50, "a") == 1
    _, (count,) = await hit("a", [day])
    assert count.remaining == 3


async def test_the_wait_that_is_told_is_enough_and_not_much_too_long(hit: Hit) -> None:
    window = [Window("burst", 4, 1)]
    for _ in range(3):
        while (await hit("a", window))[0]:
            pass
        wait = (await hit("a", window))[1][0].wait
        assert 0 < wait <= 2
        await asyncio.sleep(max(0, wait - 0.12))
        early, _ = await hit("a", window)
        await asyncio.sleep(0.17)
        late, _ = await hit("a", window)
        assert late or early  # a bucket's border may lie in between and let the early one in


async def test_over_time_the_rate_holds(hit: Hit) -> None:
    """Hammered for three periods, no sliding period sees more than the counter's known error allows."""
    window, stamps = [Window("burst", 20, 1)], []
    started = time.monotonic()
    while time.monotonic() - started < 3:
        if (await hit("a", window))[0]:
            stamps.append(time.monotonic())
        await asyncio.sleep(0.001)
    worst = max(sum(start <= stamp < start + 1 for stamp in stamps) for start in stamps)
    # a burst at the end of one bucket counts as if it had been spread over it
    assert worst <= 40
    assert 50 <= len(stamps) <= 82


@given(
    gaps=st.lists(st.floats(0, 40), min_size=1, max_size=60),
    amount=st.integers(1, 8),
    seconds=st.integers(1, 30),
)
@settings(deadline=None)
def test_the_counter_never_lets_twice_the_amount_through(gaps: list[float], amount: int, seconds: int) -> None:
    now, stamps = 1_700_000_000.0, []
    windows = MemoryWindows(lambda: now)
    for gap in gaps:
        now += gap
        allowed, (count,) = windows.hit("a", [Window("w", amount, seconds)])
        assert allowed == (count.wait == 0)
        if allowed:
            stamps.append(now)
        else:
            saved, now = now, now + count.wait + 1e-6
            assert MemoryWindows.hit(_copy(windows), "a", [Window("w", amount, seconds)])[0]
            now = saved
    for start in stamps:
        assert sum(start <= stamp < start + seconds for stamp in stamps) < 2 * amount + 1


def _copy(windows: MemoryWindows) -> MemoryWindows:
    twin = MemoryWindows(windows._clock)
    twin._counts = dict(windows._counts)
    return twin


async def test_memory_forgets_what_can_matter_no_more() -> None:
    now = 0.0
    windows = MemoryWindows(lambda: now)
    for number in range(1000):
        windows.hit(f"user-{number}", [Window("turn", 60, 60)])
    now = 200.0
    windows.hit("late", [Window("turn", 60, 60)])
    assert len(windows._counts) == 1


async def test_a_redis_that_forgot_the_script_is_told_it_again(redis_url: str) -> None:
    link = RedisLink(RedisConfig(redis_url, timeout=20))
    shared = RedisWindows(link)
    window = [Window("turn", 10, 86_400)]
    await shared.hit([("a", window)])
    await link.client.script_flush()
    _, (count,) = await shared.hit([("a", window)])
    assert count.remaining == 8
    await link.client.flushdb()
    assert (await shared.hit([("a", window), ("b", window)]))[0]
    await link.client.script_flush()
    assert (await shared.hit([("a", window), ("b", window)]))[0]
    keys = sorted(await link.client.keys("*"))
    assert keys == [b"limit:{a}:turn", b"limit:{b}:turn"]
    lives = [await link.client.ttl(key) for key in keys]
    assert all(0 < life <= 2 * 86_400 for life in lives)
    await link.aclose()


def test_limits_are_written_as_operators_write_them() -> None:
    assert parse_windows("import", "30/hour; 5/minute") == (Window("import:3600", 30, 3600), Window("import:60", 5, 60))
    config = LimitsConfig(overrides="import=10/hour, search=30/minute; 500/day,mint=2/minute")
    assert [window.amount for window in config.windows["search"]] == [30, 500]
    assert [(window.amount, window.by) for window in config.windows["mint"]] == [(2, "address"), (100, "address")]
    assert config.windows["turn"] == LimitsConfig().windows["turn"]
    for wrong in ("imports=10/hour", "import", "import=ten/hour", "import=10", "import=0/hour", "=10/hour"):
        with pytest.raises(LimitsConfigError, match="RATE_LIMITS"):
            LimitsConfig(overrides=wrong)


def test_what_is_not_named_stays_as_it_was() -> None:
    def found(overrides: str, kind: str) -> list[tuple[int, int, str, str]]:
        windows = LimitsConfig(overrides=overrides).windows[kind]
        return [(window.amount, window.seconds, window.by, window.who) for window in windows]

    assert found("refused=60/minute", "refused") == [(60, 60, "address", "anybody")]
    assert found("age=3/hour", "age") == [(3, 3600, "user", "anybody"), (120, 3600, "address", "anybody")]
    assert found("turn=5/minute", "turn") == [(5, 60, "user", "anybody"), *found("", "turn")[1:]]
    assert len(found("", "turn")) == 4
    beside = found("turn=200/day, turn=7/minute", "turn")
    assert beside == [(7, 60, "user", "anybody"), *found("", "turn")[1:], (200, 86_400, "user", "anybody")]
    names = [window.name for window in LimitsConfig(overrides="turn=200/day").windows["turn"]]
    assert names.count("day") == 2  # one of the anonymous, one of the others: nobody is counted twice under one name
    assert names[-1] == "turn:86400"


@pytest.mark.parametrize("kind", sorted(LimitsConfig().windows))
def test_every_kind_counts_for_the_same_holder_after_a_change(kind: str) -> None:
    windows = LimitsConfig(overrides=f"{kind}=7/minute; 8/hour; 9/day").windows[kind]
    before = LimitsConfig().windows[kind]
    assert {(window.by, window.who) for window in windows} == {(window.by, window.who) for window in before}
    first = before[0]
    changed = {window.seconds: window.amount for window in windows if (window.by, window.who) == (first.by, first.who)}
    assert changed == {60: 7, 3600: 8, 86_400: 9}
