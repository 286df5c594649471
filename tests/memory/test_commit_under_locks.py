"""A statement that has to wait for a row which others hold does all of what it does, or nothing.

PostgreSQL looks at such a row again (EvalPlanQual) in the middle of the statement: what the rest of it sees must not
change by that. Seen under `make faults`: a turn completed, its sequence number taken, and no reply.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from memory import transcript, turns
from memory.gates import Gate
from memory.postgres import Connection, Database, PoolConfig
from memory.transcript import Owner
from memory.turns import NewTurn, Reply

GATE = Gate(("general",))


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(PoolConfig(database_url, size=4))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def owner() -> Owner:
    return Owner(uuid4(), "tests", f"user-{uuid4().hex[:8]}")


@pytest_asyncio.fixture
async def turn(database: Database, owner: Owner) -> NewTurn:
    async with database.as_user(owner.user_id) as connection:
        conversation = (await transcript.create_conversation(connection, owner, uuid4(), route="general")).id
    new = NewTurn(owner.user_id, conversation, uuid4(), uuid4(), "hello", b"x")
    async with database.as_user(owner.user_id) as connection:
        await turns.accept(connection, new, GATE, 60)
    return new


async def while_held(database: Database, statement: str, args: tuple[Any, ...], work: Any) -> Any:
    """Let `work` begin while another transaction holds a row that it changes, and end when that one has committed."""
    async with database.system() as holder:
        await holder.execute(statement, *args)
        waiting = asyncio.create_task(work)
        await asyncio.sleep(0.3)
        assert not waiting.done()
    return await waiting


LEARNER = "UPDATE conversations SET learning_until = clock_timestamp() WHERE user_id = $1 AND id = $2"
KEEPER = "UPDATE turns SET lease_until = clock_timestamp() + interval '1 minute' WHERE user_id = $1 AND id = $2"


async def stored(connection: Connection, turn: NewTurn) -> list[tuple[str, str]]:
    found = await transcript.list_messages(connection, turn.user_id, turn.conversation_id, 10)
    return [(message.role, message.content) for message in found]


async def commit(database: Database, turn: NewTurn) -> int:
    reply = Reply(uuid4(), "Hello yourself", "stop", "scripted", "script", scripted=True)
    async with database.as_user(turn.user_id) as connection:
        committed = await turns.commit(connection, turn.user_id, turn.turn_id, 1, reply)
    assert committed is not None
    return committed.seq


async def test_a_reply_is_stored_though_the_learner_holds_its_conversation(database: Database, turn: NewTurn) -> None:
    seq = await while_held(database, LEARNER, (turn.user_id, turn.conversation_id), commit(database, turn))
    assert seq == 2
    async with database.as_user(turn.user_id) as connection:
        assert await stored(connection, turn) == [("user", "hello"), ("assistant", "Hello yourself")]


async def test_a_reply_is_stored_though_its_lease_is_being_renewed(database: Database, turn: NewTurn) -> None:
    assert await while_held(database, KEEPER, (turn.user_id, turn.turn_id), commit(database, turn)) == 2
    async with database.as_user(turn.user_id) as connection:
        assert await stored(connection, turn) == [("user", "hello"), ("assistant", "Hello yourself")]


async def test_a_message_is_stored_though_the_learner_holds_its_conversation(database: Database, turn: NewTurn) -> None:
    await commit(database, turn)

    async def accept() -> turns.Accepted:
        new = NewTurn(turn.user_id, turn.conversation_id, uuid4(), uuid4(), "and then?", b"y")
        async with database.as_user(turn.user_id) as connection:
            return await turns.accept(connection, new, GATE, 60)

    accepted = await while_held(database, LEARNER, (turn.user_id, turn.conversation_id), accept())
    assert accepted.seq == 3
    async with database.as_user(turn.user_id) as connection:
        found = await turns.read_turn(connection, turn.user_id, turn.conversation_id, accepted.turn_id)
        assert (found.status, found.user_seq) == ("running", 3)


@pytest.mark.parametrize("table", ["messages", "users", "turns", "conversations"])
async def test_a_row_that_was_waited_for_is_changed(database: Database, turn: NewTurn, table: str) -> None:
    """Of every table: a policy that hides such a row hides it from every statement."""
    change = f"UPDATE {table} SET user_id = user_id WHERE user_id = $1"

    async def work() -> str:
        async with database.as_user(turn.user_id) as connection:
            return str(await connection.execute(change, turn.user_id))

    assert await while_held(database, change, (turn.user_id,), work()) == "UPDATE 1"


async def test_no_policy_has_a_subquery(superuser_url: str) -> None:
    """For tables that are empty here, and for those to come."""
    connection = await asyncpg.connect(superuser_url)
    try:
        rows = await connection.fetch(
            "SELECT tablename, coalesce(qual, '') || coalesce(with_check, '') AS text FROM pg_policies"
        )
    finally:
        await connection.close()
    assert rows
    assert [row["tablename"] for row in rows if "SELECT" in row["text"]] == []
