"""How recall and storage grow: `python -m service.bench.growth --json`, for plotting.

One user's history grows from a hundred messages to a hundred thousand; then users with short histories grow from ten to
a hundred thousand. At each step recall is timed, and the bytes that a message takes are counted.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from uuid import UUID, uuid4

from memory.many import index_many
from memory.postgres import Database, PoolConfig
from service.bench.made_up import Maker, copy_user, grow, make_user, settle, sizes
from service.bench.scratch import scratch_database
from service.bench.speed import Figures, measure

HISTORIES = (100, 1_000, 10_000, 100_000)
USERS = (10, 1_000, 100_000)
ASKED = 10


@dataclass(frozen=True, slots=True)
class Step:
    users: int
    messages_each: int
    recall: Figures
    bytes_per_message: dict[str, float]
    """By table, indexes included; only what was written since the step before."""


async def histories(dsn: str, database: Database, maker: Maker, steps: Sequence[int], questions: int) -> list[Step]:
    user, done, before = await make_user(database), [], 0
    for messages in steps:
        space = await sizes(database)
        await grow(database, maker, user, before + 1, messages)
        await index_many(database)
        await settle(dsn)
        done.append(await _step(database, maker, [user], (1, messages, messages - before), space, questions))
        before = messages
    return done


async def crowds(
    dsn: str, database: Database, maker: Maker, steps: Sequence[int], messages: int, questions: int
) -> list[Step]:
    asked: list[UUID] = []
    done, before = [], 0
    for users in steps:
        space = await sizes(database)
        while len(asked) < min(ASKED, users):
            asked.append(await make_user(database))
            await grow(database, maker, asked[-1], 1, messages)
        await copy_user(database, asked[0], [uuid4() for _ in range(users - max(before, len(asked)))], messages)
        await settle(dsn)
        done.append(
            await _step(database, maker, asked, (users, messages, (users - before) * messages), space, questions)
        )
        before = users
    return done


async def _step(
    database: Database,
    maker: Maker,
    asked: Sequence[UUID],
    numbers: tuple[int, int, int],
    space: dict[str, int],
    questions: int,
) -> Step:
    users, messages, written = numbers
    figures = await measure(database, maker, f"{messages:,} messages each of {users:,} users", asked, questions)
    now = await sizes(database)
    step = Step(users, messages, figures, {table: round((now[table] - space[table]) / written, 1) for table in now})
    sys.stderr.write(f"{figures}; {sum(step.bytes_per_message.values()):,.0f} bytes a message\n")
    return step


async def run(dsn: str, messages: int, questions: int, largest: tuple[int, int]) -> dict[str, list[Step]]:
    database = Database(PoolConfig(dsn, size=1, overflow=0, command_timeout=600))
    maker = Maker(7)
    try:
        return {
            "histories": await histories(dsn, database, maker, [n for n in HISTORIES if n <= largest[0]], questions),
            "users": await crowds(dsn, database, maker, [n for n in USERS if n <= largest[1]], messages, questions),
        }
    finally:
        await database.close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m service.bench.growth", description=__doc__)
    parser.add_argument("--messages", type=int, default=20, help="of each of the many users")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--longest", type=int, default=HISTORIES[-1], help="stop at this many messages of one user")
    parser.add_argument("--most", type=int, default=USERS[-1], help="stop at this many users")
    given = parser.parse_args(arguments)
    with scratch_database() as dsn:
        done = asyncio.run(run(dsn, given.messages, given.questions, (given.longest, given.most)))
    sys.stdout.write(json.dumps({name: [asdict(step) for step in steps] for name, steps in done.items()}) + "\n")


if __name__ == "__main__":
    main()
