"""Choosing, retrying, failing over, queueing: against real and misbehaving servers."""

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from prometheus_client import REGISTRY

from service.llm.config import BackendConfig, Prices, Script, Timeouts
from service.llm.errors import (
    BackendBusyError,
    BackendRefusedError,
    BackendUnavailableError,
    CannotContinueError,
    ContextOverflowError,
    FilteredError,
    KeyRefusedError,
    ModelNotFoundError,
    QueueTimeoutError,
    UnknownNameError,
)
from service.llm.overview import describe
from service.llm.pool import Backends
from service.llm.ports import ChatMessage, ChatRequest, Opened, Target
from service.policies import parse_policies
from tests.misbehaving.process import Misbehaving
from tests.misbehaving.script import REPLY
from tests.service.llm.conftest import QUICK
from tests.service.llm.reading import HELLO, fixed

MakePool = Callable[..., Backends]
DEAD = "http://127.0.0.1:9/v1"


@pytest.fixture
async def pool_of() -> AsyncIterator[MakePool]:
    made: list[Backends] = []

    def make(*configs: BackendConfig, **options: Any) -> Backends:
        made.append(Backends(configs, rng=random.Random(1), **{"learn": False, "patience": 3.0, **options}))
        return made[-1]

    yield make
    for pool in made:
        await pool.aclose()


@pytest.fixture
def odd(misbehaving: Misbehaving) -> Callable[..., BackendConfig]:
    def config(quirk: str, **fields: Any) -> BackendConfig:
        return BackendConfig(**{"name": quirk.replace("#", "-"), "url": misbehaving.url, "model": quirk, **fields})

    return config


async def text_of(opened: Opened) -> str:
    async with aclosing(opened.deltas) as deltas:
        return "".join([delta.text async for delta in deltas])


async def ask(
    pool: Backends, *, route: str = "general", request: ChatRequest = HELLO, **options: Any
) -> tuple[str, Target]:
    opened = await pool.open_stream(fixed(request), route=route, **options)
    return await text_of(opened), opened.target


async def test_the_first_backend_of_the_route_answers(pool_of: MakePool, odd: Callable[..., BackendConfig]) -> None:
    text, target = await ask(pool_of(odd("normal", name="a"), odd("fast", name="b")))
    assert (text, target.backend, target.model) == (REPLY, "a", "normal")


@pytest.mark.parametrize(
    "quirk", ["500", "502-html", "529", "model-not-found", "key-refused", "died-before-first-token"]
)
async def test_another_backend_answers_when_the_first_fails_before_its_first_token(
    quirk: str, pool_of: MakePool, odd: Callable[..., BackendConfig]
) -> None:
    text, target = await ask(pool_of(odd(quirk, name="bad"), odd("normal", name="good")))
    assert (text, target.backend) == (REPLY, "good")


async def test_failing_over_never_leaves_the_route(pool_of: MakePool, odd: Callable[..., BackendConfig]) -> None:
    pool = pool_of(
        odd("500", name="bad", routes=("mature",)), odd("normal", name="good", routes=("general",)), patience=0.1
    )
    with pytest.raises(BackendUnavailableError):
        await ask(pool, route="mature")
    with pytest.raises(BackendRefusedError):
        await ask(pool, route="unheard-of")
    with pytest.raises(ModelNotFoundError):
        await ask(pool, route="mature", name="good")
    assert (await ask(pool))[1].backend == "good"


ROUTES = """
[routes.general]
[routes.quiet]
backends = ["good", "bad"]
[routes.strict]
backends = ["good"]
"""


async def test_a_routes_policy_narrows_its_backends_and_failing_over_stays_inside(
    pool_of: MakePool, odd: Callable[..., BackendConfig]
) -> None:
    policies = parse_policies(ROUTES)
    bad, good = odd("500", name="bad"), odd("normal", name="good", routes=("general", "strict"))
    other = odd("fast", name="other")
    pool = pool_of(bad, good, other, policies=policies, patience=0.1)
    assert [[provider.name for provider in pool.serving(route)] for route in ("general", "quiet", "strict")] == [
        ["bad", "good", "other"],
        ["bad"],  # `good` names its routes itself, and this is none of them
        ["good"],
    ]
    assert pool.serving("unheard-of") == []
    assert (await ask(pool, route="strict"))[1].backend == "good"
    with pytest.raises(BackendUnavailableError):
        await ask(pool, route="quiet")  # another backend would answer, but not on this route
    with pytest.raises(UnknownNameError):
        await ask(pool, route="strict", name="other")
    assert describe(pool)[1]["routes"] == ["general", "strict"]
    assert pool.unknown_backends() == []
    assert pool_of(bad, policies=policies).unknown_backends() == ["good"]


