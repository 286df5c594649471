"""A turn that can't be taken over, words that can't be kept, an error of ours: each costs nobody else their reply."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prometheus_client import REGISTRY

from memory import transcript, turns
from memory.gates import Gate
from memory.postgres import Connection, Database, PoolConfig
from memory.transcript import Owner
from memory.turns import ClaimedTurn, NewTurn, StoredTurn
from memory.vault import MasterKey, Vault
from service.auth.local_keys import AGE, SESSION, ensure_key
from service.chat import events as ev
from service.chat.leases import LeaseKeeper
from service.chat.live import LiveReply
from service.chat.logbook import Logbook
from service.runtime import Runtime, open_runtime
from service.settings import Settings
from sessions.logs import LocalReplyLog
from sessions.replies import EMPTY, FIRST, Appended, Log

GATE = Gate(("general",))
BACKENDS = json.dumps([{"name": "scripted", "kind": "scripted"}])
PATIENCE = 60.0
ELSEWHERE = Vault(MasterKey(b"o" * 32, "elsewhere"))


@pytest.fixture
def url(new_database: Callable[..., str]) -> str:
    """Of its own: other instances of this run would take the turns over that are left here."""
    return new_database(migrated=True)


def opened(home: Path, url: str, **more: str) -> AbstractAsyncContextManager[Runtime]:
    for key in (SESSION, AGE):
        ensure_key(home, key)
    settings = {"RAPPORT_HOME": home, "RAPPORT_EMBEDDED": True, "DATABASE_URL": url, "REDIS_ENABLED": False}
    return open_runtime(Settings.model_validate({**settings, "LLM_BACKENDS": BACKENDS, **more}))


@pytest.fixture
async def runtime(tmp_path: Path, url: str) -> AsyncIterator[Runtime]:
    async with opened(tmp_path, url) as runtime:
        yield runtime


@pytest.fixture
async def elsewhere(url: str) -> AsyncIterator[Database]:
    """The database as an instance with another master key has it."""
    database = Database(PoolConfig(url, 1, 1), ELSEWHERE)
    yield database
    await database.close()


async def left(database: Database, *, lease_seconds: float | None = None, turn_id: UUID | None = None) -> NewTurn:
    """A turn that nobody writes: left to a runner, or by a writer who died."""
    owner = Owner(uuid4(), "tests", f"user-{uuid4().hex[:8]}")
    async with database.as_user(owner.user_id) as connection:
        conversation = (await transcript.create_conversation(connection, owner, uuid4(), route="general")).id
        turn = NewTurn(
            owner.user_id,
            conversation,
            turn_id or uuid4(),
            uuid4(),
            "hello",
            b"x",
            request={"instructions": "Be brief."},
            leased=lease_seconds is not None,
        )
        await turns.accept(connection, turn, GATE, lease_seconds or 0.0)
    return turn


async def ended(runtime: Runtime, turn: NewTurn) -> StoredTurn:
    deadline = time.monotonic() + PATIENCE
    while True:
        found = await runtime.chat.read_turn(turn.user_id, turn.conversation_id, turn.turn_id)
        if found.status != "running":
            return found
        assert time.monotonic() < deadline, "nobody wrote the turn"
        await asyncio.sleep(0.05)


def failures(what: str) -> float:
    return REGISTRY.get_sample_value("rapport_turn_loop_failures_total", {"what": what}) or 0.0


async def test_a_turn_whose_key_is_elsewhere_is_left_to_who_has_it(runtime: Runtime, elsewhere: Database) -> None:
    """While a master key is being changed. Claimed together, one turn that did not open undid the claims of all."""
    sealed = await left(elsewhere)
    plain = await left(runtime.database)
    assert (await ended(runtime, plain)).status == "completed"
    async with elsewhere.system() as connection:
        claimed = await turns.claim(connection, 60, 8)
    assert [(turn.turn_id, turn.attempts, turn.epoch) for turn in claimed] == [(sealed.turn_id, 1, 1)]
    async with elsewhere.as_user(sealed.user_id) as connection:
        assert (await turns.open_claimed(connection, claimed[0])).request == {"instructions": "Be brief."}


async def test_the_look_for_turns_outlives_an_error(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, failed = turns.claim, asyncio.Event()

    async def claim(*args: Any, **options: Any) -> list[ClaimedTurn]:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("an error of ours")
        return await real(*args, **options)

    before = failures("claim")
    with caplog.at_level(logging.CRITICAL):
        monkeypatch.setattr(turns, "claim", claim)
        await asyncio.wait_for(failed.wait(), PATIENCE)
        assert (await ended(runtime, await left(runtime.database))).status == "completed"
    assert failures("claim") == before + 1
    assert runtime.background.ended == {}


async def test_a_reader_is_not_cut_off_by_it(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = turns.claim, asyncio.Event()

    async def claim(
        connection: Connection, lease: float, limit: int, turn_id: UUID | None = None, **options: Any
    ) -> list[ClaimedTurn]:
        if turn_id is not None and not asked.is_set():
            asked.set()
            raise RuntimeError("an error of ours")
        return await real(connection, lease, limit, turn_id, **options) if asked.is_set() else []

    monkeypatch.setattr(turns, "claim", claim)
    turn = await left(runtime.database, lease_seconds=0.001)
    source = await runtime.chat.follow(turn.user_id, turn.conversation_id, turn.turn_id, None)
    async with asyncio.timeout(PATIENCE):
        kinds = [event.type async for batch in source for event in batch]
    assert asked.is_set()
    assert kinds[-1] == "turn.completed"


async def test_a_conversation_that_goes_while_its_turn_is_taken_over(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, gone, doomed = turns.read_turn, asyncio.Event(), uuid4()

    async def read_turn(connection: Connection, user_id: UUID, conversation_id: UUID, turn_id: UUID) -> StoredTurn:
        found = await real(connection, user_id, conversation_id, turn_id)
        if turn_id == doomed and not gone.is_set():
            async with runtime.database.as_user(user_id) as other:
                assert await other.execute("DELETE FROM messages WHERE user_id = $1", user_id) == "DELETE 1"
            gone.set()
        return found

    before = failures("takeover")
    monkeypatch.setattr(turns, "read_turn", read_turn)
    await left(runtime.database, turn_id=doomed)
    await asyncio.wait_for(gone.wait(), PATIENCE)
    assert (await ended(runtime, await left(runtime.database))).status == "completed"
    assert failures("takeover") == before
    assert runtime.background.ended == {}


@dataclass
class Holder:
    """A writer, as far as its lease is concerned."""

    user_id: UUID
    turn_id: UUID
    said: str
    epoch: int = 1
    halted: list[str] = field(default_factory=list)
    breaks: bool = False
    where: dict[str, Any] | None = None

    def checkpoint(self) -> str | None:
        return self.said

    def place(self) -> dict[str, Any] | None:
        return self.where

    def halt(self, reason: str) -> None:
        self.halted.append(reason)
        if self.breaks:
            raise RuntimeError("an error of ours")


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """Texts stay readable in it: PostgreSQL sees each character."""
    database = Database(PoolConfig(url, 2, 2))
    yield database
    await database.close()


async def lease_of(database: Database, turn: NewTurn) -> float:
    """Seconds that it still has."""
    async with database.system() as connection:
        return float(
            await connection.fetchval(
                "SELECT extract(epoch FROM lease_until - clock_timestamp()) FROM turns WHERE id = $1", turn.turn_id
            )
        )


async def test_words_that_can_not_be_kept_cost_no_lease(database: Database) -> None:
    keeper = LeaseKeeper(database, 600.0, GATE)
    held = [await left(database, lease_seconds=5.0) for _ in range(2)]
    for turn, said in zip(held, ("good", "bad \x00"), strict=True):
        keeper.hold(Holder(turn.user_id, turn.turn_id, said))
    await keeper.renew_all()
    assert [await lease_of(database, turn) > 300 for turn in held] == [True, True]


async def test_leases_are_renewed_though_one_writer_can_not_be_halted(database: Database) -> None:
    keeper = LeaseKeeper(database, 1.5, GATE)
    turn = await left(database, lease_seconds=1.0)
    lost = Holder(uuid4(), uuid4(), "", breaks=True)
    keeper.hold(lost)
    kept = Holder(turn.user_id, turn.turn_id, "said")
    keeper.hold(kept)
    running = asyncio.create_task(keeper.run())
    deadline = time.monotonic() + PATIENCE
    while len(lost.halted) < 3:
        assert not running.done(), "nobody renews any more"
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert kept.halted == []


async def test_words_that_can_not_be_kept_do_not_keep_a_turn_from_its_end(tmp_path: Path, url: str) -> None:
    """Such as a log may hold that an earlier release wrote: the turn was taken over, and failed to fail, for ever."""
    async with opened(tmp_path, url, RAPPORT_MASTER_KEY="off") as runtime:
        turn = await left(runtime.database, lease_seconds=3600.0)
        log = Log(turn.user_id, turn.conversation_id, turn.turn_id)
        said = [ev.event(FIRST, ev.ACCEPTED, {}), ev.event(FIRST.next(), ev.DELTA, {"text": "bad \x00"})]
        assert await runtime.replies.append(log, EMPTY, said) is Appended.OK
        async with runtime.database.as_user(turn.user_id) as connection:
            await connection.execute(
                "UPDATE turns SET lease_until = now() - interval '1 s', attempts = 9 WHERE id = $1", turn.turn_id
            )
        found = await ended(runtime, turn)
        assert (found.status, found.checkpoint) == ("failed", "")
        assert found.failure is not None
        assert found.failure["code"] == "turn_poisoned"


async def test_a_row_that_somebody_holds_keeps_no_lease_waiting(database: Database) -> None:
    """Nor does the note of where its reply can be read on: an erasure holds its user's rows for a while."""
    keeper = LeaseKeeper(database, 600.0, GATE)
    held, free = [await left(database, lease_seconds=60.0) for _ in range(2)]
    for turn in (held, free):
        keeper.hold(Holder(turn.user_id, turn.turn_id, "said", where={"response_id": "resp_1"}))
    async with database.system() as eraser:
        await eraser.execute("SELECT FROM turns WHERE id = $1 FOR UPDATE", held.turn_id)
        await keeper.renew_all()
        assert [await lease_of(database, turn) > 300 for turn in (held, free)] == [False, True]
    await keeper.renew_all()
    assert await lease_of(database, held) > 300


async def test_what_stands_in_for_the_log_waits_until_it_is_written(database: Database) -> None:
    """While Redis is away nothing is shown that PostgreSQL doesn't have, whoever holds the row."""
    turn = await left(database, lease_seconds=60.0)
    claimed = ClaimedTurn(
        turn.user_id, turn.turn_id, turn.conversation_id, turn.message_id, 1, 1, "", {}, "general", datetime.now(UTC)
    )
    log = Log(turn.user_id, turn.conversation_id, turn.turn_id)
    book = Logbook(claimed, LiveReply(log, []), LocalReplyLog(), database, 60.0)
    book.text, book.shown = "said", 4
    async with database.system() as eraser:
        await eraser.execute("SELECT FROM turns WHERE id = $1 FOR UPDATE", turn.turn_id)
        writing = asyncio.create_task(book._checkpoint())
        await asyncio.sleep(0.6)
        assert not writing.done()
    await asyncio.wait_for(writing, PATIENCE)
    async with database.as_user(turn.user_id) as connection:
        found = await turns.read_turn(connection, turn.user_id, turn.conversation_id, turn.turn_id)
    assert found.checkpoint == "said"
