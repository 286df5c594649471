"""Users with very many memories: theirs are found through cells of vectors and postings of terms, not by reading all.

Up to `READ_ALL` messages reading all of a user's is exact and quick, and an index over everybody's would cost every
insert for nothing. Beyond it, each message is put into the cell whose middle its vector is nearest to (about twice the
root of their number, by k-means over this user's vectors), and its terms into a B-tree; recall then looks into the
nearest cells and reads the postings of the rarest terms (docs/decisions/recall-indexes.md). All of it is the user's own:
nothing is shared with, or slowed by, another user.
"""

from uuid import UUID

import numpy as np
import numpy.typing as npt

from memory.postgres import Connection, Database, be_patient
from memory.scores import Floats
from memory.statements import COLUMNS

READ_ALL = 6_000
"""Messages up to which reading all of them is about as fast as looking them up (docs/recall.md)."""
BATCH = 500
"""Rows marked in one transaction."""
SAMPLE = 20_000
"""Vectors that the middles are learnt from."""
ROUNDS = 8
PATIENCE = 600.0
GROWN = 3
"""How many times as many messages as its cells were made for bring a user new cells."""

WHO = """
SELECT c.user_id FROM term_counts c JOIN users u ON u.user_id = c.user_id
WHERE c.term = 0 AND c.episodes > $1 AND (NOT u.many_memories OR c.episodes > $2 * coalesce(
    (SELECT (count(*) / 2.0) ^ 2 FROM memory_cells m WHERE m.user_id = c.user_id
        AND m.slot = (SELECT slot FROM embedding_models WHERE state = 'current')), 0))
"""
CURRENT = "SELECT slot FROM embedding_models WHERE state = 'current'"
# writers of the user's episodes update the count of them: holding it, nothing new slips by
HOLD = "SELECT FROM term_counts WHERE user_id = $1 AND term = 0 FOR UPDATE"
TELL = """
UPDATE users SET many_memories = true
WHERE user_id = $1 AND NOT EXISTS (SELECT FROM episodes WHERE user_id = $1 AND NOT many)
RETURNING 1
"""
POST = """
WITH marked AS (
    UPDATE episodes SET many = true WHERE user_id = $1 AND message_id IN
        (SELECT message_id FROM episodes WHERE user_id = $1 AND NOT many LIMIT $2 FOR UPDATE)
    RETURNING message_id, lexical
), posted AS (
    INSERT INTO postings (user_id, term, message_id, weight)
    SELECT $1, found.term, marked.message_id, found.weight FROM marked, terms_of(marked.lexical) AS found
    ON CONFLICT DO NOTHING
)
SELECT count(*) FROM marked
"""

# one update of a row instead of two: it is large, and every update writes it anew
PLACE = """
WITH marked AS (
    UPDATE episodes e SET {cell} = moved.cell, many = true
    FROM unnest($2::uuid[], $3::int[]) AS moved(message_id, cell), episodes was
    WHERE e.user_id = $1 AND e.message_id = moved.message_id AND was.user_id = $1 AND was.message_id = e.message_id
    RETURNING e.message_id, e.lexical, was.many
)
INSERT INTO postings (user_id, term, message_id, weight)
SELECT $1, found.term, marked.message_id, found.weight FROM marked, terms_of(marked.lexical) AS found
WHERE NOT marked.many ON CONFLICT DO NOTHING
"""


async def index_many(database: Database, *, read_all: int = READ_ALL) -> int:
    """Make the indexes of users that have outgrown reading, or their cells; gives how many. For quiet hours."""
    async with database.system() as connection:
        await be_patient(connection, PATIENCE)
        grown = [row["user_id"] for row in await connection.fetch(WHO, read_all, GROWN, timeout=PATIENCE)]
        slot = int(await connection.fetchval(CURRENT))
    for user_id in grown:
        await make_cells(database, user_id, slot)
        await _mark(database, user_id)
    return len(grown)


async def _mark(database: Database, user_id: UUID) -> None:
    while True:
        async with database.as_user(user_id) as connection:
            if await connection.fetchval(POST, user_id, BATCH):
                continue
            if not await connection.fetch(HOLD, user_id) or await connection.fetchval(TELL, user_id):
                return  # all are in, or they were all forgotten meanwhile


