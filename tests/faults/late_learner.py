"""A learner that stops itself in the middle of the transaction that writes facts: python -m tests.faults.late_learner …

Arguments: DSN, user, conversation, and where: "before" it has locked anything, or "after" its facts are written and not
yet committed. It says "stopping", stops by SIGSTOP, and when it is continued says what became of its lesson.
"""

import asyncio
import os
import signal
import sys
from typing import Any
from uuid import UUID

from memory import learning, lessons, summaries
from memory.errors import StoreUnavailableError
from memory.postgres import Database, PoolConfig
from tests.memory.learning_kit import HashEmbedder, ToldReasoner, answer, fact


def stop_before(name: str, module: Any) -> None:
    whole = getattr(module, name)

    async def stopping(*args: Any, **kwargs: Any) -> Any:
        sys.stdout.write("stopping\n")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGSTOP)
        return await whole(*args, **kwargs)

    setattr(module, name, stopping)


async def main(dsn: str, user: str, conversation: str, where: str, quote: str) -> str:
    if where == "before":
        stop_before("advance", lessons)
    else:
        stop_before("rebuild_profile", summaries)
    database = Database(PoolConfig(dsn, 2, 2))
    reasoner = ToldReasoner(answer(fact(1, quote, quote.replace("I live", "The user lives"))))
    try:
        learnt = await learning.learn(
            database, reasoner, HashEmbedder(), UUID(user), UUID(conversation), learning.LearnConfig(lease_seconds=300)
        )
    except StoreUnavailableError:
        return "away"
    finally:
        await database.close()
    return learnt.status


if __name__ == "__main__":
    sys.stdout.write(asyncio.run(main(*sys.argv[1:])) + "\n")
