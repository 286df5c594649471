"""Every predicate that names the user, taken out of every statement in turn: row-level security must hold alone.

The service runs in this process. Each statement that it executes for a user is taken as it is, with its arguments,
rewritten without one of its predicates, and run as somebody else who owns nothing. What it gives and changes must be
what the whole statement gives and changes for them. The same is done without row-level security: it shows which of the
predicates matter, so that the check can be seen to fail.
"""

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import uvicorn

from memory.errors import TransactionConflictError
from memory.postgres import Connection, Database, PoolConfig, SealingConnection
from service.app import create_app
from service.dev.children import free_port
from service.settings import Settings
from tests.fixtures.service import LiveService, Process
from tests.isolation.test_matrix import CANARY, ROWS, Property, may_do

PREDICATE = re.compile(r"\b(?:\w+\.)?user_id = \$(\d+)\b")
BOUND = re.compile(r"SET LOCAL rapport\.user_id = '([0-9a-f-]{36})'")
MOMENT = re.compile(r"datetime\.datetime\([^)]*\)|UUID\('[^']*'\)|Decimal\('[^']*'\)|\b0\.\d+")
CHANGES = "SELECT coalesce(sum(n_tup_upd + n_tup_del), 0)::int FROM pg_stat_xact_user_tables"
TRIES = 3
METHODS = ("fetch", "fetchrow", "fetchval", "execute")

Found = tuple[str, int, bool]

attacking: ContextVar[bool] = ContextVar("attacking", default=False)


def without_one_predicate(statement: str) -> Iterator[str]:
    for match in PREDICATE.finditer(statement):
        # the parameter stays, and keeps its type
        yield f"{statement[: match.start()]}(${match[1]}::uuid IS NOT NULL){statement[match.end() :]}"


class Attacker:
    """Somebody who owns nothing and knows every id."""

    def __init__(self, url: str) -> None:
        self.id = uuid4()
        self.statements: set[str] = set()
        self.tries: Counter[str] = Counter()
        self.runs = 0
        self.refused: Counter[str] = Counter()
        self.foreign: list[str] = []
        self.open_without_the_wall: set[str] = set()
        self._database = Database(PoolConfig(url, size=2, overflow=4))
        self._busy = asyncio.Lock()
        self.loop: asyncio.AbstractEventLoop
        self.victim = ""

    async def hear(self, victim: UUID, statement: str, arguments: tuple[Any, ...]) -> None:
        if not PREDICATE.search(statement):
            return
        self.loop = asyncio.get_running_loop()
        self.statements.add(statement)
        mine = [self._instead(argument, victim) for argument in arguments]
        async with self._busy:
            for changed in without_one_predicate(statement):
                if self.tries[changed] < TRIES and changed not in self.open_without_the_wall:
                    self.tries[changed] += 1
                    await self._attack(statement, changed, mine, victim)

    def _instead(self, argument: Any, victim: UUID) -> Any:
        if isinstance(argument, list | tuple):
            return [self._instead(one, victim) for one in argument]
        if isinstance(argument, str):
            return argument.replace(CANARY, "words of their own")
        return self.id if argument == victim else argument

    async def _attack(self, statement: str, changed: str, arguments: list[Any], victim: UUID) -> None:
        self.runs += 1
        self.victim = str(victim)
        whole = await self._run(statement, arguments, walled=True)
        behind = await self._run(changed, arguments, walled=True)
        if behind != whole or behind[2]:
            self.foreign.append(f"{behind} instead of {whole}:\n{changed}")
        if await self._run(changed, arguments, walled=False) != whole:
            self.open_without_the_wall.add(changed)

    async def _run(self, statement: str, arguments: list[Any], *, walled: bool) -> Found:
        """What it gives, how many rows it changes, and whether the victim shows in it; nothing of it stays."""
        given = ""
        try:
            async with self._database.as_user(self.id) if walled else self._database.system() as connection:
                given = await self._look(connection, statement, arguments)
        except _UndoneError as undone:
            return undone.found
        except (asyncpg.PostgresError, TransactionConflictError) as error:
            name = type(error.__cause__ or error).__name__
            self.refused[name] += walled
            return name, 0, False
        raise AssertionError(given)

    async def _look(self, connection: Connection, statement: str, arguments: list[Any]) -> str:
        await connection.execute("SET LOCAL lock_timeout = '50ms'")
        before = await connection.fetchval(CHANGES)  # the view holds what this connection did earlier, too
        rows = await connection.fetch(statement, *arguments)
        given = repr([tuple(row) for row in rows])
        found = MOMENT.sub("", given)
        shows = CANARY in given or self.victim in given
        raise _UndoneError((found, await connection.fetchval(CHANGES) - before, shows))

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._database.close(), self.loop).result(10)


class _UndoneError(Exception):
    def __init__(self, found: Found) -> None:
        super().__init__()
        self.found = found


def listening(original: Callable[..., Any], attacker: Attacker) -> Callable[..., Any]:
    async def listened(self: Any, statement: str, *arguments: Any, **options: Any) -> Any:
        if attacking.get():
            return await original(self, statement, *arguments, **options)
        if statement.startswith("BEGIN"):
            bound = BOUND.search(statement)
            self.bound_to = UUID(bound[1]) if bound else None
        elif getattr(self, "bound_to", None) is not None:
            token = attacking.set(True)
            try:
                await attacker.hear(self.bound_to, statement, arguments)
            finally:
                attacking.reset(token)
        return await original(self, statement, *arguments, **options)

    return listened


@pytest.fixture
def environment(
    tmp_path: Path, database_url: str, service_factory: Callable[..., LiveService], monkeypatch: pytest.MonkeyPatch
) -> Iterator[LiveService]:
    """One process that does everything itself, texts unsealed so that a canary can be seen."""
    service = service_factory(REDIS_ENABLED="false", RAPPORT_MASTER_KEY="off", RECALL_TOKEN_BUDGET="400")
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DATABASE_URL", database_url)
    service.processes.append(Process("here", {}, tmp_path / "here.log", free_port()))
    yield service
    service.processes.clear()


@pytest.mark.timeout(300)
def test_without_any_one_predicate_the_second_wall_holds(
    environment: LiveService, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attacker = Attacker(database_url)
    for name in METHODS:
        monkeypatch.setattr(SealingConnection, name, listening(getattr(SealingConnection, name), attacker))
    port = environment.processes[0].port
    server = uvicorn.Server(uvicorn.Config(create_app(Settings()), port=port, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        owned = Property(environment)
        with closing(owned.client):
            for key, row in ROWS.items():
                if row.answer != "operator" and key != ("DELETE", "/v1/session"):
                    assert may_do(owned.ask(owned.client, key)), key
        attacker.close()
    finally:
        server.should_exit = True
        thread.join(30)
    with capsys.disabled():
        print(
            f"\n{len(attacker.statements)} statements, {len(attacker.tries)} predicates taken out one at a time,"
            f" {attacker.runs} attacks: {len(attacker.foreign)} foreign;"
            f" without row-level security {len(attacker.open_without_the_wall)} would be open;"
            f" refused with an error: {dict(attacker.refused)}"
        )
    assert attacker.foreign == []
    assert len(attacker.statements) >= 60
    assert len(attacker.open_without_the_wall) >= 60
