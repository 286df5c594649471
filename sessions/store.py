"""The live state of conversations: in Redis, or in this process when there is only one."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from sessions.cipher import Cipher, Plain
from sessions.errors import LiveStateUnavailableError, OwnerMismatchError
from sessions.keys import SESSION_TTL_MS, buffer_key, session_key
from sessions.link import RedisLink
from sessions.metrics import LIVE_STATE, OWNER_MISMATCHES
from sessions.servers import Call
from sessions.state import Buffer, Session


@dataclass(frozen=True, slots=True)
class Live:
    """What was found; a missing part is rebuilt from PostgreSQL by whoever needs it."""

    session: Session | None = None
    buffer: Buffer | None = None


class LiveState(Protocol):
    """Every implementation passes tests/contracts/test_live_state.py. None of them ever raises for a read."""

    async def load(self, owner: UUID, conversation_id: UUID) -> Live:
        """What is kept of the owner's conversation; nothing of another's, and nothing while Redis is away."""
        ...

    async def save(self, session: Session | None, buffer: Buffer | None) -> None:
        """Keep what is given for 24 hours. Best effort: a failure is counted, and the next read rebuilds."""
        ...

    async def forget(self, conversation_id: UUID) -> bool:
        """Drop what is kept. False when that could not be done now."""
        ...


def _decode(owner: UUID, conversation_id: UUID, session: bytes | None, buffer: bytes | None) -> Live:
    try:
        live = Live(
            Session.decode(session, owner, conversation_id) if session else None,
            Buffer.decode(buffer, owner, conversation_id) if buffer else None,
        )
    except OwnerMismatchError:
        OWNER_MISMATCHES.inc()
        raise
    LIVE_STATE.labels(
        "all" if live.session and live.buffer else "part" if live.session or live.buffer else "nothing"
    ).inc()
    return live


class RedisLiveState:
    def __init__(self, link: RedisLink, cipher: Cipher | None = None) -> None:
        self._link = link
        self._cipher = cipher or Plain()

    def _opened(self, owner: UUID, key: str, value: bytes | None) -> bytes | None:
        return value and self._cipher.open(owner, key.encode(), value)

    def _sealed(self, owner: UUID, key: str, value: bytes) -> tuple[str, bytes]:
        return key, self._cipher.seal(owner, key.encode(), value)

    async def load(self, owner: UUID, conversation_id: UUID) -> Live:
        try:
            keys = (session_key(conversation_id), buffer_key(conversation_id))
            values = await self._link.one(Call(keys[0], ("MGET", *keys)))
            session, buffer = (self._opened(owner, key, value) for key, value in zip(keys, values, strict=True))
            return _decode(owner, conversation_id, session, buffer)
        except (LiveStateUnavailableError, OwnerMismatchError, ValueError, KeyError):
            LIVE_STATE.labels("unavailable").inc()
            return Live()

    async def save(self, session: Session | None, buffer: Buffer | None) -> None:
        kept: list[tuple[str, bytes]] = []
        if session is not None:
            kept.append(self._sealed(session.owner, session_key(session.conversation_id), session.encode()))
        if buffer is not None:
            kept.append(self._sealed(buffer.owner, buffer_key(buffer.conversation_id), buffer.encode()))
        await self._link.ask([Call(key, ("SET", key, value, "PX", SESSION_TTL_MS)) for key, value in kept])

    async def forget(self, conversation_id: UUID) -> bool:
        try:
            keys = (session_key(conversation_id), buffer_key(conversation_id))
            await self._link.one(Call(keys[0], ("DEL", *keys)))
        except LiveStateUnavailableError:
            return False
        return True


class LocalLiveState:
    """The same in this process's memory, for REDIS_ENABLED=false."""

    def __init__(self, capacity: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept: OrderedDict[UUID, tuple[float, bytes | None, bytes | None]] = OrderedDict()
        self._capacity = capacity
        self._clock = clock

    async def load(self, owner: UUID, conversation_id: UUID) -> Live:
        until, session, buffer = self._kept.get(conversation_id, (0.0, None, None))
        if until < self._clock():
            return Live()
        try:
            return _decode(owner, conversation_id, session, buffer)
        except OwnerMismatchError:
            return Live()

    async def save(self, session: Session | None, buffer: Buffer | None) -> None:
        for part in (session, buffer):
            if part is None:
                continue
            _, old_session, old_buffer = self._kept.pop(part.conversation_id, (0.0, None, None))
            encoded = part.encode()
            kept = (encoded, old_buffer) if isinstance(part, Session) else (old_session, encoded)
            self._kept[part.conversation_id] = (self._clock() + SESSION_TTL_MS / 1000, *kept)
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)

    async def forget(self, conversation_id: UUID) -> bool:
        self._kept.pop(conversation_id, None)
        return True