@pytest.mark.parametrize("quirk", ["429-once#p", "429-once-silent#p", "503-once#p"])
async def test_a_busy_server_is_asked_again(quirk: str, pool_of: MakePool, odd: Callable[..., BackendConfig]) -> None:
    text, _ = await ask(pool_of(odd(quirk)))
    assert text == REPLY


async def test_a_server_that_asks_to_wait_longer_than_a_turn_may_is_told_to_the_user(
    pool_of: MakePool, odd: Callable[..., BackendConfig], misbehaving: Misbehaving
) -> None:
    with pytest.raises(BackendBusyError) as raised:
        await ask(pool_of(odd("429-seconds")))
    assert raised.value.retry_after == pytest.approx(7, abs=1)
    assert misbehaving.state()["counts"]["429-seconds"] == 1


async def test_a_key_that_is_refused_gives_way_to_the_next(
    pool_of: MakePool, odd: Callable[..., BackendConfig], misbehaving: Misbehaving
) -> None:
    pool = pool_of(odd("key-bad-refused", api_keys=("bad", "good")))
    for _ in range(4):
        assert (await ask(pool))[0] == REPLY
    used = [request["authorization"] for request in misbehaving.state()["requests"]]
    assert used.count("Bearer bad") <= 1
    assert used.count("Bearer good") == 4


async def test_keys_take_turns(pool_of: MakePool, odd: Callable[..., BackendConfig], misbehaving: Misbehaving) -> None:
    pool = pool_of(odd("fast", api_keys=("one", "two", "three")))
    for _ in range(6):
        await ask(pool)
    used = [request["authorization"] for request in misbehaving.state()["requests"]]
    assert {used.count(f"Bearer {key}") for key in ("one", "two", "three")} == {2}


async def test_all_keys_refused_is_told_each_time(pool_of: MakePool, odd: Callable[..., BackendConfig]) -> None:
    pool = pool_of(odd("key-refused", api_keys=("one-secret-key", "two")))
    for _ in range(2):  # the second time they rest, which is no busy server
        with pytest.raises(KeyRefusedError):
            await ask(pool)
    seen = describe(pool)[0]
    assert seen["state"] == "keys_refused"
    assert [(key["state"], key["calls"]) for key in seen["keys"]] == [("refused", 1), ("refused", 1)]
    assert sorted(key["ends_with"] for key in seen["keys"]) == ["", "-key"]


def exported_circuit(backend: str) -> float | None:
    return REGISTRY.get_sample_value("rapport_backend_circuit_open", {"backend": backend})


@pytest.mark.parametrize("quirk", ["moderated", "prompt-filtered"])
async def test_one_users_words_that_a_provider_refuses_rest_no_key(
    quirk: str, pool_of: MakePool, odd: Callable[..., BackendConfig]
) -> None:
    pool = pool_of(odd(quirk, name="strict", api_keys=("a-long-secret-key",)))
    with pytest.raises(FilteredError) as raised:
        await ask(pool)
    assert "put it differently" in raised.value.told
    seen = describe(pool)[0]
    assert (seen["state"], seen["keys"][0]["state"]) == ("ready", "ready"), "nobody else would be answered"
    lenient = pool_of(odd(quirk, name="strict"), odd("normal", name="lenient"))
    assert (await ask(lenient))[1].backend == "lenient"


async def test_the_circuit_opens_and_closes_again(
    pool_of: MakePool, odd: Callable[..., BackendConfig], misbehaving: Misbehaving
) -> None:
    now = [0.0]
    pool = pool_of(odd("normal"), clock=lambda: now[0], patience=0.0)
    misbehaving.override("500")
    for _ in range(3):
        with pytest.raises(BackendUnavailableError):
            await ask(pool)
    asked = misbehaving.state()["counts"]["normal"]
    with pytest.raises(BackendBusyError):
        await ask(pool)
    assert misbehaving.state()["counts"]["normal"] == asked
    assert describe(pool)[0]["state"] == "resting"
    assert exported_circuit("normal") == 1.0
    misbehaving.override("")
    now[0] += 10
    assert exported_circuit("normal") == 0.0  # its rest is over, though nobody has asked it since
    assert (await ask(pool))[0] == REPLY
    assert describe(pool)[0]["state"] == "ready"
    assert exported_circuit("normal") == 0.0
    pool.reload([odd("fast")])
    assert exported_circuit("normal") is None
    assert exported_circuit("fast") == 0.0


async def test_when_all_are_down_the_service_is_busy(pool_of: MakePool, odd: Callable[..., BackendConfig]) -> None:
    pool = pool_of(odd("503", name="a"), BackendConfig(name="b", url=DEAD, model="m"), patience=0.5)
    with pytest.raises(BackendUnavailableError) as raised:
        await ask(pool)
    assert raised.value.retryable


