"""What a turn recalls: one embedding, two statements and the profile's, and never a reason to fail the turn."""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import structlog

from memory.errors import EmbedderBusyError, EmbedderUnavailableError, LongTermMemoryError
from memory.ports import Embedder
from memory.postgres import Connection, Database
from memory.retrieval import RecalledItem, RecallQuery, recall
from memory.summaries import Profile, read_profile
from service.chat.metrics import RECALL_SECONDS, RECALLED, WORDS_ONLY
from service.chat.turnstile import Turnstile
from sessions.state import Buffer
from sessions.store import Live

log = structlog.get_logger(__name__)

Vector = npt.NDArray[np.float32]
AT_ONCE = 8
"""Recalls of one process that PostgreSQL is asked for together. More would only wait there."""


@dataclass(frozen=True, slots=True)
class Recalled:
    items: tuple[RecalledItem, ...] = ()
    tokens: int = 0
    elapsed_ms: float = 0.0
    degraded: bool = False
    words_only: bool = False
    """No model made a vector of the message: what is remembered was looked for by its words."""
    profile: str = ""
    """What is known of the user in a few lines, rebuilt from facts."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a conversation was like before its message was accepted, and what was recalled for it as it was."""

    live: Live
    recalled: Recalled | None = None

    def recalled_for(self, route: str, buffer: Buffer) -> Recalled | None:
        """What was recalled, if the conversation was accepted as it had been found."""
        session = self.live.session
        same = session is not None and session.route == route and buffer is self.live.buffer
        return self.recalled if same and self.recalled is not None and not self.recalled.degraded else None


class Recaller:
    def __init__(
        self, database: Database, embedder: Embedder, token_budget: int, limit: int, at_once: int = AT_ONCE
    ) -> None:
        self._database = database
        self._embedder = embedder
        self._token_budget = token_budget
        self._limit = limit
        self._turnstile = Turnstile("recall", at_once)

    def embed(self, text: str) -> "asyncio.Task[Vector | None]":
        """Start the embedding beside whatever else the turn waits for."""
        return asyncio.create_task(self._embed(text), name="embed-query")

    async def _embed(self, text: str) -> Vector | None:
        began = time.perf_counter()
        try:
            vector: Vector = (await self._embedder.embed([text], question=True))[0]
        except EmbedderBusyError:
            WORDS_ONLY.labels("busy").inc()
            return None
        except EmbedderUnavailableError as error:
            WORDS_ONLY.labels("away").inc()
            log.warning("embeddings_away", embedder=self._embedder.name, reason=str(error))
            return None
        except Exception:
            log.exception("embedding_failed")
            return None
        RECALL_SECONDS.labels("embedding").observe(time.perf_counter() - began)
        return vector

    async def look(
        self, found: Awaitable[Live], vector: Awaitable[Vector | None], text: str, speaker: str | None
    ) -> Looked:
        """Recall beside the accept, which mostly waits for a disk: for the conversation as its live copy has it, and only
        as long as the database has room. Whoever uses it checks that it was accepted so (`Looked.recalled_for`)."""
        live = await found
        if live.session is None or live.buffer is None or not self._database.has_room:
            return Looked(live)
        return Looked(live, await self.recall(live.buffer, live.session.route, text, speaker, await vector))

    async def recall(
        self, buffer: Buffer, route: str, text: str, speaker: str | None, vector: Vector | None
    ) -> Recalled:
        """Recall for a message that is said behind `buffer`, which stands in the prompt anyway."""
        began = time.perf_counter()
        first = buffer.lines[0].seq if buffer.lines else 0
        query = RecallQuery(
            user_id=buffer.owner,
            text=text,
            vector=vector,
            routes=("general",) if route == "general" else ("general", route),
            token_budget=self._token_budget,
            limit=self._limit,
            now=datetime.now(UTC),
            time_zone=buffer.time_zone,
            exclude_conversation_after=(buffer.conversation_id, first),
            names=tuple({name for name in (buffer.companion_name, speaker) if name}),
        )

        async def read(connection: Connection) -> tuple[tuple[RecalledItem, ...], Profile]:
            profile = read_profile(connection, buffer.owner, route, buffer.companion_name)
            return tuple(await recall(connection, query)), await profile

        try:
            async with self._turnstile:
                items, profile = await self._database.read(buffer.owner, read)
        except LongTermMemoryError as error:
            log.warning("recall_failed", error=type(error).__name__)
            return Recalled(degraded=True)
        elapsed = time.perf_counter() - began
        RECALL_SECONDS.labels("statement").observe(elapsed)
        RECALLED.observe(len(items))
        tokens = sum(max(1, len(item.text) // 4) for item in items)
        return Recalled(items, tokens, elapsed * 1000, words_only=vector is None, profile=profile.text)
