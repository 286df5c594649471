"""Another embedding model, online: its vectors are made beside the old ones, compared, switched to, and back.

Both models' vectors can be searched all the while. What is done stands in the rows themselves, so that it can be killed
anywhere and begun again: a row without a vector of the new model still needs one. The switch is one transaction; the
way back is the same (docs/decisions/two-vectors-a-row.md).
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple
from uuid import UUID

import asyncpg

from memory.errors import LongTermMemoryError
from memory.indexing import dense, embedding_text
from memory.many import make_cells
from memory.models import Model, read_models
from memory.ports import Embedder
from memory.postgres import Connection, Database, be_patient
from memory.statements import COLUMNS

WIDEST = 4_000
"""Numbers a vector: half precision of more does not fit into a row's page."""
BATCH = 64
USERS = 500
PATIENCE = 600.0

Progress = Callable[[int], None]


class ReembeddingError(LongTermMemoryError):
    """The model can't be changed so; the message says what stands in the way."""


class Waiting(NamedTuple):
    """Something without a vector of the new model."""

    id: UUID
    text: str


async def begin(database: Database, name: str, dimensions: int, source: str) -> Model:
    """Make room for the model's vectors, or go on with what was begun. Raises `ReembeddingError`."""
    if not 0 < dimensions <= WIDEST:
        raise ReembeddingError(
            f"{name} makes vectors of {dimensions} numbers; {WIDEST} fit, and more than none must be."
        )
    async with database.system() as connection:
        models = await _locked(connection)
        if models["current"].name == name:
            raise ReembeddingError(f"The memories' vectors are of {name} already.")
        other = models.get("filling") or models.get("previous")
        if other is not None and other.name == name:
            if other.dimensions != dimensions:
                raise ReembeddingError(
                    f"{name} makes vectors of {dimensions} numbers, and those made of it before have {other.dimensions}."
                    " It is another model under the same name: drop the old vectors with --drop first."
                )
            await connection.execute(
                "UPDATE embedding_models SET state = 'filling', source = $2 WHERE name = $1", name, source
            )
            return (await read_models(connection))["filling"]
        if other is not None:
            raise ReembeddingError(
                f"There is room for two models, and vectors of {other.name} are kept ({other.state}):"
                " drop them with --drop first."
            )
    slot = 3 - models["current"].slot
    await clear(database, slot)  # what an interrupted drop has left
    async with database.system() as connection:
        await connection.execute(
            "INSERT INTO embedding_models (name, dimensions, slot, state, source) VALUES ($1, $2, $3, 'filling', $4)",
            name,
            dimensions,
            slot,
            source,
        )
        return (await read_models(connection))["filling"]


async def _locked(connection: Connection) -> dict[str, Model]:
    await connection.execute("LOCK embedding_models IN SHARE ROW EXCLUSIVE MODE")
    return await read_models(connection)


async def fill(database: Database, embedder: Embedder, model: Model, progress: Progress | None = None) -> int:
    """Give everything that has none a vector of the model; gives how many. One pass: what comes meanwhile may be missed."""
    done = 0
    async for user_id in _users(database):
        for layer in (_Episodes(model), _Facts(model)):
            after: UUID | None = None
            while rows := await layer.waiting(database, user_id, after):
                after = rows[-1].id
                vectors = await embedder.embed([row.text for row in rows])
                done += await layer.write(database, user_id, rows, [dense(vector) for vector in vectors])
                if progress is not None:
                    progress(done)
    return done


async def _users(database: Database) -> AsyncIterator[UUID]:
    after: UUID | None = None
    while True:
        async with database.system() as connection:
            rows = await connection.fetch(
                """SELECT DISTINCT user_id FROM (
                    SELECT user_id FROM users UNION SELECT user_id FROM term_counts WHERE term = 0
                ) AS everybody WHERE $1::uuid IS NULL OR user_id > $1 ORDER BY user_id LIMIT $2""",
                after,
                USERS,
            )
        for row in rows:
            yield row["user_id"]
        if len(rows) < USERS:
            return
        after = rows[-1]["user_id"]


