"""What a turn recalls: one embedding, one statement, and never a reason to fail the turn."""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
import numpy.typing as npt
import structlog

from memory.errors import EmbedderUnavailableError, LongTermMemoryError
from memory.ports import Embedder
from memory.postgres import Connection, Database
from memory.retrieval import RecalledItem, RecallQuery, recall
from memory.summaries import Profile, read_profile
from service.chat.metrics import RECALL_SECONDS, RECALLED

log = structlog.get_logger(__name__)

Vector = npt.NDArray[np.float32]


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


class Recaller:
    def __init__(self, database: Database, embedder: Embedder, token_budget: int, limit: int) -> None:
        self._database = database
        self._embedder = embedder
        self._token_budget = token_budget
        self._limit = limit

    def embed(self, text: str) -> "asyncio.Task[Vector | None]":
        """Start the embedding beside whatever else the turn waits for."""
        return asyncio.create_task(self._embed(text), name="embed-query")

    async def _embed(self, text: str) -> Vector | None:
        began = time.perf_counter()
        try:
            vector: Vector = (await self._embedder.embed([text], question=True))[0]
        except EmbedderUnavailableError as error:
            log.warning("embeddings_away", embedder=self._embedder.name, reason=str(error))
            return None
        except Exception:
            log.exception("embedding_failed")
            return None
        RECALL_SECONDS.labels("embedding").observe(time.perf_counter() - began)
        return vector

    async def recall(
        self,
        user_id: UUID,
        text: str,
        vector: Vector | None,
        *,
        route: str,
        time_zone: str,
        names: tuple[str, ...],
        known: tuple[UUID, int] | None,
        companion: str = "",
    ) -> Recalled:
        """Recall for a message. `known` is (conversation, first seq) of the messages that stand in the prompt anyway."""
        began = time.perf_counter()
        query = RecallQuery(
            user_id=user_id,
            text=text,
            vector=vector,
            routes=("general",) if route == "general" else ("general", route),
            token_budget=self._token_budget,
            limit=self._limit,
            now=datetime.now(UTC),
            time_zone=time_zone,
            exclude_conversation_after=known,
            names=names,
        )

        async def look(connection: Connection) -> tuple[tuple[RecalledItem, ...], Profile]:
            return tuple(await recall(connection, query)), await read_profile(connection, user_id, route, companion)

        try:
            items, profile = await self._database.read(user_id, look)
        except LongTermMemoryError as error:
            log.warning("recall_failed", error=type(error).__name__)
            return Recalled(degraded=True)
        elapsed = time.perf_counter() - began
        RECALL_SECONDS.labels("statement").observe(elapsed)
        RECALLED.observe(len(items))
        tokens = sum(max(1, len(item.text) // 4) for item in items)
        return Recalled(items, tokens, elapsed * 1000, words_only=vector is None, profile=profile.text)
