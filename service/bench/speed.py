"""How fast recall is through the store: `python -m service.bench.speed --rows 1000000 --users 1000 --large 100000`.

Fills a database of its own with made-up conversations (`made_up`), asks made-up questions as the service does (sealed
texts, its event loop, its collections of garbage, its row-level security), prints percentiles, the processor time of
either side, and the plan that is used. With `--json` the figures alone, for programs.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from uuid import UUID, uuid4

import psutil
import uvloop

from memory import associations, lexical
from memory.many import index_many
from memory.postgres import Connection, Database, PoolConfig
from memory.retrieval import RecallQuery, question_vector, recall, statement
from memory.vault import MasterKey, Vault, index_key
from service.bench.made_up import Maker, copy_user, grow, make_user, settle
from service.bench.scratch import scratch_database
from service.server import keep_what_is_loaded

WARM_UP = 20


@dataclass(frozen=True, slots=True)
class Sizes:
    rows: int
    users: int
    asked: int
    large: int
    questions: int
    rounds: int = 1
    """The quietest of so many counts: on a machine that others use too."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Milliseconds of one recall, as a turn waits for it, embedding apart; processor time with the transaction's end."""

    what: str
    questions: int
    first: float
    """The middle of each user's first question, whose rows nobody has read for long."""
    p50: float
    p95: float
    best: float
    python: float
    """Processor time in this process."""
    postgresql: float
    """Processor time in the server."""

    def __str__(self) -> str:
        return (
            f"{self.what}: p50 {self.p50:.1f} ms, p95 {self.p95:.1f} ms, best {self.best:.1f} ms over {self.questions}"
            f" questions (first of a user {self.first:.1f} ms); processor time {self.python:.1f} ms in Python,"
            f" {self.postgresql:.1f} ms in PostgreSQL"
        )


async def fill(dsn: str, database: Database, maker: Maker, sizes: Sizes) -> list[UUID]:
    """Make the users who are asked, and copy one of them until the table has its rows."""
    each = sizes.rows // sizes.users
    asked = []
    for _ in range(min(sizes.asked, sizes.users)):
        asked.append(await make_user(database))
        await grow(database, maker, asked[-1], 1, each)
    await copy_user(database, asked[0], [uuid4() for _ in range(sizes.users - len(asked))], each, asked)
    await settle(dsn)
    return asked


async def measure(database: Database, maker: Maker, what: str, users: Sequence[UUID], questions: int) -> Figures:
    associations.table()
    firsts = [(await _timed(database, maker.question(user)))[0] for user in users]
    for n in range(WARM_UP):
        await _timed(database, maker.question(users[n % len(users)]))
    taken, python, server = [], 0.0, 0.0
    for n in range(questions):
        query = maker.question(users[n % len(users)])
        elapsed, own, others = await _timed(database, query)
        taken.append(elapsed)
        python, server = python + own, server + others
    taken.sort()
    return Figures(
        what,
        questions,
        round(sorted(firsts)[len(firsts) // 2], 2),
        round(taken[len(taken) // 2], 2),
        round(taken[int(0.95 * len(taken))], 2),
        round(taken[0], 2),
        round(python / questions, 2),
        round(server / questions, 2),
    )


async def _timed(database: Database, query: RecallQuery) -> tuple[float, float, float]:
    """Milliseconds that passed, and of processor time here and in the server."""
    async with database.as_user(query.user_id) as connection:
        server = psutil.Process(await connection.fetchval("SELECT pg_backend_pid()"))
    before, own, began = sum(server.cpu_times()[:2]), time.process_time(), time.perf_counter()
    await database.read(query.user_id, partial(recall, query=query))
    elapsed = time.perf_counter() - began
    await database.ended()
    own = time.process_time() - own
    return elapsed * 1000, own * 1000, (sum(server.cpu_times()[:2]) - before) * 1000


async def plan(connection: Connection, query: RecallQuery, *, many: bool) -> str:
    """The generic plan, which is what serves: explaining the statement itself would show one made for these values."""
    key = await index_key(connection, query.user_id)
    terms = [lexical.term_id(term, key) for term in lexical.asked(query.text)]
    await connection.execute(
        f"PREPARE recall (uuid, text[], text, text, int[]) AS {statement(query.vector, 1, many=many)}"
    )
    execute = await connection.fetchval(
        "SELECT format('EXECUTE recall (%L, %L, %L, %L, %L)', $1::uuid, $2::text[], $3::text, $4::text, $5::int[])",
        query.user_id,
        list(query.routes),
        *question_vector(query.vector),
        terms,
    )
    rows = await connection.fetch(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, BUFFERS OFF) {execute}")
    await connection.execute("DEALLOCATE recall")
    return "\n".join(row[0] for row in rows)


async def report(
    database: Database, maker: Maker, what: str, users: Sequence[UUID], sizes: Sizes, *, many: bool, plans: bool
) -> Figures:
    rounds = [await measure(database, maker, what, users, sizes.questions) for _ in range(sizes.rounds)]
    figures = min(rounds, key=lambda each: each.p95)
    if plans:
        async with database.as_user(users[0]) as connection:
            explained = await plan(connection, maker.question(users[0]), many=many)
        _say(f"\n{figures}\n{explained}")
    return figures


async def run(dsn: str, sizes: Sizes, *, plans: bool) -> list[Figures]:
    vault = Vault(MasterKey(b"only for benchmarks".ljust(32)))
    database = Database(PoolConfig(dsn, size=1, overflow=0, command_timeout=600), vault)
    maker, done = Maker(7), []
    try:
        began = time.monotonic()
        asked = await fill(dsn, database, maker, sizes)
        if plans:
            _say(f"filled {sizes.rows:,} rows of {sizes.users:,} users in {time.monotonic() - began:.0f} s")
        what = f"{sizes.rows // sizes.users:,} memories each of {sizes.users:,} users"
        done.append(await report(database, maker, what, asked, sizes, many=False, plans=plans))
        if sizes.large:
            began = time.monotonic()
            large = await make_user(database)
            await grow(database, maker, large, 1, sizes.large)
            filled, began = time.monotonic() - began, time.monotonic()
            await index_many(database)
            await settle(dsn)
            if plans:
                _say(f"\nmade {sizes.large:,} memories of one user in {filled:.0f} s, indexed them in"
                     f" {time.monotonic() - began:.0f} s")  # fmt: skip
            what = f"{sizes.large:,} memories of one user"
            done.append(await report(database, maker, what, [large], sizes, many=True, plans=plans))
    finally:
        await database.close()
    return done


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m service.bench.speed", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="messages of all users together")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--asked", type=int, default=25, help="users who are asked")
    parser.add_argument("--large", type=int, default=0, help="messages of one more user, who has very many")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1, help="the quietest of so many counts")
    parser.add_argument("--json", action="store_true", help="figures only, for programs")
    given = vars(parser.parse_args(arguments))
    as_json = given.pop("json")
    associations.table()
    keep_what_is_loaded()
    with scratch_database() as dsn, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        done = runner.run(run(dsn, Sizes(**given), plans=not as_json))
    if as_json:
        _say(json.dumps([asdict(figures) for figures in done]))


if __name__ == "__main__":
    main()
