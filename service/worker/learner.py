"""What learns from a conversation, wherever that happens: in a worker, or in the one process without a queue."""

from collections.abc import Callable
from uuid import UUID

from memory.learning import LearnConfig, Learnt, catch_up
from memory.ports import Embedder, Reasoner
from memory.postgres import Database
from memory.transcript import read_route
from service.settings import Settings
from service.worker.tasks import Learner


def make_learner(
    database: Database, embedder: Embedder, reasoner_on: Callable[[str], Reasoner], config: LearnConfig
) -> Learner:
    """Learning with the backends of the conversation's own route: nothing said there is shown to others."""

    async def learner(user_id: UUID, conversation_id: UUID) -> Learnt:
        async with database.as_user(user_id) as connection:
            route = await read_route(connection, user_id, conversation_id)
        return await catch_up(database, reasoner_on(route or "general"), embedder, user_id, conversation_id, config)

    return learner


def learn_config(settings: Settings) -> LearnConfig:
    return LearnConfig(batch=settings.learn_batch, attempts=settings.learn_attempts)
