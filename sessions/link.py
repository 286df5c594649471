"""The way to Redis: one server, one that Sentinels name, or a cluster; never waits on what is known to be away."""

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import redis.asyncio
from redis.exceptions import AskError, MovedError, NoScriptError, TryAgainError

from sessions.config import RedisConfig
from sessions.errors import LiveStateUnavailableError
from sessions.servers import Call, Server
from sessions.topology import open_topology

REDIRECTIONS = 5
TRY_AGAIN_SECONDS = 0.02


class RedisLink:
    """Sends calls to where their keys are: what goes to one server goes in one round trip, and servers fail apart."""

    def __init__(self, config: RedisConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `ValueError` for a URL that is none. Connects when it is first used."""
        self._topology = open_topology(config, clock)

    @property
    def client(self) -> redis.asyncio.Redis:
        """Of the one server there is, or of some server of a cluster: for tests and tools."""
        return self._topology.servers()[0].client

    @property
    def resting(self) -> bool:
        """True while a server is known to be away."""
        return any(server.resting for server in self._topology.servers())

    def reaches(self, key: str) -> bool:
        """Whether the server of this key is not known to be away."""
        server = self._topology.server_of(key)
        return server is not None and not server.resting

    def shard(self, key: str) -> Hashable:
        """The same for keys that are on one server now: who batches by it doesn't make one wait for another."""
        server = self._topology.server_of(key)
        return None if server is None else server.name

    async def ask(self, calls: Sequence[Call]) -> list[Any]:
        """Answers in order, by one round trip to each server. One that failed is a `LiveStateUnavailableError`."""
        await self._topology.ready()
        answers: list[Any] = [None] * len(calls)
        pending = dict(enumerate(calls))
        redirected: dict[int, tuple[Server, bool]] = {}
        for _ in range(REDIRECTIONS):
            answers_now = await self._send(pending, redirected)
            again: dict[int, Call] = {}
            for position, answer in answers_now.items():
                answers[position] = answer
                if isinstance(answer, MovedError):
                    redirected[position] = (self._topology.moved(answer), False)
                elif isinstance(answer, AskError):
                    redirected[position] = (self._topology.asked(answer), True)
                elif isinstance(answer, NoScriptError):
                    # a restarted or flushed server, or a new owner of the slot, has yet to hear it; nothing was done
                    again[position] = pending[position].in_full()
                    continue
                elif isinstance(answer, TryAgainError):
                    await asyncio.sleep(TRY_AGAIN_SECONDS)
                else:
                    continue
                again[position] = pending[position]
            if not again:
                break
            pending = again
        return [
            LiveStateUnavailableError(_refusal(answer))
            if isinstance(answer, Exception) and not isinstance(answer, LiveStateUnavailableError)
            else answer
            for answer in answers
        ]

    async def one(self, call: Call) -> Any:
        """One answer. Raises `LiveStateUnavailableError`."""
        (answer,) = await self.ask([call])
        if isinstance(answer, LiveStateUnavailableError):
            raise answer
        return answer

    async def _send(self, calls: dict[int, Call], redirected: dict[int, tuple[Server, bool]]) -> dict[int, Any]:
        groups: dict[tuple[Server, bool], list[int]] = {}
        answers: dict[int, Any] = {}
        for position, call in calls.items():
            server, asking = redirected.get(position) or (self._topology.server_of(call.key), False)
            if server is None:
                answers[position] = LiveStateUnavailableError("No server has this part of the cluster.")
                self._topology.suspect()
            else:
                groups.setdefault((server, asking), []).append(position)
        sending = [
            server.send([calls[position] for position in positions], asking=asking)
            for (server, asking), positions in groups.items()
        ]
        found = [await sending[0]] if len(sending) == 1 else await asyncio.gather(*sending)
        for ((server, _), positions), said in zip(groups.items(), found, strict=True):
            answers.update(zip(positions, said, strict=True))
            if server.resting:
                self._topology.suspect()
        return answers

    async def warm(self, seconds: float = 1.0) -> bool:
        """Connect to each server, at start. False when one could not be reached: it may be later."""
        await self._topology.ready()
        return all(await asyncio.gather(*(server.warm(seconds) for server in self._topology.servers())))

    async def ping(self) -> bool:
        """Ask the servers themselves, breaker or not."""
        if not await self._topology.look():
            return False
        return all(await asyncio.gather(*(server.ping() for server in self._topology.servers())))

    async def aclose(self) -> None:
        await self._topology.aclose()


def _refusal(answer: Exception) -> str:
    if isinstance(answer, AskError):
        return "This server is part of a cluster and has not all keys: name it as redis+cluster://"
    return f"Redis refused: {answer}"
