"""Learning from a conversation: each message's effect happens once, whatever queues and processes do.

Read the watermark, ask a model about the messages beyond it outside any transaction, then write in one: the watermark
moves only if it still stands where it was read, and the facts go with it or not at all. Who loses that race, or dies
before it, has changed nothing.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal
from uuid import UUID

import structlog

from memory import consolidation, evidence, extraction, indexing, summaries, tombstones
from memory.errors import ReasonerRefusedError, ReasonerUnavailableError, StoreUnavailableError
from memory.evidence import Refused, Setting, Supported
from memory.extraction import NonsenseError, Said
from memory.metrics import EPISODES, EXTRACTED, FACTS, LEARNING, REFUSED
from memory.ports import Embedder, Reasoner
from memory.postgres import Connection, Database

log = structlog.get_logger(__name__)

Status = Literal["learnt", "caught_up", "busy", "gone", "lost", "failed", "quarantined", "postponed"]


@dataclass(frozen=True, slots=True)
class LearnConfig:
    batch: int = 12
    """Messages that one extraction reads. Halved with every failed attempt, so that one bad message is found."""
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
    compare_and_set: bool = True
    """False only in the test that shows what the compare-and-set is for."""


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


@dataclass(frozen=True, slots=True)
class _Work:
    """A claimed stretch of one conversation."""

    user_id: UUID
    conversation_id: UUID
    watermark: int
    attempts: int
    last_error: str | None
    route: str
    companion: str
    time_zone: str


CLAIM = """
UPDATE conversations SET learn_attempts = learn_attempts + 1, learning_until = clock_timestamp() + $3 * interval '1 second'
WHERE user_id = $1 AND id = $2 AND deleted_at IS NULL AND learnt_seq < next_seq - 1
    AND (learning_until IS NULL OR learning_until < clock_timestamp())
