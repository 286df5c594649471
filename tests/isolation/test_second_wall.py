"""Row-level security, asked with the predicate forgotten: the wall behind the one that every statement carries."""

import random
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from memory.postgres import Database, PoolConfig

# Rows that belong to nobody: numbers without people, and the service's own clockwork.
SHARED = {"notice_counts", "memory_audits", "schedule", "alembic_version", "backend_spend", "embedding_models"}
OPERATORS_ONLY = {"api_keys"}
QUERIES = 500
POLICY = (
    "(((user_id)::text = current_setting('rapport.user_id'::text, true))"
    " OR (current_setting('rapport.system'::text, true) = 'on'::text))"
)
"""The only policy that tables of people have, as PostgreSQL writes it down."""

TABLES = r"""
SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity AS walled,
    EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'user_id' AND NOT a.attisdropped) AS owned,
    (SELECT array_agg(p.permissive = 'PERMISSIVE' AND p.cmd = 'ALL' AND p.with_check IS NULL AND p.qual = $1)
        FROM pg_policies p WHERE p.tablename = c.relname) AS policies
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1
"""


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(PoolConfig(database_url, size=2, overflow=2, command_timeout=60))
    yield database
    await database.close()


async def seeded(database: Database, people: int = 6, messages: int = 5) -> list[UUID]:
    found = [uuid4() for _ in range(people)]
    async with database.system() as connection:
        await connection.execute(
            """INSERT INTO messages (user_id, conversation_id, seq, id, role, content)
            SELECT person, person, n, gen_random_uuid(), 'user', person::text
            FROM unnest($1::uuid[]) AS person, generate_series(1, $2) AS n""",
            found,
            messages,
        )
    return found


async def test_every_table_of_people_stands_behind_the_wall(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(TABLES, POLICY)
        role = await connection.fetchrow("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user")
    finally:
        await connection.close()
    assert role is not None
    assert tuple(role) == (False, False)
    tables = {row["relname"]: row for row in rows}
    unwalled = {name for name, row in tables.items() if not row["walled"]}
    assert unwalled <= SHARED
    assert {name for name, row in tables.items() if not row["owned"]} <= SHARED | OPERATORS_ONLY
    for name, row in tables.items():
        if row["owned"]:
            assert row["walled"], name
            assert row["policies"] == [True], f"{name} has another policy than its owner's"


async def test_a_forgotten_predicate_shows_nobody_elses_rows(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    people = await seeded(database, 20, 2000)
    chance, checked, foreign = random.Random(7), 0, 0
    for _ in range(QUERIES):
        person = chance.choice(people)
        async with database.as_user(person) as connection:
            rows = await connection.fetch("SELECT user_id FROM messages")
        assert len(rows) == 2000
        checked += len(rows)
        foreign += sum(row["user_id"] != person for row in rows)
    with capsys.disabled():
        print(f"\n{checked:,} rows read without a predicate, {foreign} of somebody else")
    assert checked >= 1_000_000
    assert foreign == 0


PLANT = """
INSERT INTO messages (user_id, conversation_id, seq, id, role, content)
VALUES ($1, $1, 0, gen_random_uuid(), 'user', 'planted')
"""


async def test_a_forgotten_predicate_changes_nobody_elses_rows(database: Database) -> None:
    person, other, *_ = await seeded(database)
    for statement in ("UPDATE messages SET user_id = $1", PLANT):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with database.as_user(person) as connection:
                await connection.execute(statement, other)
    async with database.as_user(person) as connection:
        assert await connection.execute("UPDATE messages SET content = 'changed'") == "UPDATE 5"
        assert await connection.execute("DELETE FROM messages") == "DELETE 5"
    async with database.system() as connection:
        assert await connection.fetchval("SELECT count(*) FROM messages WHERE content IN ('changed', 'planted')") == 0
        assert await connection.fetchval("SELECT count(*) FROM messages") == 25


async def test_without_anybody_there_is_nothing_to_see(database: Database, database_url: str) -> None:
    await seeded(database)
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM messages") == 0
        assert await connection.fetchval("SELECT set_config('rapport.user_id', '', false)") == ""
        assert await connection.fetchval("SELECT count(*) FROM messages") == 0
    finally:
        await connection.close()


async def test_who_somebody_is_does_not_stay_on_the_connection(database: Database, database_url: str) -> None:
    people = await seeded(database)
    alone = Database(PoolConfig(database_url, size=1, overflow=0))
    for person in people:
        async with alone.as_user(person) as connection:
            assert await connection.fetchval("SELECT count(*) FROM messages") == 5
        async with alone.system() as connection:
            assert await connection.fetchval("SELECT count(*) FROM messages") == 30
        async with alone.as_user(uuid4()) as connection:
            assert await connection.fetchval("SELECT count(*) FROM messages") == 0
    await alone.close()
