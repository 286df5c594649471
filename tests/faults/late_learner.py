"""A learner that stops itself in the middle of the transaction that writes facts: python -m tests.faults.late_learner …

Arguments: DSN, user, conversations (with commas between), where, and what they said. "before" it has locked anything, or
"after" its facts are written and not yet committed, it says "stopping", stops by SIGSTOP, and when it is continued says
what became of its lesson. Where is "waiting", it is stopped by others, and its transactions are ended sooner.
"""

import asyncio
import os
import signal
import sys
from typing import Any
from uuid import UUID

from memory import learning, lessons, summaries
from memory.errors import StoreUnavailableError
from memory.postgres import SESSION, Database, PoolConfig
from tests.memory.learning_kit import HashEmbedder, ToldReasoner, answer, fact

ENDED_AFTER = 5
"""Seconds until the transactions of a process that waits, or sleeps in one, are ended."""


def stop_before(name: str, module: Any) -> None:
    whole = getattr(module, name)

    async def stopping(*args: Any, **kwargs: Any) -> Any:
        sys.stdout.write("stopping\n")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGSTOP)
        return await whole(*args, **kwargs)

    setattr(module, name, stopping)


async def main(dsn: str, user: str, conversations: str, where: str, quote: str) -> str:
    if where == "before":
        stop_before("advance", lessons)
    elif where == "after":
        stop_before("rebuild_profile", summaries)
    else:
        SESSION.update(idle_in_transaction_session_timeout=f"{ENDED_AFTER}s", lock_timeout=f"{ENDED_AFTER}s")
    database = Database(PoolConfig(dsn, 2, 10))
    said = answer(fact(1, quote, quote.replace("I live", "The user lives")))

    async def learn(conversation: str) -> str:
        config = learning.LearnConfig(lease_seconds=300)
        try:
            learnt = await learning.learn(
                database, ToldReasoner(said), HashEmbedder(), UUID(user), UUID(conversation), config
            )
        except StoreUnavailableError:
            return "away"
        return learnt.status

    done = await asyncio.gather(*map(learn, conversations.split(",")))
    await database.close()
    return ",".join(sorted(set(done)))


if __name__ == "__main__":
    sys.stdout.write(asyncio.run(main(*sys.argv[1:])) + "\n")