RETURNING learnt_seq, learn_attempts, learn_error, route, companion_name, time_zone
"""
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
    work = await _claim(database, user_id, conversation_id, config)
    if not isinstance(work, _Work):
        return _counted(work)
    try:
        async with _lease_kept(database, work, config.lease_seconds):
            learnt = await _attempt(database, reasoner, embedder, work, config)
    except ReasonerUnavailableError as error:
        await _postpone(database, work, config, str(error))
        learnt = Learnt("postponed")
    except (NonsenseError, ReasonerRefusedError) as error:
        reason = str(error) if isinstance(error, NonsenseError) else "model_refused"
        await _note_failure(database, work, config, str(error))
        learnt = Learnt("failed", refused=Counter({reason: 1}))
    except asyncio.CancelledError:
        # shutting down is not the text's fault
        with contextlib.suppress(StoreUnavailableError):
            await asyncio.shield(_give_back(database, work))
        raise
    except StoreUnavailableError:
        raise
    except Exception as error:
        await _note_failure(database, work, config, type(error).__name__)
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


async def _claim(database: Database, user_id: UUID, conversation_id: UUID, config: LearnConfig) -> _Work | Learnt:
    async with database.as_user(user_id) as connection:
        row = await connection.fetchrow(CLAIM, user_id, conversation_id, config.lease_seconds)
        if row is not None:
            return _Work(user_id, conversation_id, *row)
        # the row lock waits for an accept in flight: its message is seen here, or its outbox row comes after our delete
        state = await connection.fetchrow(
            "SELECT learnt_seq < next_seq - 1 AS behind, deleted_at FROM conversations WHERE user_id = $1 AND id = $2 FOR UPDATE",
            user_id,
            conversation_id,
        )
        if state is not None and state["deleted_at"] is None and state["behind"]:
            return Learnt("busy")
        await connection.execute(
            "DELETE FROM outbox WHERE user_id = $1 AND conversation_id = $2", user_id, conversation_id
        )
        return Learnt("gone" if state is None or state["deleted_at"] is not None else "caught_up")


@contextlib.asynccontextmanager
async def _lease_kept(database: Database, work: _Work, seconds: float) -> AsyncIterator[None]:
    async def keep() -> None:
        while True:
            await asyncio.sleep(seconds / 3)
            with contextlib.suppress(StoreUnavailableError):
                async with database.as_user(work.user_id) as connection:
                    await connection.execute(
                        """UPDATE conversations SET learning_until = clock_timestamp() + $4 * interval '1 second'
                        WHERE user_id = $1 AND id = $2 AND learnt_seq = $3""",
                        work.user_id,
                        work.conversation_id,
                        work.watermark,
                        seconds,
                    )

    task = asyncio.create_task(keep(), name=f"learn-lease-{work.conversation_id}")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _attempt(
    database: Database, reasoner: Reasoner, embedder: Embedder, work: _Work, config: LearnConfig
) -> Learnt:
    size = max(1, config.batch >> max(0, work.attempts - 1))
    async with database.as_user(work.user_id) as connection:
        rows = await connection.fetch(MESSAGES, work.user_id, work.conversation_id, work.watermark, size)
    if not rows:  # deleted since
        return Learnt("gone")
    last = rows[-1]["seq"]
    if work.attempts > config.attempts:
        return await _quarantine(database, work, last)
    await _index(database, embedder, work, config)
    said = [Said(*tuple(row)[:-1]) for row in rows if row["role"] != "system" and not row["replaced"]]
    asked = await extraction.extract(reasoner, said) if said else extraction.NOTHING
    supported, refused = judge_claims(asked, said, work.time_zone, work.companion)
    facts = await consolidation.prepare(
        embedder, work.user_id, work.conversation_id, work.route, work.companion, supported
    )
    verdicts = await _verdicts(database, reasoner, work, facts) if config.judge else {}
    async with database.as_user(work.user_id) as connection:
        behind = await _advance(connection, work, last, config)
        if behind is None:
            return Learnt("lost")
        # asked behind the lock on the user's row: whoever forgets comes before it or after the facts are there
        facts = await tombstones.teachable(connection, work.user_id, facts)
        settled = await consolidation.settle(connection, work.user_id, work.route, facts, verdicts)
        if settled:
            # what other companions of the user show is written anew when it is next read
            await connection.execute(
                "DELETE FROM profiles WHERE user_id = $1 AND route = $2 AND companion <> $3",
                work.user_id,
                work.route,
                work.companion,
            )
            await summaries.rebuild_profile(connection, work.user_id, work.route, work.companion)
    return Learnt("learnt", len(rows), settled, refused, more=behind)


def judge_claims(
    asked: extraction.Extraction, said: Sequence[Said], time_zone: str, companion: str
) -> tuple[list[Supported], Counter[str]]:
    """Let the gate decide on every claim; gives the supported ones, and how many were refused for what."""
    names = {companion, *(message.speaker or "" for message in said)} - {""}
    setting = Setting(time_zone, tuple(sorted(names)))
    supported: list[Supported] = []
    refused = Counter(asked.refused)
    for candidate in asked.candidates:
        decided = evidence.check(candidate, tuple(said), setting)
        if isinstance(decided, Refused):
            refused[decided.reason] += 1
        else:
            supported.append(decided)
    return supported, refused


async def _verdicts(
    database: Database, reasoner: Reasoner, work: _Work, facts: list[consolidation.NewFact]
) -> consolidation.Verdicts:
    if not facts:
        return {}
    async with database.as_user(work.user_id) as connection:
        known = await consolidation.read_current(connection, work.user_id, work.route)
    return await consolidation.ask_about(reasoner, consolidation.undecided(facts, known))


ADVANCE = """
UPDATE conversations SET learnt_seq = $4, learn_attempts = 0, learning_until = NULL, learn_error = NULL
WHERE user_id = $1 AND id = $2 AND learnt_seq = $3 AND deleted_at IS NULL
RETURNING next_seq - 1 > learnt_seq
"""


async def _advance(connection: Connection, work: _Work, last: int, config: LearnConfig | None = None) -> bool | None:
    """Move the watermark from where it was read; says whether more is waiting. None: another learner did, or it is deleted.

    The user's row is locked first, so that two conversations of one user settle their facts one after the other; a
    deleted user or conversation teaches nothing.
    """
    owner = await connection.fetchval(
        "SELECT 1 FROM users WHERE user_id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE", work.user_id
    )
    if owner is None:
        return None
    statement = (
        ADVANCE if config is None or config.compare_and_set else ADVANCE.replace("AND learnt_seq = $3", "AND $3 >= 0")
    )
    behind = await connection.fetchval(statement, work.user_id, work.conversation_id, work.watermark, last)
    if behind is None:
        return None
    if behind:
        await connection.execute(
            "UPDATE outbox SET not_before = now(), dispatched_at = NULL, delays = 0 WHERE user_id = $1 AND conversation_id = $2",
            work.user_id,
            work.conversation_id,
        )
    else:
        await connection.execute(
            "DELETE FROM outbox WHERE user_id = $1 AND conversation_id = $2", work.user_id, work.conversation_id
        )
    return bool(behind)


# --- episodes: recallable before, and whether or not, a model has read them

# NOT IN is hashed whatever the statistics say; a join was planned badly while a fresh import had none (56 ms, then 2)
UNINDEXED = """
SELECT seq, id, role, speaker, content, created_at FROM messages
WHERE user_id = $1 AND conversation_id = $2 AND seq > $3 AND role <> 'system' AND seq NOT IN (
    SELECT seq FROM episodes WHERE user_id = $1 AND conversation_id = $2 AND seq > $3 AND embedding IS NOT NULL
)
ORDER BY seq LIMIT $4
"""


async def _index(database: Database, embedder: Embedder, work: _Work, config: LearnConfig) -> None:
    async with database.as_user(work.user_id) as connection:
        rows = await connection.fetch(UNINDEXED, work.user_id, work.conversation_id, work.watermark, config.index_limit)
    for start in range(0, len(rows), config.index_batch):
        part = [Said(*row) for row in rows[start : start + config.index_batch]]
        vectors = await embedder.embed([indexing.embedding_text(m.speaker, m.role, m.text) for m in part])
        episodes = [
            indexing.EpisodeRow(
                work.conversation_id, m.seq, m.message_id, m.role, m.speaker, m.text, m.said_at, work.route, vector
            )
            for m, vector in zip(part, vectors, strict=True)
        ]
        async with database.as_user(work.user_id) as connection:
            kept = {m.message_id for m in await tombstones.remembered(connection, work.user_id, part)}
            if not await _still_there(connection, work):
                return
            fresh = [episode for episode in episodes if episode.message_id in kept]
            EPISODES.inc(await indexing.index_messages(connection, work.user_id, fresh, time_zone=work.time_zone))


async def _still_there(connection: Connection, work: _Work) -> bool:
    """Whether the conversation exists; held so until the transaction ends, so that a deletion comes before or after it."""
    return bool(
        await connection.fetchval(
            "SELECT 1 FROM conversations WHERE user_id = $1 AND id = $2 AND deleted_at IS NULL FOR SHARE",
            work.user_id,
            work.conversation_id,
        )
    )


# --- when it does not work


async def _quarantine(database: Database, work: _Work, last: int) -> Learnt:
    """Step over messages that can't be learnt from, and keep where they are for the operator."""
    async with database.as_user(work.user_id) as connection:
        behind = await _advance(connection, work, last)
        if behind is None:
            return Learnt("lost")
        await connection.execute(
            """INSERT INTO quarantine (user_id, conversation_id, from_seq, to_seq, reason) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (user_id, conversation_id, from_seq) DO UPDATE SET to_seq = excluded.to_seq, reason = excluded.reason""",
            work.user_id,
            work.conversation_id,
            work.watermark + 1,
            last,
            work.last_error or "interrupted",
        )
    log.error(
        "learning_quarantined",
        conversation_id=str(work.conversation_id),
        from_seq=work.watermark + 1,
        to_seq=last,
        reason=work.last_error,
    )
    return Learnt("quarantined", last - work.watermark, more=behind)


