"""What still works goes on working, what can't says so with 503 and Retry-After, and everything recovers by itself."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import pytest_asyncio
import redis.asyncio

from service.dev.children import free_port
from tests.faults.clients import events
from tests.faults.upstream import tokens
from tests.faults.verdict import drain
from tests.faults.world import World, opened_world
from tests.streams import Bubble

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

WORDS = 12
RECOVERY_SECONDS = 30.0
STALL_SECONDS = 0.4
"""Below the time that a blocking call of Redis would take; on a busy machine, twice what it does by itself."""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    problem: dict[str, Any] = field(default_factory=dict)
    bubble: Bubble = field(default_factory=Bubble)
    seconds: float = 0.0

    @property
    def accepted(self) -> dict[str, Any]:
        return self.bubble.data("turn.accepted")


@dataclass
class User:
    """Somebody with one conversation, who asks once and takes what comes."""

    world: World
    headers: dict[str, str]
    conversation: str = ""
    said: int = 0

    @property
    def url(self) -> str:
        return f"{self.world.parts['api0'].url}/v1/conversations"

    async def begin(self) -> "User":
        async with self.world.session.post(self.url, json={}, headers=self.headers) as answer:
            assert answer.status == 201, await answer.text()
            self.conversation = (await answer.json())["id"]
        return self

    async def say(self, words: int = WORDS) -> Answer:
        self.said += 1
        body = {"content": f"My day number {self.said} is a secret. Now say t{self.said} {words}", "backend": "large"}
        began = time.monotonic()
        url = f"{self.url}/{self.conversation}/turns"
        async with self.world.session.post(url, json=body, headers=self.headers) as response:
            answer = Answer(response.status, dict(response.headers))
            if response.status != 200:
                answer.problem = await response.json(content_type=None)
            else:
                async for event in events(response):
                    answer.bubble.take(*event)
        answer.seconds = time.monotonic() - began
        return answer

    def right(self, answer: Answer, words: int = WORDS) -> bool:
        return answer.status == 200 and answer.bubble.text == tokens(f"t{self.said}", words)

    async def health(self) -> tuple[int, dict[str, Any]]:
        async with self.world.session.get(f"{self.world.parts['api0'].url}/health/ready") as answer:
            return answer.status, await answer.json()

    async def recovered(self, *, resumable: bool = True) -> Answer:
        """The first turn that goes as if nothing had been."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        while time.monotonic() < deadline:
            answer = await self.say()
            if self.right(answer) and answer.accepted["resumable"] is resumable:
                return answer
            await asyncio.sleep(0.3)
        raise AssertionError(f"it has not recovered: {answer}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    with TemporaryDirectory(prefix="rapport-faults-") as home:
        async with opened_world(Path(home)) as world:
            await world.populate(apis=1)
            yield world


@pytest_asyncio.fixture(loop_scope="module")
async def user(world: World) -> User:
    return await User(world, {"Authorization": f"Bearer {world.token('dora')}"}).begin()


async def test_redis_down(world: World, user: User) -> None:
    world.valkey.kill()
    try:
        first = await user.say()  # nobody knows yet
        assert user.right(first), first
        second = await user.say()
        assert user.right(second), second
        assert second.accepted["resumable"] is False
        status, health = await user.health()
        assert (status, health["status"]) == (200, "degraded")
        assert health["dependencies"]["redis"]["state"] == "down"
    finally:
        world.valkey.start()
    await user.recovered()
    assert await drain(world, RECOVERY_SECONDS) is not None, "what was said meanwhile was never learnt from"


async def test_redis_hung(world: World, user: User) -> None:
    usual = await longest_stall(world, user)
    (world.home / "tally").write_text("")
    assert world.valkey.process is not None
    world.valkey.process.send_signal(signal.SIGSTOP)
    try:
        answers = [await user.say() for _ in range(4)]
    finally:
        world.valkey.process.send_signal(signal.SIGCONT)
    assert all(answer.bubble.ended for answer in answers), answers
    assert answers[-1].bubble.text == tokens("t4", WORDS)
    # one may be accepted in the moment in which Redis is about to be asked again
    assert any(answer.accepted["resumable"] is False for answer in answers[1:])
    slowest = max(answer.seconds for answer in answers)
    stall = max((held for held, _ in world.stalls()), default=0.0)
    told = f"the slowest of 4 turns took {slowest:.2f} s, the event loop was held up for {stall:.3f} s at most"
    print(f"\nRedis hung: {told} ({usual:.3f} s before)")
    assert stall < max(STALL_SECONDS, 2 * usual)
    await user.recovered()


async def longest_stall(world: World, user: User) -> float:
    """What this machine does to an event loop by itself, in four turns."""
    (world.home / "tally").write_text("")
    for _ in range(4):
        await user.say()
    user.said = 0
    return max((held for held, _ in world.stalls()), default=0.0)


async def test_redis_wiped_under_a_reply(world: World, user: User) -> None:
    async def wipe() -> None:
        await asyncio.sleep(0.4)
        async with redis.asyncio.Redis.from_url(world.valkey.url) as client:
            await client.flushall()

    wiping = asyncio.create_task(wipe())
    answer = await user.say(60)
    await wiping
    assert user.right(answer, 60)
    assert await drain(world, RECOVERY_SECONDS) is not None


async def test_the_queue_is_down(world: World, user: User) -> None:
    """Turns don't notice; the sweep, which reaches the queue, brings what the API could not send."""
    api = world.parts["api0"]
    there = api.environment["DRAMATIQ_BROKER_URL"]
    api.environment["DRAMATIQ_BROKER_URL"] = f"redis://127.0.0.1:{free_port()}/0"
    try:
        await replaced(world)
        answer = await user.say()
        assert user.right(answer), answer
        await asyncio.sleep(0.2)
        status, health = await user.health()
        assert (status, health["dependencies"]["queue"]["state"]) == (200, "down")
        assert await drain(world, RECOVERY_SECONDS) is not None, "nothing brought it to the learner"
    finally:
        api.environment["DRAMATIQ_BROKER_URL"] = there
        await replaced(world)
    await user.recovered()


async def replaced(world: World) -> None:
    api = world.parts["api0"]
    world.signal(api, signal.SIGKILL)
    await world.wait_ready()


async def test_postgresql_down(world: World, user: User) -> None:
    world.postgres.kill()
    try:
        answer = await user.say()
        assert (answer.status, answer.problem["code"]) == (503, "store_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.seconds < 10
        status, health = await user.health()
        assert (status, health["status"]) == (503, "unavailable")
    finally:
        world.postgres.start()
    await user.recovered()


async def test_postgresql_restarts_under_a_reply(world: World, user: User) -> None:
    async def restart() -> None:
        await asyncio.sleep(0.4)
        await world.kill_postmaster()

    restarting = asyncio.create_task(restart())
    answer = await user.say(60)
    await restarting
    assert user.right(answer, 60), answer
    assert "turn.completed" in answer.bubble.kinds


async def test_the_model_server_is_down(world: World, user: User) -> None:
    upstream = world.parts["upstream"]
    world.keeping = False
    world.signal(upstream, signal.SIGKILL)
    try:
        answer = await user.say()
        assert answer.status == 200
        failure = answer.bubble.data("turn.failed")
        assert failure["retryable"] is True
        assert failure["status"] == 503
        assert (await user.health())[0] == 200, "without a model it takes messages still, and keeps them"
        messages = f"{user.url}/{user.conversation}/messages"
        async with world.session.get(messages, headers=user.headers) as kept:
            assert [item["content"][:13] for item in (await kept.json())["items"]] == ["My day number"]
    finally:
        world.keeping = True
        await world.start(upstream)
    await user.recovered()
    # a learner to whom no model answered waits for seconds, more each time, and then learns
    assert await drain(world, 2 * RECOVERY_SECONDS) is not None
