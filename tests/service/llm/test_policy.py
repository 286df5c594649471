"""Budgets, tiers, the cache, changes of configuration, counting tokens."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest

from memory.errors import StoreUnavailableError
from memory.postgres import Database, PoolConfig
from service.llm.breaker import FIRST_REST, LONGEST_REST, CircuitBreaker
from service.llm.cache import AnswerCache, key_of
from service.llm.capabilities import LIFETIME, Capabilities, CapabilityStore
from service.llm.config import BackendConfig, Script, parse_backends
from service.llm.errors import BudgetSpentError
from service.llm.overview import router_choices
from service.llm.pool import Backends
from service.llm.ports import ChatMessage, ChatRequest
from service.llm.providers import UNKNOWN_CONTEXT
from service.llm.router import choose
from service.llm.spend import Budget, DailyLedger, PostgresSpend
from service.llm.tokens import EstimatedTokens, ExactTokens, TokenCounter, estimate, prompt_tokens
from service.llm.watch import apply, follow_configuration
from sessions.answers import RedisAnswers
from sessions.config import RedisConfig
from sessions.link import RedisLink
from tests.misbehaving.process import Misbehaving
from tests.service.llm.reading import fixed

ASKED = ChatRequest(messages=(ChatMessage("user", "Hello"),), temperature=0)


def scripted(name: str, **fields: object) -> BackendConfig:
    return BackendConfig.model_validate(
        {"name": name, "kind": "scripted", "script": Script(style="numbered", words=3), **fields}
    )


@pytest.fixture
async def pool() -> AsyncIterator[Backends]:
    backends = Backends([scripted("big"), scripted("little", tier="small", small_talk=True)], rng=Random(1))
    yield backends
    await backends.aclose()


# --- budgets


class Store:
    """A database of the run, and its place for what was spent."""

    def __init__(self, url: str) -> None:
        self.database = Database(PoolConfig(url, size=2, overflow=2))

    def ledger(self, now: Callable[[], datetime]) -> DailyLedger:
        return DailyLedger(PostgresSpend(self.database), now)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    store = Store(database_url)
    yield store
    await store.database.close()


async def test_instances_share_what_was_spent(store: Store) -> None:
    now = [datetime(2026, 11, 22, 23, 59, 0, tzinfo=UTC)]
    one, other = store.ledger(lambda: now[0]), store.ledger(lambda: now[0])
    one.add("a", 2.0)
    other.add("a", 3.0)
    other.add("b", 1.0)
    for ledger in (one, other, one):
        await ledger.merge()
    assert one.spent("a") == other.spent("a") == 5.0
    assert one.spent("b") == 1.0
    late = store.ledger(lambda: now[0])
    assert late.spent("a") == 0
    await late.merge()
    assert late.spent("a") == 5.0
    assert Budget(late, "a", 5.0).is_exhausted
    assert not Budget(late, "a", None).is_exhausted
    assert late.until_midnight() == 60
    now[0] = datetime(2026, 11, 23, 0, 0, 1, tzinfo=UTC)
    await late.merge()
    assert late.spent("a") == 0


async def test_instances_that_spend_at_once_lose_nothing(store: Store) -> None:
    day = datetime(2026, 11, 24, tzinfo=UTC)
    ledgers = [store.ledger(lambda: day) for _ in range(4)]

    async def spend(ledger: DailyLedger) -> None:
        for _ in range(25):
            ledger.add("a", 1.0)
            ledger.add("b", 2.0)
            await ledger.merge()

    await asyncio.gather(*(spend(ledger) for ledger in ledgers))
    await ledgers[0].merge()
    assert (ledgers[0].spent("a"), ledgers[0].spent("b")) == (100.0, 200.0)


async def test_with_the_store_away_an_instance_counts_on_and_tells_it_later(database_url: str) -> None:
    class Away(PostgresSpend):
        gone = True

        async def add(self, day: date, spent: Mapping[str, float]) -> Mapping[str, float]:
            if self.gone:
                raise StoreUnavailableError("away")
            return await super().add(day, spent)

    database = Database(PoolConfig(database_url, size=1, overflow=1))
    store, now = Away(database), datetime(2026, 11, 25, tzinfo=UTC)
    ledger = DailyLedger(store, lambda: now)
    ledger.add("a", 1.0)
    await ledger.merge()
    assert ledger.spent("a") == 1.0
    store.gone = False
    await ledger.merge()
    assert ledger.spent("a") == 1.0
    fresh = DailyLedger(PostgresSpend(database), lambda: now)
    await fresh.merge()
    assert fresh.spent("a") == 1.0
    await database.close()


async def test_a_process_that_begins_after_the_budget_was_spent_asks_nobody(
    store: Store, misbehaving: Misbehaving
) -> None:
    prices = {"completion": 1_000_000, "daily_budget": 30.0}
    dear = BackendConfig.model_validate(
        {"name": f"dear-{uuid4().hex[:8]}", "url": misbehaving.url, "model": "normal", "prices": prices}
    )
    spend = PostgresSpend(store.database)
    for calls in (2, 0):  # 20.0 each; then another process
        pool = Backends([dear], spend=spend, learn=False, patience=0)
        for _ in range(calls):
            await pool.complete(fixed(ASKED), route="general")
        with pytest.raises(BudgetSpentError) as raised:
            await pool.complete(fixed(ASKED), route="general")
        assert raised.value.retry_after is not None
        await pool.aclose()
    assert misbehaving.state()["counts"]["normal"] == 2


# --- tiers


@pytest.mark.parametrize(
    ("message", "tier"),
    [
        ("hi!", "small"),
        ("good night", "small"),
        ("haha nice", "small"),
        ("Why is the sky blue?", "large"),
        ("explain monads", "large"),
        ("my dog died", "large"),
        ("I feel so alone", "large"),
        ("12 * 7", "large"),
        ("ciao, come stai oggi? è tutto bello", "large"),
        ("word " * 200, "large"),
    ],
)
def test_small_talk_goes_to_the_small_model_and_all_else_to_the_large(message: str, tier: str) -> None:
    assert choose(message).tier == tier


async def test_the_router_decides_the_tier_of_a_reply(pool: Backends) -> None:
    for message, backend in (("hi!", "little"), ("Why is that?", "big"), (None, "big")):
        opened = await pool.open_stream(fixed(ASKED), route="general", message=message)
        assert opened.target.backend == backend
        await opened.deltas.aclose()
    assert router_choices(pool) == [
        {"tier": "small", "reason": "small_talk", "count": 1},
        {"tier": "large", "reason": "demanding", "count": 1},
    ]


# --- the cache


async def test_only_calls_without_personal_content_are_cached(pool: Backends, misbehaving: Misbehaving) -> None:
    pool.reload([BackendConfig(name="b", url=misbehaving.url, model="normal", context_length=4096)])
    first, second = await asyncio.gather(
        *(pool.complete(fixed(ASKED), route="general", personal=False) for _ in range(2))
    )
    third = await pool.complete(fixed(ASKED), route="general", personal=False)
    assert first == second == third
    assert (pool.cache.hits, pool.cache.misses) == (2, 1)
    assert pool.cache.hit_rate == pytest.approx(2 / 3)
    await pool.complete(fixed(ASKED), route="general")
    await pool.complete(fixed(ASKED), route="mature", personal=False)
    assert pool.cache.misses == 2


async def test_what_is_kept_ages_and_gives_way_and_failures_are_not_kept() -> None:
    now = [0.0]
    cache: AnswerCache[int] = AnswerCache(entries=2, lifetime=10, clock=lambda: now[0])
    made: list[str] = []

    async def make(key: str) -> int:
        made.append(key)
        if key == "bad":
            raise ValueError
        return len(made)

    for key in ("a", "b", "a", "c", "a", "b"):
        await cache.get(key, lambda key=key: make(key))  # type: ignore[misc]
    assert made == ["a", "b", "c", "b"]
    now[0] = 11
    await cache.get("b", lambda: make("b"))
    assert made[-1] == "b"
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^$"):
            await cache.get("bad", lambda: make("bad"))
    assert made[-2:] == ["bad", "bad"]


class Decimal:
    def encode(self, answer: int) -> bytes:
        return str(answer).encode()

    def decode(self, data: bytes) -> int:
        return int(data)


async def test_an_answer_is_found_on_the_shelf_and_no_broken_one(redis_url: str) -> None:
    link = RedisLink(RedisConfig(redis_url, timeout=10.0))
    shelf = RedisAnswers(link)
    here, there = (AnswerCache[int](clock=lambda: 0.0, shelf=shelf) for _ in range(2))

    async def seven() -> int:
        return 7

    async def eight() -> int:
        return 8

    assert await here.get("aa", seven, Decimal()) == 7
    assert await there.get("aa", eight, Decimal()) == 7
    assert (there.hits, there.shared_hits, there.misses, len(there)) == (1, 1, 0, 0)
    assert await there.get("bb", eight) == 8  # nobody said how it is written
    assert (await shelf.get(b"\xaa"), await shelf.get(b"\xbb")) == (b"7", None)
    await shelf.put(b"\xaa", b"of another release")
    assert await there.get("aa", eight, Decimal()) == 8
    assert (await shelf.get(b"\xaa"), await shelf.get(b"\xbb")) == (b"8", None)
    assert not there._running
    await link.aclose()


def test_keys_differ_by_everything_that_can_change_an_answer() -> None:
    requests = [
        ASKED,
        ChatRequest(messages=(ChatMessage("system", "Hello"),), temperature=0),
        ChatRequest(messages=ASKED.messages, temperature=0.5),
        ChatRequest(messages=ASKED.messages, temperature=0, max_tokens=5),
        ChatRequest(messages=ASKED.messages, temperature=0, schema={"type": "object"}),
    ]
    keys = {
        key_of(request, backend=backend, route=route)
        for request in requests
        for backend in "ab"
        for route in ("x", "y")
    }
    assert len(keys) == len(requests) * 4


# --- changes of configuration


def written(path: Path, *names: str) -> None:
    path.write_text("\n".join(f'[[backends]]\nname = "{name}"\nkind = "scripted"' for name in names))


async def becomes(pool: Backends, names: Sequence[str]) -> None:
    async with asyncio.timeout(5):
        while [provider.name for provider in pool.providers] != list(names):  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.01)


async def test_a_changed_file_and_a_hangup_are_applied_while_running(pool: Backends, tmp_path: Path) -> None:
    path = tmp_path / "backends.toml"
    written(path, "one")
    task = asyncio.create_task(
        follow_configuration(pool.reload, lambda: parse_backends(str(path)), path=path, interval=0.02)
    )
    await asyncio.sleep(0.05)
    assert [provider.name for provider in pool.providers] == ["big", "little"]
    os.kill(os.getpid(), signal.SIGHUP)
    await becomes(pool, ["one"])
    written(path, "one", "two")
    await becomes(pool, ["one", "two"])
    path.write_text("[[backends]]\nname = ")
    await asyncio.sleep(0.1)
    assert [provider.name for provider in pool.providers] == ["one", "two"]
    written(path, "three")
    await becomes(pool, ["three"])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_configuration_that_can_not_be_read_is_not_applied(pool: Backends) -> None:
    assert not apply(pool.reload, lambda: parse_backends("[]"))
    assert apply(pool.reload, lambda: [scripted("new")])
    assert [provider.name for provider in pool.providers] == ["new"]


# --- the circuit


def test_a_circuit_rests_longer_each_time_and_lets_one_call_try() -> None:
    now = [0.0]
    circuit = CircuitBreaker(lambda: now[0], threshold=2)
    circuit.fail()
    assert not circuit.is_open
    circuit.fail()
    assert circuit.wait() == FIRST_REST
    now[0] += FIRST_REST
    assert not circuit.is_open
    circuit.attempt()
    assert circuit.is_open
    circuit.fail()
    assert circuit.wait() == FIRST_REST * 2
    for _ in range(10):
        now[0] += circuit.wait()
        circuit.attempt()
        circuit.fail()
    assert circuit.wait() == LONGEST_REST
    now[0] += LONGEST_REST
    circuit.attempt()
    circuit.succeed()
    circuit.attempt()
    assert not circuit.is_open


# --- tokens


@pytest.mark.parametrize(
    ("text", "smollm2", "qwen2"),
    [
        ("Honestly I think we should go to the beach this weekend, what do you say? I'm so tired of work.", 26, 24),
        ("Call me at +351 912 345 678 on 2026-11-22 at 10:30, room 4711, code 99-1234-5678.", 61, 61),
        ("Grüße aus München! Übermorgen fahre ich mit meiner Schwester nach Österreich, das wird großartig.", 39, 26),
        ("Привет! Как дела? Вчера я ходил в кино с друзьями, фильм был очень интересный.", 62, 26),
        ("你好,我昨天和朋友一起去看电影了,非常有意思。你今天过得怎么样?", 59, 19),
        ("안녕하세요, 어제 친구들과 영화를 보러 갔어요. 정말 재미있었어요.", 83, 25),
        ("नमस्ते! आप कैसे हैं? कल मैं अपने दोस्तों के साथ फिल्म देखने गया था।", 73, 64),
        ("def f(x: int) -> list[str]:\n    return [str(i) for i in range(x) if i % 2 == 0]  # even {ok}", 41, 37),
    ],
)
def test_estimates_are_on_the_safe_side_of_real_tokenizers(text: str, smollm2: int, qwen2: int) -> None:
    """The counts are llama.cpp's, of a vocabulary of 49,152 entries and one of 151,936."""
    assert estimate(text) >= 0.95 * qwen2
    assert 0.55 * smollm2 <= estimate(text) <= 1.4 * smollm2


