"""What a stretch of conversation says: its messages made recallable, a model asked about them, its answer checked and written."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from memory import consolidation, evidence, extraction, indexing, lessons, summaries, tombstones
from memory.branching import keep_to_way
from memory.errors import EmbedderUnavailableError
from memory.evidence import Refused, Setting, Supported
from memory.extraction import Said
from memory.lessons import Lesson
from memory.metrics import EPISODES
from memory.ports import Embedder, Reasoner, Vectors
from memory.postgres import Connection, Database
from memory.vault import index_key


@dataclass(frozen=True, slots=True)
class Reading:
    """What `memory.learning.LearnConfig` says of it."""

    index_batch: int
    index_limit: int
    judge: bool


@dataclass(frozen=True, slots=True)
class Understood:
    """What a stretch of messages says, checked and prepared; written nowhere yet."""

    facts: list[consolidation.NewFact]
    verdicts: consolidation.Verdicts
    refused: Counter[str]


async def understand(
    database: Database,
    reasoner: Reasoner,
    embedder: Embedder,
    lesson: Lesson,
    rows: Sequence[asyncpg.Record],
    reading: Reading,
) -> Understood:
    """Make the messages recallable, ask the model about them, and let the gate decide on its answer."""
    await make_recallable(database, embedder, lesson, reading)
    async with database.as_user(lesson.user_id) as connection:
        index = await index_key(connection, lesson.user_id)
    said = [Said(*tuple(row)[:-1]) for row in rows if row["role"] != "system" and not row["replaced"]]
    asked = await extraction.extract(reasoner, said) if said else extraction.NOTHING
    supported, refused = judge_claims(asked, said, lesson.time_zone, lesson.companion)
    facts = await consolidation.prepare(
        embedder, index, lesson.conversation_id, lesson.route, lesson.companion, supported
    )
    verdicts = await _verdicts(database, reasoner, lesson, facts) if reading.judge else {}
    return Understood(facts, verdicts, refused)


async def settle(connection: Connection, lesson: Lesson, understood: Understood) -> Counter[str]:
    """Write it, in the transaction that says that the messages were learnt from, and behind the lock on their owner."""
    # asked behind that lock: whoever forgets comes before it or after the facts are there
    facts = await tombstones.teachable(connection, lesson.user_id, understood.facts)
    settled = await consolidation.settle(connection, lesson.user_id, lesson.route, facts, understood.verdicts)
    if settled:
        # what other companions of the user show is written anew when it is next read
        await connection.execute(
            "DELETE FROM profiles WHERE user_id = $1 AND route = $2 AND companion <> $3",
            lesson.user_id,
            lesson.route,
            lesson.companion,
        )
        await summaries.rebuild_profile(connection, lesson.user_id, lesson.route, lesson.companion)
    return settled


def judge_claims(
    asked: extraction.Extraction, said: Sequence[Said], time_zone: str, companion: str
) -> tuple[list[Supported], Counter[str]]:
    """Let the gate decide on every claim; gives the supported ones, and how many were refused for what."""
    names = {companion, *(message.speaker or "" for message in said)} - {""}
    setting = Setting(time_zone, tuple(sorted(names)), companion)
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
    database: Database, reasoner: Reasoner, lesson: Lesson, facts: list[consolidation.NewFact]
) -> consolidation.Verdicts:
    if not facts:
        return {}
    async with database.as_user(lesson.user_id) as connection:
        known = await consolidation.read_current(connection, lesson.user_id, lesson.route)
    return await consolidation.ask_about(reasoner, consolidation.undecided(facts, known))


# --- episodes: recallable before, and whether or not, a model has read them

# NOT IN is hashed whatever the statistics say; a join was planned badly while a fresh import had none (56 ms, then 2)
UNINDEXED = """
SELECT seq, id, role, speaker, content, created_at FROM messages
WHERE user_id = $1 AND conversation_id = $2 AND seq > $3 AND role <> 'system' AND seq NOT IN (
    SELECT seq FROM episodes WHERE user_id = $1 AND conversation_id = $2 AND seq > $3 AND embedding IS NOT NULL
)
ORDER BY seq LIMIT $4
"""


async def make_recallable(database: Database, embedder: Embedder, lesson: Lesson, reading: Reading) -> None:
    """Without a model for vectors the messages are made recallable by their words, and the lesson comes again later:
    the watermark stays, so that whoever comes then finds them without a vector."""
    batch = reading.index_batch
    away: EmbedderUnavailableError | None = None
    async with database.as_user(lesson.user_id) as connection:
        rows = await connection.fetch(
            UNINDEXED, lesson.user_id, lesson.conversation_id, lesson.watermark, reading.index_limit
        )
    for start in range(0, len(rows), batch):
        part = [Said(*row) for row in rows[start : start + batch]]
        try:
            vectors: Sequence[Vectors | None] = list(
                await embedder.embed([indexing.embedding_text(m.speaker, m.role, m.text) for m in part])
            )
        except EmbedderUnavailableError as error:
            vectors, away = [None] * len(part), error
        episodes = [
            indexing.EpisodeRow(
                lesson.conversation_id, m.seq, m.message_id, m.role, m.speaker, m.text, m.said_at, lesson.route, vector
            )
            for m, vector in zip(part, vectors, strict=True)
        ]
        async with database.as_user(lesson.user_id) as connection:
            kept = {m.message_id for m in await tombstones.remembered(connection, lesson.user_id, part)}
            if not await lessons.still_there(connection, lesson):
                return
            fresh = [episode for episode in episodes if episode.message_id in kept]
            EPISODES.inc(await indexing.index_messages(connection, lesson.user_id, fresh, time_zone=lesson.time_zone))
            if start + batch >= len(rows):
                # what was said beside the way is made recallable too, and put aside: it may be chosen again
                await keep_to_way(connection, lesson.user_id, lesson.conversation_id, after=lesson.watermark)
    if away is not None:
        raise away