class _Layer:
    """What is the same for messages and facts: read, embed outside of any transaction, write what still says the same."""

    read: str
    again: str
    fill: str

    def __init__(self, model: Model) -> None:
        self._column = COLUMNS[model.slot][0]

    async def waiting(self, database: Database, user_id: UUID, after: UUID | None) -> list[Waiting]:
        async with database.as_user(user_id) as connection:
            rows = await connection.fetch(self.read.format(column=self._column), user_id, after, BATCH)
        return [Waiting(row["id"], self.text(row)) for row in rows]

    async def write(self, database: Database, user_id: UUID, rows: Sequence[Waiting], vectors: Sequence[str]) -> int:
        async with database.as_user(user_id) as connection:
            # forgetting locks it too: these vectors are of words that are still there, or they are not written
            await connection.execute("SELECT FROM users WHERE user_id = $1 FOR SHARE", user_id)
            ids = [row.id for row in rows]
            found = await connection.fetch(self.again.format(column=self._column), user_id, ids)
            now = {row["id"]: self.text(row) for row in found}
            same = [(row.id, vector) for row, vector in zip(rows, vectors, strict=True) if now.get(row.id) == row.text]
            if same:
                await connection.execute(
                    self.fill.format(column=self._column), user_id, [one for one, _ in same], [v for _, v in same]
                )
            return len(same)

    def text(self, row: asyncpg.Record) -> str:
        raise NotImplementedError


class _Episodes(_Layer):
    _SELECT = """SELECT e.message_id AS id, e.speaker, e.role, coalesce(m.content, e.text) AS text FROM episodes e
        LEFT JOIN messages m ON m.user_id = $1 AND m.conversation_id = e.conversation_id AND m.seq = e.seq
            AND m.id = e.message_id
        WHERE e.user_id = $1 AND e.{column} IS NULL"""
    read = _SELECT + " AND ($2::uuid IS NULL OR e.message_id > $2) ORDER BY e.message_id LIMIT $3"
    again = _SELECT + " AND e.message_id = ANY ($2::uuid[])"
    fill = """UPDATE episodes e SET {column} = v.vector FROM (
            SELECT id, substr(vector, strpos(vector, '['))::halfvec AS vector FROM unnest($2::uuid[], $3::text[]) AS u(id, vector)
        ) AS v WHERE e.user_id = $1 AND e.message_id = v.id AND e.{column} IS NULL"""

    def text(self, row: asyncpg.Record) -> str:
        return embedding_text(row["speaker"], row["role"], row["text"])


class _Facts(_Layer):
    _SELECT = "SELECT id, text FROM facts WHERE user_id = $1 AND {column} IS NULL AND status IN ('active', 'uncertain')"
    read = _SELECT + " AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3"
    again = _SELECT + " AND id = ANY ($2::uuid[])"
    fill = """UPDATE facts f SET {column} = v.vector FROM (
            SELECT id, substr(vector, strpos(vector, '['))::halfvec AS vector FROM unnest($2::uuid[], $3::text[]) AS u(id, vector)
        ) AS v WHERE f.user_id = $1 AND f.id = v.id AND f.{column} IS NULL"""

    def text(self, row: asyncpg.Record) -> str:
        return str(row["text"])


async def fill_cells(database: Database, model: Model) -> int:
    """Cells of the model's vectors, for users who are searched through them; gives how many users."""
    async with database.system() as connection:
        rows = await connection.fetch(
            """SELECT user_id FROM users u WHERE many_memories
            AND NOT EXISTS (SELECT FROM memory_cells m WHERE m.user_id = u.user_id AND m.slot = $1)""",
            model.slot,
        )
    return sum([bool(await make_cells(database, row["user_id"], model.slot)) for row in rows])