def test_the_correction_learns_from_what_servers_count_and_forgets_slowly() -> None:
    counter = EstimatedTokens()
    text = "Some ordinary words of a conversation. " * 20
    before = counter.count(text)
    for _ in range(12):
        counter.learn(counter.count(text), int(before * 1.4))
    assert before * 1.4 <= counter.count(text) <= before * 1.6
    counter.learn(1000, 10)
    assert counter.count(text) >= before * 1.4
    for _ in range(200):
        counter.learn(counter.count(text), before // 2)
    assert counter.count(text) < before


def test_with_a_tokenizer_counts_are_exact(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"one": 0, "two": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    counter: TokenCounter = ExactTokens(path)
    counter.learn(1, 100)
    assert counter.count("one two one") == 3
    assert prompt_tokens([ChatMessage("user", "one two")], counter) == 12


async def test_the_context_is_what_the_server_has_loaded(misbehaving: Misbehaving) -> None:
    config = BackendConfig(name="b", url=misbehaving.url, model="normal")
    pool = Backends([config], learn=True)
    opened = await pool.open_stream(fixed(ASKED), route="general")
    await opened.deltas.aclose()
    assert opened.target.prompt_tokens + opened.target.reply_tokens < 4096
    assert pool.providers[0].capabilities.server == "lmstudio"
    await pool.aclose()
    plain = Backends([config], learn=False)
    assert plain.providers[0].context() == UNKNOWN_CONTEXT
    await plain.aclose()


def test_records_are_kept_for_a_day_and_a_broken_file_is_no_matter(tmp_path: Path) -> None:
    now = [1000.0]
    path = tmp_path / "home" / "capabilities.json"
    store = CapabilityStore(path, lambda: now[0])
    store.put("http://x/v1", "m", Capabilities(prefill="continues", probed_at=now[0]))
    again = CapabilityStore(path, lambda: now[0])
    assert again.get("http://x/v1", "m") == Capabilities(prefill="continues", probed_at=1000.0)
    assert again.get("http://x/v1", "other") is None
    now[0] += LIFETIME
    assert again.get("http://x/v1", "m") is None
    path.write_text('{"x": 7}')
    assert CapabilityStore(path, lambda: now[0]).get("http://x/v1", "m") is None
