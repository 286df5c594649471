"""The shelf on which instances find each other's answers to an app's own questions: exact, bounded, sealed, optional."""

import hashlib
from collections.abc import AsyncIterator
from uuid import uuid4

import orjson
import pytest

from memory.vault import LiveKeys, MasterKey
from service.dev.children import free_port
from sessions.answers import MOST_BYTES, NOBODY, RedisAnswers
from sessions.config import RedisConfig
from sessions.keys import ANSWER_PLACES, ANSWER_TTL_MS, answer_key
from sessions.link import RedisLink

KEYS = LiveKeys([MasterKey(b"m" * 32)])


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    link = RedisLink(RedisConfig(redis_url))
    yield link
    await link.aclose()


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def beside(given: bytes) -> bytes:
    """Another question's digest that has the same place."""
    return given[:8] + digest("another")[8:]


@pytest.mark.parametrize("cipher", [None, KEYS], ids=["plain", "sealed"])
async def test_only_the_very_same_question_finds_its_answer(link: RedisLink, cipher: LiveKeys | None) -> None:
    one, other = RedisAnswers(link, cipher), RedisAnswers(link, cipher)
    asked = digest("A greeting?")
    assert await other.get(asked) is None
    await one.put(asked, b"Good \x00 morning")
    assert await other.get(asked) == b"Good \x00 morning"
    assert await other.get(beside(asked)) is None
    await other.put(beside(asked), b"Something else")
    assert await one.get(asked) is None
    assert await one.get(beside(asked)) == b"Something else"


async def test_what_is_kept_is_bounded(link: RedisLink) -> None:
    answers = RedisAnswers(link)
    await answers.put(digest("long"), b"x" * (MOST_BYTES + 1))
    assert await answers.get(digest("long")) is None
    for number in range(ANSWER_PLACES + 500):
        await answers.put(digest(str(number)), b"x")
    keys = [key async for key in link.client.scan_iter("answer:*", count=1000)]
    assert ANSWER_PLACES / 2 < len(keys) <= ANSWER_PLACES
    assert 0 < await link.client.pttl(keys[0]) <= ANSWER_TTL_MS


async def test_what_is_sealed_says_nothing_and_opens_nowhere_else(link: RedisLink) -> None:
    asked = digest("A greeting?")
    answers = RedisAnswers(link, KEYS)
    await answers.put(asked, b"Good morning")
    key = answer_key(int.from_bytes(asked[:8]) % ANSWER_PLACES)
    value = await link.client.get(key)
    assert isinstance(value, bytes)
    assert b"morning" not in value
    assert asked.hex().encode() not in value
    moved = digest("Another place")
    await link.client.set(answer_key(int.from_bytes(moved[:8]) % ANSWER_PLACES), value)
    assert await answers.get(moved) is None
    assert await RedisAnswers(link, LiveKeys([MasterKey(b"o" * 32)])).get(asked) is None


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"owner": 1}', b"\x01l1.", b"no json"])
async def test_what_is_no_answer_is_none(link: RedisLink, value: bytes) -> None:
    asked = digest("A greeting?")
    await link.client.set(answer_key(int.from_bytes(asked[:8]) % ANSWER_PLACES), value)
    assert await RedisAnswers(link).get(asked) is None
    assert await RedisAnswers(link, KEYS).get(asked) is None


async def test_a_users_value_is_nobodys_answer(link: RedisLink) -> None:
    asked = digest("A greeting?")
    answers = RedisAnswers(link)
    await answers.put(asked, b"Good morning")
    key = answer_key(int.from_bytes(asked[:8]) % ANSWER_PLACES)
    value = await link.client.get(key)
    assert value is not None
    kept = orjson.loads(value)
    assert kept["owner"] == str(NOBODY)
    await link.client.set(key, orjson.dumps({**kept, "owner": str(uuid4())}))
    assert await answers.get(asked) is None


async def test_without_redis_there_are_none() -> None:
    link = RedisLink(RedisConfig(f"redis://127.0.0.1:{free_port()}/0"))
    answers = RedisAnswers(link)
    await answers.put(digest("A greeting?"), b"Good morning")
    assert await answers.get(digest("A greeting?")) is None
    await link.aclose()
