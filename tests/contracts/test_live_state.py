"""Every live state keeps the same promises."""

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from memory.vault import LiveKeys, MasterKey
from sessions.config import RedisConfig
from sessions.keys import buffer_key, session_key
from sessions.link import RedisLink
from sessions.state import Buffer, Line, Session
from sessions.store import LiveState, LocalLiveState, RedisLiveState


@pytest.fixture(params=["redis", "sealed", "local"])
async def live(request: pytest.FixtureRequest) -> AsyncIterator[LiveState]:
    if request.param == "local":
        yield LocalLiveState()
        return
    link = RedisLink(RedisConfig(request.getfixturevalue("redis_url")))
    yield RedisLiveState(link, LiveKeys([MasterKey(b"m" * 32)]) if request.param == "sealed" else None)
    await link.aclose()


def session(owner: UUID, conversation_id: UUID) -> Session:
    return Session(owner, conversation_id, "mature", "parent", 3, ("mature",))


def buffer(owner: UUID, conversation_id: UUID) -> Buffer:
    lines = (Line(1, "user", "Olá 🦊\u2028", "Ana"), Line(2, "assistant", "Hi"))
    return Buffer(owner, conversation_id, uuid4(), "Mel", "You paint.", "Europe/Lisbon", "They met.", 0, lines)


async def test_what_is_saved_is_loaded(live: LiveState) -> None:
    owner, conversation_id = uuid4(), uuid4()
    kept_session, kept_buffer = session(owner, conversation_id), buffer(owner, conversation_id)
    await live.save(kept_session, kept_buffer)
    loaded = await live.load(owner, conversation_id)
    assert (loaded.session, loaded.buffer) == (kept_session, kept_buffer)
    await live.save(None, replace(kept_buffer, summary="They met again."))
    loaded = await live.load(owner, conversation_id)
    assert loaded.session == kept_session
    assert loaded.buffer is not None
    assert loaded.buffer.summary == "They met again."


async def test_nothing_of_another_user_is_loaded(live: LiveState) -> None:
    owner, conversation_id = uuid4(), uuid4()
    await live.save(session(owner, conversation_id), buffer(owner, conversation_id))
    loaded = await live.load(uuid4(), conversation_id)
    assert (loaded.session, loaded.buffer) == (None, None)


async def test_forgotten_is_gone(live: LiveState) -> None:
    owner, conversation_id = uuid4(), uuid4()
    await live.save(session(owner, conversation_id), buffer(owner, conversation_id))
    assert await live.forget(conversation_id)
    loaded = await live.load(owner, conversation_id)
    assert (loaded.session, loaded.buffer) == (None, None)


async def test_a_buffer_keeps_its_last_lines() -> None:
    head = uuid4()
    grown = buffer(uuid4(), uuid4()).extended((Line(3, "user", "a"), Line(4, "assistant", "b")), head, 3)
    assert [line.seq for line in grown.lines] == [2, 3, 4]
    assert grown.head_id == head


async def test_keys_of_a_conversation_share_a_slot_and_last_a_day(redis_url: str) -> None:
    owner, conversation_id = uuid4(), uuid4()
    link = RedisLink(RedisConfig(redis_url))
    await RedisLiveState(link).save(session(owner, conversation_id), buffer(owner, conversation_id))
    for key in (session_key(conversation_id), buffer_key(conversation_id)):
        assert f"{{{conversation_id}}}" in key
        assert 86_000_000 < await link.client.pttl(key) <= 86_400_000
    await link.aclose()


async def test_garbage_in_redis_counts_as_nothing(redis_url: str) -> None:
    conversation_id = uuid4()
    link = RedisLink(RedisConfig(redis_url))
    await link.client.set(buffer_key(conversation_id), b"\xff not json")
    loaded = await RedisLiveState(link).load(uuid4(), conversation_id)
    assert loaded.buffer is None
    await link.aclose()
