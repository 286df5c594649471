"""Renewing thousands of leases costs as much for each as renewing one, and waits for nobody."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest_asyncio

from memory import leases, transcript, turns
from memory.gates import Gate
from memory.postgres import Database, PoolConfig
from memory.transcript import Owner
from memory.turns import NewTurn

GATE = Gate(("general",))
UNTIL = "SELECT extract(epoch FROM lease_until - clock_timestamp())::float8 FROM turns WHERE id = $1"


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(PoolConfig(database_url, size=4))
    await opened.open()
    yield opened
    await opened.close()


async def running(database: Database) -> tuple[UUID, UUID, int, None]:
    """A turn that is being written, as its writer renews it."""
    owner = Owner(uuid4(), "tests", f"user-{uuid4().hex[:8]}")
    async with database.as_user(owner.user_id) as connection:
        conversation = (await transcript.create_conversation(connection, owner, uuid4(), route="general")).id
    turn = NewTurn(owner.user_id, conversation, uuid4(), uuid4(), "hello", b"x")
    async with database.as_user(owner.user_id) as connection:
        await turns.accept(connection, turn, GATE, 30)
    return owner.user_id, turn.turn_id, 1, None


async def left(database: Database, turn_id: UUID) -> float:
    async with database.system() as connection:
        return float(await connection.fetchval(UNTIL, turn_id))


async def test_a_row_that_somebody_holds_keeps_no_other_lease_waiting(database: Database) -> None:
    held, free = await running(database), await running(database)
    async with database.system() as eraser:
        await eraser.execute("SELECT FROM turns WHERE id = $1 FOR UPDATE", held[1])
        async with asyncio.timeout(5), database.system() as connection:
            answered = await leases.renew(connection, [held, free], 300)
        told = {row.turn_id: row.written for row in answered}
        assert told == {held[1]: False, free[1]: True}, "a locked row is nobody else's"
        assert await left(database, free[1]) > 200
        assert await left(database, held[1]) < 60
    async with database.system() as connection:
        await leases.renew(connection, [held, free], 300)
    assert await left(database, held[1]) > 200


async def test_a_renewal_never_shortens_a_lease_and_tells_what_is_another_s(database: Database) -> None:
    turn = await running(database)
    async with database.system() as connection:
        assert len(await leases.renew(connection, [turn], 300)) == 1
    async with database.system() as connection:
        assert len(await leases.renew(connection, [turn], 1.5)) == 1
    assert await left(database, turn[1]) > 200
    async with database.system() as connection:
        assert await leases.renew(connection, [(turn[0], turn[1], 2, None)], 300) == []


async def test_what_a_renewal_writes_is_in_no_index(database: Database) -> None:
    """Else each renewal leaves an entry in every index of the table, which all later ones read (migration 0020)."""
    async with database.system() as connection:
        indexed = await connection.fetch(
            """SELECT DISTINCT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid
            AND (a.attnum = ANY(i.indkey) OR pg_get_indexdef(i.indexrelid) ~ ('\\m' || a.attname || '\\M'))
            WHERE i.indrelid = 'turns'::regclass"""
        )
    names = {row["attname"] for row in indexed}
    assert {"user_id", "status"} <= names
    assert not names & {"lease_until", "checkpoint", "attempts"}


async def test_hundreds_are_looked_up_one_by_one(database: Database) -> None:
    """In a table that nobody has analysed yet: a plan for an empty one compared each held turn with all that run."""
    many = [await running(database) for _ in range(150)]
    users, ids, epochs, checkpoints = map(list, zip(*many, strict=True))
    async with database.system() as connection:
        await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {leases.RENEW}"
        plan = await connection.fetchval(explain, users, ids, epochs, checkpoints, 300, [], [])
    assert most_rows(json.loads(plan)[0]["Plan"]) <= 40 * len(many)


def most_rows(node: dict[str, Any]) -> float:
    """Which the busiest node of a plan looked at, kept or not."""
    looked: float = sum(
        node.get(name, 0) for name in ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter")
    )
    return max(looked * float(node["Actual Loops"]), *(most_rows(child) for child in node.get("Plans", [])), 0.0)