async def left(database: Database, model: Model) -> int:
    """What has a vector of the other model and none of this one."""
    column, other = COLUMNS[model.slot][0], COLUMNS[3 - model.slot][0]
    async with database.system() as connection:
        await be_patient(connection, PATIENCE)
        return int(
            await connection.fetchval(
                f"""SELECT (SELECT count(*) FROM episodes WHERE {column} IS NULL AND {other} IS NOT NULL)
                    + (SELECT count(*) FROM facts WHERE {column} IS NULL AND {other} IS NOT NULL
                        AND status IN ('active', 'uncertain'))""",
                timeout=PATIENCE,
            )
        )


async def switch(database: Database, name: str) -> None:
    """Search and write with this model from now on; the other one's vectors are kept."""
    async with database.system() as connection:
        models = await _locked(connection)
        if models["current"].name == name:
            return
        if "filling" not in models or models["filling"].name != name:
            raise ReembeddingError(f"No vectors of {name} are ready.")
        await _turn_over(connection, models["current"], models["filling"], "previous")


async def switch_back(database: Database) -> Model:
    """Search and write with the previous model again; gives it. The newer one's vectors are kept, to go on with."""
    async with database.system() as connection:
        models = await _locked(connection)
        if "previous" not in models:
            raise ReembeddingError("There is no previous model to go back to.")
        await _turn_over(connection, models["current"], models["previous"], "filling")
        return (await read_models(connection))["current"]


async def _turn_over(connection: Connection, old: Model, new: Model, becomes: str) -> None:
    # one after the other: only one row may be current at any moment
    statement = "UPDATE embedding_models SET state = $2, since = now() WHERE name = $1"
    await connection.execute("DELETE FROM embedding_models WHERE name = $1", old.name)
    await connection.execute(statement, new.name, "current")
    await connection.execute(
        "INSERT INTO embedding_models (name, dimensions, slot, state, source) VALUES ($1, $2, $3, $4, $5)",
        old.name,
        old.dimensions,
        old.slot,
        becomes,
        old.source,
    )


async def drop(database: Database) -> str:
    """Drop the vectors of the model that isn't current; gives its name. Raises `ReembeddingError`."""
    async with database.system() as connection:
        models = await _locked(connection)
        other = models.get("filling") or models.get("previous")
        slot = 3 - models["current"].slot
        if other is not None:  # from here on nobody writes vectors of it
            await connection.execute("DELETE FROM embedding_models WHERE name = $1", other.name)
    cleared = await clear(database, slot)
    if other is None and not cleared:
        raise ReembeddingError("Only the current model has vectors.")
    return other.name if other is not None else "a model that was dropped before"


async def clear(database: Database, slot: int) -> int:
    """Empty a place for vectors, a user at a time; gives how many rows had one."""
    column, cell = COLUMNS[slot]
    async with database.system() as connection:
        await be_patient(connection, PATIENCE)
        there = await connection.fetchval(
            f"""SELECT EXISTS (SELECT FROM episodes WHERE {column} IS NOT NULL)
                OR EXISTS (SELECT FROM facts WHERE {column} IS NOT NULL)
                OR EXISTS (SELECT FROM memory_cells WHERE slot = $1)""",
            slot,
            timeout=PATIENCE,
        )
    done = 0
    if there:
        async for user_id in _users(database):
            async with database.as_user(user_id) as connection:
                await be_patient(connection, PATIENCE)
                for statement in (
                    f"UPDATE episodes SET {column} = NULL, {cell} = NULL WHERE user_id = $1 AND {column} IS NOT NULL",
                    f"UPDATE facts SET {column} = NULL WHERE user_id = $1 AND {column} IS NOT NULL",
                    f"DELETE FROM memory_cells WHERE user_id = $1 AND slot = {slot}",
                ):
                    done += int((await connection.execute(statement, user_id, timeout=PATIENCE)).split()[-1])
    return done