def shrinking(asked: list[int]) -> Callable[[Target], ChatRequest]:
    def build(target: Target) -> ChatRequest:
        asked.append(target.prompt_tokens)
        return HELLO

    return build


async def test_an_overflow_leads_to_one_smaller_prompt(pool_of: MakePool, odd: Callable[..., BackendConfig]) -> None:
    asked: list[int] = []
    pool = pool_of(odd("overflow-once#a", context_length=32_768))
    opened = await pool.open_stream(shrinking(asked), route="general")
    assert await text_of(opened) == REPLY
    assert len(asked) == 2
    assert asked[0] > 30_000
    assert asked[1] < 4096
    again = await pool.open_stream(shrinking(asked), route="general")
    await again.deltas.aclose()
    assert asked[2] < 4096


async def test_an_overflow_that_stays_is_told(pool_of: MakePool, odd: Callable[..., BackendConfig]) -> None:
    asked: list[int] = []
    with pytest.raises(ContextOverflowError):
        await pool_of(odd("overflow-llamacpp")).open_stream(shrinking(asked), route="general")
    assert len(asked) == 2


async def test_a_reply_lost_in_thought_gets_more_room_once(
    pool_of: MakePool, odd: Callable[..., BackendConfig], misbehaving: Misbehaving
) -> None:
    text, _ = await ask(pool_of(odd("thinks-too-long")))
    assert text == REPLY
    assert [request["body"]["max_tokens"] for request in misbehaving.state()["requests"]] == [200, 800]


async def test_permits_are_given_in_order_and_places_are_told(
    pool_of: MakePool, odd: Callable[..., BackendConfig], misbehaving: Misbehaving
) -> None:
    pool = pool_of(odd("normal", max_concurrency=2))
    places: dict[int, list[int]] = {number: [] for number in range(6)}
    order: list[int] = []

    async def one(number: int) -> None:
        opened = await pool.open_stream(fixed(HELLO), route="general", on_position=places[number].append)
        order.append(number)
        await text_of(opened)

    await asyncio.gather(*(one(number) for number in range(6)))
    assert sorted(order[:2]) == [0, 1]
    # two run at once, so that neighbours may have their first token in either order
    assert all(abs(place - number) <= 1 for place, number in enumerate(order))
    assert places[0] == places[1] == []
    assert places[5][0] == 4
    assert places[5] == sorted(places[5], reverse=True)
    assert misbehaving.state()["most_at_once"]["normal"] == 2


async def test_a_full_queue_moves_on_to_the_next_backend(pool_of: MakePool, odd: Callable[..., BackendConfig]) -> None:
    pool = pool_of(odd("slow", name="a", max_concurrency=1, queue_patience=0.05), odd("fast", name="b"))
    first = await pool.open_stream(fixed(HELLO), route="general")
    assert (await ask(pool))[1].backend == "b"
    await first.deltas.aclose()
    assert (await ask(pool))[1].backend == "a"


async def test_a_queue_is_waited_in_once_however_many_keys_there_are(
    pool_of: MakePool, odd: Callable[..., BackendConfig]
) -> None:
    pool = pool_of(
        odd("slow", max_concurrency=1, api_keys=("one", "two", "three"), timeouts=Timeouts(first_token=0.5)),
        patience=0.0,
    )
    (provider,) = pool.providers
    await provider.permits.acquire()
    places: list[int] = []
    with pytest.raises(QueueTimeoutError):
        await pool.open_stream(fixed(HELLO), route="general", on_position=places.append)
    assert places == [1], "it left the queue and came back to its end"
    assert [key.used for key in provider.keys] == [0, 0, 0]
    assert not any(key.circuit.failures for key in provider.keys)
    provider.permits.release()


async def test_a_permit_comes_back_however_a_reply_ends(pool_of: MakePool, odd: Callable[..., BackendConfig]) -> None:
    pool = pool_of(odd("slow", max_concurrency=1))
    (provider,) = pool.providers

    opened = await pool.open_stream(fixed(HELLO), route="general")
    await opened.deltas.aclose()
    assert provider.permits.in_use == 0

    opened = await pool.open_stream(fixed(HELLO), route="general")
    del opened
    gc.collect()
    await asyncio.sleep(0.05)
    assert provider.permits.in_use == 0

    task = asyncio.create_task(ask(pool))
    await asyncio.sleep(0.03)
    waiting = asyncio.create_task(ask(pool))
    await asyncio.sleep(0.03)
    waiting.cancel()
    task.cancel()
    await asyncio.gather(task, waiting, return_exceptions=True)
    assert (provider.permits.in_use, provider.permits.waiting) == (0, 0)


