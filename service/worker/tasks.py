"""The actors: they parse a message, call memory, and are done. Messages carry ids only."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import dramatiq
import structlog
from dramatiq import Actor, Broker, Message

from memory.errors import StoreUnavailableError
from memory.learning import Learnt

log = structlog.get_logger(__name__)

QUEUE = "memory"
LEARN = "learn"
TIME_LIMIT_MS = 600_000

Learner = Callable[[UUID, UUID], Awaitable[Learnt]]


def learn_message(user_id: UUID, conversation_id: UUID) -> Message[None]:
    """A wake-up, for senders that don't run actors."""
    return Message(
        queue_name=QUEUE,
        actor_name=LEARN,
        args=(),
        kwargs={"user_id": str(user_id), "conversation_id": str(conversation_id)},
        options={},
    )


def declare_learn(broker: Broker, learner: Learner) -> Actor[[str, str], Awaitable[None]]:
    """Declare the actor that learns. Whatever fails in it is tried again by the sweep, so nothing of it is raised."""

    async def learn(user_id: str, conversation_id: str) -> None:
        try:
            user, conversation = UUID(user_id), UUID(conversation_id)
        except (ValueError, AttributeError, TypeError):
            log.warning("wake_up_refused")  # anybody who reaches the queue can write to it
            return
        try:
            learnt = await learner(user, conversation)
        except asyncio.CancelledError:
            return  # shutting down: the conversation was given back, and the sweep finds it
        except StoreUnavailableError:
            log.warning("learning_waits_for_database", conversation_id=conversation_id)
            return
        except Exception:
            log.exception("learning_failed", conversation_id=conversation_id)
            return
        log.info("learning", conversation_id=conversation_id, status=learnt.status, messages=learnt.messages)
        if learnt.more:
            broker.enqueue(learn_message(user, conversation))

    declare = dramatiq.actor(broker=broker, actor_name=LEARN, queue_name=QUEUE, time_limit=TIME_LIMIT_MS)
    return declare(learn)
