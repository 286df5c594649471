"""Answers to an app's own questions, shared by all instances: about nobody, for an hour, in a fixed number of places."""

import base64
from uuid import UUID

import orjson

from sessions.cipher import Cipher, Plain
from sessions.errors import LiveStateUnavailableError, OwnerMismatchError
from sessions.keys import ANSWER_PLACES, ANSWER_TTL_MS, answer_key
from sessions.link import RedisLink
from sessions.metrics import OWNER_MISMATCHES
from sessions.servers import Call

NOBODY = UUID(int=0)
"""Whose these answers are: the deployment's own."""
MOST_BYTES = 32 * 1024
"""Of one answer; longer ones are not kept. With the number of places it bounds what all of them take."""


class RedisAnswers:
    """Never raises and never waits for a Redis that is away: without an answer the question is asked."""

    def __init__(self, link: RedisLink, cipher: Cipher | None = None) -> None:
        self._link = link
        self._cipher = cipher or Plain()

    async def get(self, digest: bytes) -> bytes | None:
        """What was kept under exactly this digest."""
        key = _key(digest)
        try:
            value = await self._link.one(Call(key, ("GET", key)))
            return None if value is None else self._read(digest, self._cipher.open(NOBODY, key.encode(), value))
        except (LiveStateUnavailableError, OwnerMismatchError, ValueError, KeyError, TypeError):
            return None

    @staticmethod
    def _read(digest: bytes, value: bytes) -> bytes | None:
        kept = orjson.loads(value)
        if kept["owner"] != str(NOBODY):
            OWNER_MISMATCHES.inc()
            raise OwnerMismatchError("An answer belongs to a user.")
        # another question may have taken the place
        return base64.b64decode(kept["answer"]) if kept["digest"] == digest.hex() else None

    async def put(self, digest: bytes, answer: bytes) -> None:
        if len(answer) > MOST_BYTES:
            return
        key = _key(digest)
        kept = {"owner": str(NOBODY), "digest": digest.hex(), "answer": base64.b64encode(answer).decode()}
        value = self._cipher.seal(NOBODY, key.encode(), orjson.dumps(kept))
        await self._link.ask([Call(key, ("SET", key, value, "PX", ANSWER_TTL_MS))])


def _key(digest: bytes) -> str:
    return answer_key(int.from_bytes(digest[:8]) % ANSWER_PLACES)
