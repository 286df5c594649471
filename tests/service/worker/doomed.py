"""Workers that are there to be killed: `python -m tests.service.worker.doomed`.

A parent that has imported everything forks them, since a fresh interpreter takes seconds and a fork milliseconds. It is
told of workers by a line of JSON, prints each one's pid, replaces whoever dies until the next line, says "none" when all
have ended then, and goes when its standard input closes.
"""

import asyncio
import json
import logging
import os
import random
import secrets
import select
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import structlog

from memory.learning import LearnConfig, Learnt, catch_up
from memory.postgres import Database, PoolConfig
from memory.summaries import SummaryConfig
from service.worker.broker import BrokerConfig
from service.worker.main import work
from service.worker.tasks import Learner
from tests.faults.switches import any_watermark
from tests.memory.learning_kit import HashEmbedder, answer, fact


class MoodyReasoner:
    """Takes its time, and never says the same thing twice: what a real model does to idempotence by content."""

    name = "moody"

    async def structured(
        self, system: str, examples: Sequence[tuple[str, str]], prompt: str, schema: dict[str, Any]
    ) -> str:
        await asyncio.sleep(random.uniform(0.005, 0.12))
        claims = []
        for number, line in enumerate(prompt.splitlines(), 1):
            quote = line.partition(": ")[2]
            take = "".join(random.choices("bcdfghjklmnpqrstvwxz", k=10))
            claims.append(fact(number, quote, quote.replace("My", "The user's").removesuffix(".") + f" {take}."))
        return answer(*claims)


def worker(order: dict[str, Any]) -> int:
    dsn, broker_url = order["dsn"], order["broker_url"]
    config = LearnConfig(**order["config"], summary=SummaryConfig(every=1_000_000))
    if not order["compare_and_set"]:
        any_watermark()
    random.seed(secrets.token_bytes(8))

    @asynccontextmanager
    async def open_learner() -> AsyncIterator[Learner]:
        database = Database(PoolConfig(dsn, 1, 3))
        reasoner, embedder = MoodyReasoner(), HashEmbedder()

        async def learner(user_id: UUID, conversation_id: UUID) -> Learnt:
            return await catch_up(database, reasoner, embedder, user_id, conversation_id, config)

        yield learner
        await database.close()

    return work(BrokerConfig(broker_url, heartbeat_ms=1000), open_learner, threads=2)


def fork(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        return pid
    status = 1
    try:
        status = worker(order)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> None:
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    while line := sys.stdin.readline():
        keep(json.loads(line))


def keep(order: dict[str, Any]) -> None:
    """Keep so many workers alive until the next line comes, and end them then."""
    children = {fork(order) for _ in range(order["workers"])}
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        if pid:
            children.remove(pid)
            children.add(fork(order))
    for pid in children:
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGTERM)
    for pid in children:
        os.waitpid(pid, 0)
    sys.stdin.readline()
    sys.stdout.write("none\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