async def make_cells(database: Database, user_id: UUID, slot: int) -> int:
    """Make new cells of the user's vectors and move the messages into them; gives how many cells.

    Search goes on meanwhile: old and new middles are looked at together until the last message has moved. A process
    that dies in the middle leaves both, and the next run begins behind them.
    """
    embedding, _ = COLUMNS[slot]
    async with database.as_user(user_id) as connection:
        await be_patient(connection, PATIENCE)
        first, count = await connection.fetchrow(  # type: ignore[misc]
            f"""SELECT coalesce((SELECT max(cell) + 1 FROM memory_cells WHERE user_id = $1 AND slot = $2), 0),
                (SELECT count({embedding}) FROM episodes WHERE user_id = $1)""",
            user_id,
            slot,
        )
        rows = await connection.fetch(
            f"""SELECT halfvec_send({embedding}) FROM episodes
            WHERE user_id = $1 AND {embedding} IS NOT NULL ORDER BY random() LIMIT $2""",
            user_id,
            SAMPLE,
            timeout=PATIENCE,
        )
    if not rows:
        return 0
    middles = learn_middles(_vectors([row[0] for row in rows]), max(1, round(2 * count**0.5)))
    async with database.as_user(user_id) as connection:
        await connection.executemany(
            "INSERT INTO memory_cells (user_id, slot, cell, middle) VALUES ($1, $2, $3, $4::text::halfvec)",
            [(user_id, slot, first + n, str(middle.tolist())) for n, middle in enumerate(middles)],
        )
    while await _move(database, user_id, slot, first, middles):
        pass
    return len(middles)


async def _move(database: Database, user_id: UUID, slot: int, first: int, middles: Floats) -> int:
    """Put some messages into the new cells; with the last one, the old cells go."""
    embedding, cell = COLUMNS[slot]
    waiting = f"user_id = $1 AND {embedding} IS NOT NULL AND ({cell} IS NULL OR {cell} < $2)"
    async with database.as_user(user_id) as connection:
        rows = await connection.fetch(
            f"""SELECT message_id, halfvec_send({embedding}) FROM episodes WHERE {waiting} LIMIT $3 FOR UPDATE""",
            user_id,
            first,
            BATCH,
        )
        if rows:
            nearest = (_vectors([row[1] for row in rows]) @ middles.T).argmax(axis=1) + first
            await connection.execute(
                PLACE.format(cell=cell), user_id, [row["message_id"] for row in rows], nearest.tolist()
            )
        else:
            await _drop_old(connection, user_id, slot, first, waiting)
        return len(rows)


async def _drop_old(connection: Connection, user_id: UUID, slot: int, first: int, waiting: str) -> None:
    await connection.fetch(HOLD, user_id)
    if not await connection.fetchval(f"SELECT EXISTS (SELECT FROM episodes WHERE {waiting} AND many)", user_id, first):
        await connection.execute(
            "DELETE FROM memory_cells WHERE user_id = $1 AND slot = $2 AND cell < $3", user_id, slot, first
        )


def _vectors(sent: list[bytes]) -> Floats:
    """Half-precision vectors as PostgreSQL sends them: the width, two spare bytes, the numbers."""
    rows = np.frombuffer(b"".join(sent), ">f2").reshape(len(sent), -1)
    return rows[:, 2:].astype(np.float32)


def learn_middles(vectors: Floats, count: int) -> Floats:
    """Middles of `count` cells of unit vectors, by spherical k-means from a fixed start."""
    count = min(count, len(vectors))
    random = np.random.default_rng(7)
    middles: Floats = vectors[random.choice(len(vectors), count, replace=False)].copy()
    for _ in range(ROUNDS):
        nearest: npt.NDArray[np.intp] = np.concatenate(
            [(vectors[start : start + 2_000] @ middles.T).argmax(axis=1) for start in range(0, len(vectors), 2_000)]
        )
        sums = np.zeros_like(middles)
        np.add.at(sums, nearest, vectors)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        # an empty cell begins anew at some vector
        empty = np.flatnonzero(lengths[:, 0] < 1e-6)
        sums[empty] = vectors[random.choice(len(vectors), len(empty))]
        lengths[empty] = 1
        middles = (sums / lengths).astype(np.float32)
    return middles
