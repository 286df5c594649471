"""Wake-ups: cheap, harmless to lose, and sent again by the sweep."""

import asyncio
import inspect
import socket
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import dramatiq
import pytest
import redis
from dramatiq.middleware import TimeLimit
from uuid_utils.compat import uuid7

from memory import outbox
from memory.learning import LearnConfig, Learnt
from memory.postgres import Database
from service.jobs import LocalJobs
from service.sweeper import Sweeper, SweeperConfig
from service.worker.broker import NAMESPACE, BrokerConfig, open_broker
from service.worker.learner import make_learner
from service.worker.tasks import MOST_TOGETHER, QUEUE, declare_learn
from service.worker.wakeups import DramatiqJobs
from tests.memory.learning_kit import Talk, ToldReasoner, opened

NOW = SweeperConfig(grace=0, again=10)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


async def test_a_wake_up_in_the_queue_carries_ids_and_nothing_else(broker_url: str) -> None:
    jobs = DramatiqJobs(open_broker(BrokerConfig(broker_url)))
    user, conversation = uuid7(), uuid7()
    await jobs.wake_learner(user, conversation)
    await jobs.aclose()
    with redis.Redis.from_url(broker_url) as client:
        assert {key.decode() for key in client.scan_iter()} <= {
            f"{NAMESPACE}:{QUEUE}",
            f"{NAMESPACE}:{QUEUE}.msgs",
            f"{NAMESPACE}:__heartbeats__",
        }
        (raw,) = client.hgetall(f"{NAMESPACE}:{QUEUE}.msgs").values()
    message = dramatiq.Message.decode(raw)
    assert message.kwargs == {"conversations": [[str(user), str(conversation)]]}
    assert message.args == ()


async def test_wake_ups_that_follow_each_other_go_together_and_none_is_left_out(broker_url: str) -> None:
    broker = open_broker(BrokerConfig(broker_url))
    jobs = DramatiqJobs(broker)
    spoken = [(uuid7(), uuid7()) for _ in range(3 * MOST_TOGETHER)]
    for user, conversation in spoken * 2:
        await jobs.wake_learner(user, conversation)
    await jobs.aclose()
    with redis.Redis.from_url(broker_url) as client:
        kept = [dramatiq.Message.decode(raw) for raw in client.hgetall(f"{NAMESPACE}:{QUEUE}.msgs").values()]
    told = [tuple(UUID(one) for one in pair) for message in kept for pair in message.kwargs["conversations"]]
    assert set(told) == set(spoken)
    assert len(told) <= len(spoken) + 1, "only the first may have gone before it was asked for again"
    assert len(kept) <= 5


async def test_a_wake_up_that_nobody_here_could_have_sent_is_refused(broker_url: str) -> None:
    asked: list[tuple[UUID, UUID]] = []

    async def learner(user_id: UUID, conversation_id: UUID) -> Learnt:
        asked.append((user_id, conversation_id))
        raise AssertionError

    actor = declare_learn(open_broker(BrokerConfig(broker_url), [TimeLimit()]), learner)
    learn: Any = inspect.unwrap(actor.fn)  # without the thread that dramatiq runs it in
    pair = [str(uuid7()), str(uuid7())]
    for forged in ([["x", "y"]], [pair[:1]], "nonsense", [pair] * (MOST_TOGETHER + 1), None, [[1, 2]]):
        await learn(forged)
    assert asked == []


async def test_a_queue_that_hangs_neither_fails_nor_holds_up_a_turn() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        jobs = DramatiqJobs(open_broker(BrokerConfig(url, socket_timeout=0.5)))
        began = asyncio.get_running_loop().time()
        for _ in range(20):
            await jobs.wake_learner(uuid7(), uuid7())
        assert asyncio.get_running_loop().time() - began < 1, "sending from the event loop would take ten seconds"
        await jobs.aclose()


