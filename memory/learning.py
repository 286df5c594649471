"""Learning from a conversation: each message's effect happens once, whatever queues and processes do.

Read the watermark, ask a model about the messages beyond it outside any transaction, then write in one: the watermark
moves only if it still stands where it was read, and the facts go with it or not at all. Who loses that race, or dies
before it, has changed nothing.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Literal
from uuid import UUID

from memory import extraction, lessons, summaries
from memory.errors import (
    EmbedderUnavailableError,
    ReasonerRefusedError,
    ReasonerUnavailableError,
    StoreUnavailableError,
)
from memory.extraction import NonsenseError
from memory.lessons import Lesson
from memory.metrics import EXTRACTED, FACTS, LEARNING, REFUSED
from memory.ports import Embedder, Reasoner
from memory.postgres import Database
from memory.understanding import Reading, settle, understand

Status = Literal["learnt", "caught_up", "busy", "gone", "lost", "failed", "quarantined", "postponed"]


@dataclass(frozen=True, slots=True)
class LearnConfig:
    batch: int = 12
    """Messages that one extraction reads. Halved with every failed attempt, so that one bad message is found."""
    characters: int = 4000
    """What these messages hold together at most, if they are more than one: a thousand tokens to read for a small model."""
    attempts: int = 5
    lease_seconds: float = 10.0
    """How long a dead learner keeps others waiting; a living one renews it each third."""
    stretch: int = 5
    """Batches of one conversation before others get their turn."""
    index_batch: int = 64
    index_limit: int = 1024
    """Messages made searchable in one go, before the model is asked about the first of them."""
    retry_seconds: float = 2.0
    """Before the second attempt; doubles with each."""
    away_seconds: float = 5.0
    """Before a model that was away is asked again; doubles up to `away_most_seconds`."""
    away_most_seconds: float = 300.0
    summary: summaries.SummaryConfig = field(default_factory=summaries.SummaryConfig)
    judge: bool = True
    """Whether a model is asked which of two similar facts holds when rules can't tell."""

    @property
    def reading(self) -> Reading:
        return Reading(self.index_batch, self.index_limit, self.judge)


@dataclass(frozen=True, slots=True)
class Learnt:
    """What one call did."""

    status: Status
    messages: int = 0
    facts: Counter[str] = field(default_factory=Counter)
    """By what became of them: added, confirmed, merged, superseded, history, ignored."""
    refused: Counter[str] = field(default_factory=Counter)
    more: bool = False
    """There is more to learn from, now."""


MESSAGES = """
WITH batch AS (
    SELECT seq, id, role, speaker, content, created_at, parent_id FROM messages
    WHERE user_id = $1 AND conversation_id = $2 AND seq > $3 ORDER BY seq LIMIT $4
), sibling AS (
    SELECT parent_id, role, max(seq) AS last FROM messages
    WHERE user_id = $1 AND conversation_id = $2 AND seq > $3 AND parent_id IN (SELECT parent_id FROM batch)
    GROUP BY parent_id, role
)
-- an answer that was regenerated, or a message that was edited: its sibling counts
SELECT seq, id, b.role, speaker, content, created_at, coalesce(s.last > seq, false) AS replaced
FROM batch b LEFT JOIN sibling s ON s.parent_id = b.parent_id AND s.role = b.role ORDER BY seq
"""


async def learn(
    database: Database,
    reasoner: Reasoner,
    embedder: Embedder,
    user_id: UUID,
    conversation_id: UUID,
    config: LearnConfig,
) -> Learnt:
    """Learn from the next messages of a conversation; call it again while the answer says `more`.

    Safe to call at any time, any number of times, from any number of processes. Raises `StoreUnavailableError`, and
    whatever is a bug, after noting the attempt.
    """
    lesson = await lessons.claim(database, user_id, conversation_id, config.lease_seconds)
    if not isinstance(lesson, Lesson):
        return _counted(Learnt(lesson))
    try:
        async with lessons.kept(database, lesson, config.lease_seconds):
            learnt = await _attempt(database, reasoner, embedder, lesson, config)
    except (ReasonerUnavailableError, EmbedderUnavailableError) as error:
        await lessons.postpone(database, lesson, str(error), config.away_seconds, config.away_most_seconds)
        learnt = Learnt("postponed")
    except (NonsenseError, ReasonerRefusedError) as error:
        reason = str(error) if isinstance(error, NonsenseError) else "model_refused"
        await lessons.note_failure(database, lesson, str(error), config.retry_seconds)
        learnt = Learnt("failed", refused=Counter({reason: 1}))
    except asyncio.CancelledError:
        # shutting down is not the text's fault
        with contextlib.suppress(StoreUnavailableError):
            await asyncio.shield(lessons.give_back(database, lesson))
        raise
    except StoreUnavailableError:
        raise
    except Exception as error:
        await lessons.note_failure(database, lesson, type(error).__name__, config.retry_seconds)
        LEARNING.labels("failed").inc()
        raise
    return _counted(learnt)


async def catch_up(
    database: Database,
    reasoner: Reasoner,
    embedder: Embedder,
    user_id: UUID,
    conversation_id: UUID,
    config: LearnConfig,
) -> Learnt:
    """Learn from a conversation until nothing is left, or until its turn is over (`config.stretch`)."""
    done = Learnt("caught_up")
    for _ in range(config.stretch):
        learnt = await learn(database, reasoner, embedder, user_id, conversation_id, config)
        done = replace(
            learnt,
            messages=done.messages + learnt.messages,
            facts=done.facts + learnt.facts,
            refused=done.refused + learnt.refused,
        )
        if not learnt.more:
            break
    if done.status in {"learnt", "quarantined"} and not done.more:
        with contextlib.suppress(StoreUnavailableError):
            while await summaries.summarise(database, reasoner, user_id, conversation_id, config.summary):
                pass
    return done


def _counted(learnt: Learnt) -> Learnt:
    LEARNING.labels(learnt.status).inc()
    EXTRACTED.inc(learnt.messages)
    for action, number in learnt.facts.items():
        FACTS.labels(action).inc(number)
    for reason, number in learnt.refused.items():
        REFUSED.labels(reason).inc(number)
    return learnt


async def _attempt(
    database: Database, reasoner: Reasoner, embedder: Embedder, lesson: Lesson, config: LearnConfig
) -> Learnt:
    size = max(1, config.batch >> max(0, lesson.attempts - 1))
    async with database.as_user(lesson.user_id) as connection:
        rows = await connection.fetch(MESSAGES, lesson.user_id, lesson.conversation_id, lesson.watermark, size)
    if not rows:  # deleted since
        return Learnt("gone")
    rows = rows[: _fitting([len(row["content"]) for row in rows], config.characters)]
    last = rows[-1]["seq"]
    if lesson.attempts > config.attempts:
        behind = await lessons.quarantine(database, lesson, last)
        return Learnt("lost") if behind is None else Learnt("quarantined", last - lesson.watermark, more=behind)
    understood = await understand(database, reasoner, embedder, lesson, rows, config.reading)
    async with database.as_user(lesson.user_id) as connection:
        behind = await lessons.advance(connection, lesson, last)
        if behind is None:
            return Learnt("lost")
        settled = await settle(connection, lesson, understood)
    return Learnt("learnt", len(rows), settled, understood.refused, more=behind)


def _fitting(lengths: Sequence[int], characters: int) -> int:
    """How many messages to read together, at least one; of a long one only the head is read."""
    read = list(accumulate(min(length, extraction.LINE_CHARS) for length in lengths))
    return max(1, sum(upto <= characters for upto in read))
