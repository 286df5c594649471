"""The actors: they parse a message, call memory, and are done. Messages carry ids only."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
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

MOST_TOGETHER = 4
"""Conversations in one wake-up: even with a slow model all of them are learnt from within the time limit."""

Spoken = tuple[UUID, UUID]
"""A user and a conversation of theirs."""
Learner = Callable[[UUID, UUID], Awaitable[Learnt]]


def learn_message(conversations: Sequence[Spoken]) -> Message[None]:
    """A wake-up for some conversations, at most `MOST_TOGETHER`, for senders that don't run actors."""
    named = [[str(user_id), str(conversation_id)] for user_id, conversation_id in conversations]
    return Message(queue_name=QUEUE, actor_name=LEARN, args=(), kwargs={"conversations": named}, options={})


def declare_learn(broker: Broker, learner: Learner) -> Actor[[list[list[str]]], Awaitable[None]]:
    """Declare the actor that learns. Whatever fails in it is tried again by the sweep, so nothing of it is raised."""

    async def learn(conversations: list[list[str]]) -> None:
        try:
            spoken = [(UUID(user_id), UUID(conversation_id)) for user_id, conversation_id in conversations]
        except (ValueError, AttributeError, TypeError):
            log.warning("wake_up_refused")  # anybody who reaches the queue can write to it
            return
        if len(spoken) > MOST_TOGETHER:
            log.warning("wake_up_refused")
            return
        for user_id, conversation_id in spoken:
            try:
                more = await _learnt_more(learner, user_id, conversation_id)
            except asyncio.CancelledError:
                return  # shutting down: what is left is given back, and the sweep finds it
            if more:
                broker.enqueue(learn_message([(user_id, conversation_id)]))

    declare = dramatiq.actor(broker=broker, actor_name=LEARN, queue_name=QUEUE, time_limit=TIME_LIMIT_MS)
    return declare(learn)


async def _learnt_more(learner: Learner, user_id: UUID, conversation_id: UUID) -> bool:
    """Learn from one conversation; whether there is more of it to learn from."""
    try:
        learnt = await learner(user_id, conversation_id)
    except StoreUnavailableError:
        log.warning("learning_waits_for_database", conversation_id=str(conversation_id))
        return False
    except Exception:
        log.exception("learning_failed", conversation_id=str(conversation_id))
        return False
    log.info("learning", conversation_id=str(conversation_id), status=learnt.status, messages=learnt.messages)
    return learnt.more