async def test_a_sweep_sends_what_is_due_once_until_it_is_overdue_again(database: Database) -> None:
    talks = [await Talk(database, f"user {n}").open() for n in range(5)]
    for talk in talks:
        await talk.say("hello")
    sent: Counter[UUID] = Counter()

    async def send(_user_id: UUID, conversation_id: UUID) -> None:
        sent[conversation_id] += 1

    sweepers = [Sweeper(database, send, NOW) for _ in range(3)]
    await asyncio.gather(*(sweeper.sweep() for sweeper in sweepers))
    assert sent == Counter({talk.id: 1 for talk in talks}), "three sweepers at once share the work"
    assert await sweepers[0].sweep() == 0
    async with database.system() as connection:
        await connection.execute("UPDATE outbox SET dispatched_at = dispatched_at - interval '11 seconds'")
    assert await sweepers[0].sweep() == 5


async def test_a_sweep_leaves_alone_what_is_not_due_or_being_worked_on(database: Database) -> None:
    later, busy, fresh = [await Talk(database, name).open() for name in ("later", "busy", "fresh")]
    for talk in (later, busy, fresh):
        await talk.say("hello")
    async with database.system() as connection:
        await connection.execute(
            "UPDATE outbox SET not_before = now() + interval '1 minute' WHERE conversation_id = $1", later.id
        )
        await connection.execute(
            "UPDATE conversations SET learning_until = now() + interval '1 minute' WHERE id = $1", busy.id
        )
    sent: list[UUID] = []

    async def send(_user_id: UUID, conversation_id: UUID) -> None:
        sent.append(conversation_id)

    await Sweeper(database, send, SweeperConfig(grace=30)).sweep()
    assert sent == [], "whoever wrote the work is about to send it"
    await Sweeper(database, send, NOW).sweep()
    assert sent == [fresh.id]


async def test_unlearnt_messages_without_an_outbox_row_are_found(database: Database) -> None:
    talk = await Talk(database).open()
    await talk.say("hello")
    async with database.system() as connection:
        await connection.execute("DELETE FROM outbox")
        await connection.execute("UPDATE conversations SET updated_at = now() - interval '2 minutes'")

    async def send(_user_id: UUID, _conversation_id: UUID) -> None:
        raise AssertionError

    sweeper = Sweeper(database, send)
    assert await sweeper.reconcile() == 1
    assert await sweeper.reconcile() == 0
    async with database.system() as connection:
        assert (await outbox.read_backlog(connection)).waiting == 1


async def test_without_a_queue_this_process_learns_by_itself(database: Database) -> None:
    learnt: Counter[UUID] = Counter()
    done = asyncio.Event()

    async def learner(_user_id: UUID, conversation_id: UUID) -> Learnt:
        learnt[conversation_id] += 1
        if learnt.total() == 1:
            raise ZeroDivisionError  # one that fails must not stop the others
        done.set()
        return Learnt("learnt", more=learnt[conversation_id] == 1)

    jobs = LocalJobs(learner, concurrency=1)
    broken, fine = uuid7(), uuid7()
    for conversation in (broken, fine, fine, fine):
        await jobs.wake_learner(uuid7() if conversation is broken else broken, conversation)
    await asyncio.wait_for(done.wait(), 5)
    await asyncio.sleep(0.05)
    await jobs.aclose()
    assert learnt == {broken: 1, fine: 2}, "woken thrice at once, run once, and again since there was more"


async def test_the_local_learner_sweeps_up_what_an_earlier_process_left(database: Database) -> None:
    talk = await Talk(database).open()
    await talk.say("hello")
    seen: asyncio.Queue[UUID] = asyncio.Queue()

    async def learner(_user_id: UUID, conversation_id: UUID) -> Learnt:
        await seen.put(conversation_id)
        return Learnt("learnt")

    jobs = LocalJobs(learner)
    jobs.sweep_with(Sweeper(database, jobs.wake_learner, SweeperConfig(interval=0.05, grace=0)))
    assert await asyncio.wait_for(seen.get(), 5) == talk.id
    await jobs.aclose()


async def test_what_is_said_on_a_route_is_read_by_its_own_models(database: Database) -> None:
    asked: list[str] = []

    def on(route: str) -> ToldReasoner:
        asked.append(route)
        return ToldReasoner('{"facts": []}')

    for name, route in (("ana", "mature"), ("bob", "general")):
        talk = await Talk(database, name).open(route=route)
        await talk.say("hello")
        learner = make_learner(database, talk.embedder, on, LearnConfig())
        assert (await learner(talk.user_id, talk.id)).status == "learnt"
    assert asked == ["mature", "general"]