async def test_one_request_alone_wakes_a_model(
    pool_of: MakePool, odd: Callable[..., BackendConfig], misbehaving: Misbehaving
) -> None:
    """lmstudio#1751."""
    pool = pool_of(odd("jit-copies"))
    await asyncio.gather(*(ask(pool) for _ in range(6)))
    assert misbehaving.state()["copies"]["jit-copies"] == 1


async def test_the_tier_is_a_preference_within_the_route(pool_of: MakePool, odd: Callable[..., BackendConfig]) -> None:
    pool = pool_of(odd("normal", name="big"), odd("fast", name="little", tier="small"))
    assert (await ask(pool, tier="small"))[1].backend == "little"
    assert (await ask(pool))[1].backend == "big"
    assert (await ask(pool, name="little"))[1].backend == "little"
    assert (await ask(pool, name="fast"))[1].backend == "little"


async def test_a_spent_budget_passes_a_backend_over(pool_of: MakePool, odd: Callable[..., BackendConfig]) -> None:
    prices = Prices(prompt=0, completion=1_000_000, daily_budget=30.0)
    pool = pool_of(odd("normal", name="dear", prices=prices), odd("fast", name="free"))
    answered = [(await ask(pool))[1].backend for _ in range(4)]
    assert answered == ["dear", "dear", "free", "free"]
    assert describe(pool)[0]["budget"]["spent_today"] == 40.0


async def test_a_begun_reply_goes_only_where_it_can_be_continued(
    pool_of: MakePool, odd: Callable[..., BackendConfig]
) -> None:
    begun = ChatRequest(messages=(ChatMessage("user", "Hello"),), prefix="word1 word2 word3 ")
    no = odd("normal", name="no", continues=False)
    yes = odd("normal", name="yes", continues=True)
    pool = pool_of(no, yes)
    assert not pool.can_continue("general")
    assert pool.can_continue("general", "yes")
    text, target = await ask(pool, request=begun)
    assert begun.prefix + text == REPLY
    assert target.backend == "yes"
    with pytest.raises(CannotContinueError):
        await ask(pool_of(no), request=begun)


async def test_a_change_of_configuration_leaves_running_replies_alone(
    pool_of: MakePool, odd: Callable[..., BackendConfig]
) -> None:
    first = odd("slow", name="a")
    pool = pool_of(first)
    opened = await pool.open_stream(fixed(HELLO), route="general")
    pool.reload([odd("fast", name="b")])
    assert (await ask(pool))[1].backend == "b"
    assert await text_of(opened) == REPLY
    pool.reload([odd("fast", name="b"), first])
    assert [provider.name for provider in pool.providers] == ["b", "a"]


async def test_what_is_learnt_decides_how_a_server_is_asked(
    pool_of: MakePool, odd: Callable[..., BackendConfig], tmp_path: Any
) -> None:
    configs = [odd("normal", name="a"), odd("prefill-refused", name="b"), odd("doubled-prefill", name="c")]
    pool = pool_of(*configs, learn=True, home=tmp_path)
    for _ in range(100):
        if all(provider.capabilities.probed_at for provider in pool.providers):
            break
        await asyncio.sleep(0.05)
    assert [provider.capabilities.prefill for provider in pool.providers] == ["continues", "refuses", "doubles"]
    assert [provider.continues() for provider in pool.providers] == [True, False, True]
    assert pool.providers[0].context() == 4096
    begun = ChatRequest(messages=(ChatMessage("user", "Hello"),), prefix="word1 word2 word3 ")
    text, _ = await ask(pool, request=begun, name="c")
    assert (begun.prefix + text.lstrip()) == REPLY
    again = pool_of(*configs, learn=True, home=tmp_path)
    assert [provider.continues() for provider in again.providers] == [True, False, True]


async def test_scripted_and_real_answer_alike(pool_of: MakePool) -> None:
    scripted = BackendConfig(name="s", kind="scripted", script=Script(style="numbered", words=5))
    text, target = await ask(pool_of(scripted))
    assert (text, target.scripted, target.model) == ("1 2 3 4 5", True, "scripted")


async def test_a_stuck_server_is_given_up_for_the_next(pool_of: MakePool, odd: Callable[..., BackendConfig]) -> None:
    pool = pool_of(odd("slow-first-byte", name="stuck", timeouts=QUICK), odd("normal", name="good"))
    assert (await ask(pool))[1].backend == "good"


async def test_complete_returns_the_whole_answer(pool_of: MakePool, odd: Callable[..., BackendConfig]) -> None:
    done = await pool_of(odd("normal", timeouts=Timeouts())).complete(fixed(HELLO), route="general")
    assert (done.text, done.finish_reason) == (REPLY, "stop")
    assert done.usage is not None