GIVE_BACK = """
UPDATE conversations SET learn_attempts = greatest(learn_attempts - $4, 0), learning_until = NULL, learn_error = coalesce($5, learn_error)
WHERE user_id = $1 AND id = $2 AND learnt_seq = $3
"""
DELAY = """
INSERT INTO outbox (user_id, conversation_id, not_before, delays)
SELECT $1, $2, now() + $3 * interval '1 second', 1
ON CONFLICT (user_id, conversation_id) DO UPDATE SET dispatched_at = NULL, delays = outbox.delays + 1,
    not_before = now() + least($3 * power(2, least(outbox.delays, 12)), $4) * interval '1 second'
"""


async def _give_back(database: Database, work: _Work) -> None:
    async with database.as_user(work.user_id) as connection:
        await connection.execute(GIVE_BACK, work.user_id, work.conversation_id, work.watermark, 1, None)
        await connection.execute(
            "UPDATE outbox SET dispatched_at = NULL WHERE user_id = $1 AND conversation_id = $2",
            work.user_id,
            work.conversation_id,
        )


async def _postpone(database: Database, work: _Work, config: LearnConfig, reason: str) -> None:
    """No model can answer: not the text's fault, so it is no attempt; tried again later, and later each time."""
    log.warning("learning_postponed", conversation_id=str(work.conversation_id), reason=reason)
    async with database.as_user(work.user_id) as connection:
        await connection.execute(GIVE_BACK, work.user_id, work.conversation_id, work.watermark, 1, None)
        await connection.execute(
            DELAY, work.user_id, work.conversation_id, config.away_seconds, config.away_most_seconds
        )


async def _note_failure(database: Database, work: _Work, config: LearnConfig, reason: str) -> None:
    log.warning("learning_failed", conversation_id=str(work.conversation_id), attempt=work.attempts, reason=reason)
    delay = config.retry_seconds * 2.0 ** (work.attempts - 1)
    async with database.as_user(work.user_id) as connection:
        await connection.execute(GIVE_BACK, work.user_id, work.conversation_id, work.watermark, 0, reason)
        await connection.execute(DELAY, work.user_id, work.conversation_id, delay, delay)
