"""One Redis server as the link sees it: what is sent to it together, and when it is left alone."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis.asyncio
from redis.exceptions import (
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from sessions.config import RedisConfig
from sessions.errors import LiveStateUnavailableError
from sessions.metrics import REDIS_FAILURES
from sessions.pipe import Pipe

# a server that answers so takes no writes now, whichever key they are about
UNFIT = (OutOfMemoryError, ReadOnlyError, ClusterDownError, NoPermissionError)
UNFIT_WORDS = ("MISCONF", "NOREPLICAS")


PATIENT = ("socket_timeout", "socket_connect_timeout")


@dataclass(frozen=True, slots=True)
class Call:
    """One command, and the key that says where it goes; all keys that it names share a hash tag.

    It may be sent twice when an answer is lost: whoever needs it once makes it so, as the scripts here do.
    """

    key: str
    words: tuple[Any, ...]
    text: str = ""
    """Of a script: its source, for a server that doesn't know it yet."""

    def in_full(self) -> "Call":
        return replace(self, words=("EVAL", self.text, *self.words[2:]))


class Script:
    """A Lua script, sent by its hash, and in full to a server that doesn't know it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str], arguments: Sequence[Any]) -> Call:
        return Call(keys[0], ("EVALSHA", self.sha, len(keys), *keys, *arguments), self.text)


class Server:
    """One shared connection with a deadline and a circuit breaker.

    redis-py's own retries apply a write twice when its answer is lost (measured: SET NX answered None to the process
    that held the lock), so they are off; what is repeated here is idempotent by construction.
    """

    def __init__(
        self, client: redis.asyncio.Redis, config: RedisConfig, clock: Callable[[], float], name: tuple[str, int]
    ) -> None:
        self.client = client
        """For what is not in a hurry; its pool also makes the shared connection."""
        self.name = name
        self._config = config
        self._clock = clock
        self._resting_until = 0.0
        self._pipe: Pipe | None = None
        self._opening: asyncio.Task[Pipe] | None = None

    @property
    def resting(self) -> bool:
        """True while it is known to be away."""
        return self._clock() < self._resting_until

    async def send(self, calls: Sequence[Call], *, asking: bool = False) -> list[Any]:
        """Send all in one round trip. Answers in order; one that failed is the exception. Never raises for the server."""
        if self.resting:
            return [LiveStateUnavailableError("Redis is away.")] * len(calls)
        try:
            try:
                answers = await self._send(calls, asking=asking)
            except RedisConnectionError:
                # a connection that a restarted server has forgotten: a fresh one may do
                answers = await self._send(calls, asking=asking)
        except (RedisError, OSError, TimeoutError) as error:
            return [self._rest(error)] * len(calls)
        unfit = next((answer for answer in answers if _is_unfit(answer)), None)
        if unfit is not None:
            self._rest(unfit)
            if isinstance(unfit, ReadOnlyError):  # demoted: the address may lead to its successor by now
                self._close_pipe()
        return answers

    async def _send(self, calls: Sequence[Call], *, asking: bool) -> list[Any]:
        commands: list[Sequence[Any]] = []
        for call in calls:
            if asking:  # on the very connection, before each: it holds for the next command only
                commands.append(("ASKING",))
            commands.append(call.words)
        pipe = self._pipe
        if pipe is None or pipe.broken:
            async with asyncio.timeout(self._config.timeout * 2):
                pipe = await self._opened()
        answers = await pipe.ask(commands)
        return answers[1::2] if asking else answers

    async def _opened(self) -> Pipe:
        """The one new connection, whoever asked for it first."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open(), name="redis-connect")
            self._opening.add_done_callback(_heard)
        return await asyncio.shield(self._opening)

    async def _open(self, patience: float | None = None) -> Pipe:
        """Connect within the usual deadline, or with `patience` seconds for each of its steps."""
        connection = self.client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        usual = {name: getattr(connection, name) for name in PATIENT}
        for name in PATIENT if patience is not None else ():
            setattr(connection, name, patience)
        async with asyncio.timeout(2 * (self._config.timeout if patience is None else patience)):
            await connection.connect()
        for name, value in usual.items():
            setattr(connection, name, value)
        self._pipe = Pipe(connection, 2 * self._config.timeout)
        return self._pipe

    def _close_pipe(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()

    def _rest(self, error: Exception) -> LiveStateUnavailableError:
        REDIS_FAILURES.labels(type(error).__name__).inc()
        self._resting_until = self._clock() + self._config.rest
        away = LiveStateUnavailableError(f"Redis is away: {type(error).__name__}")
        away.__cause__ = error
        return away

    async def warm(self, seconds: float) -> bool:
        """Open the connection before the first request needs it. False when that could not be done in time.

        Opening takes several round trips, on a busy machine more time than a command may have: the first requests of a
        new process would find Redis away, and what must not go on without it would refuse them.
        """
        try:
            await self._open(seconds)
        except (RedisError, OSError, TimeoutError):
            return False
        return True

    async def ping(self) -> bool:
        """Ask the server itself, breaker or not."""
        try:
            await asyncio.wait_for(self.client.execute_command("PING"), self._config.timeout)  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError):
            return False
        self._resting_until = 0.0
        return True

    async def aclose(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        self._close_pipe()
        await self.client.aclose()


def _heard(opening: "asyncio.Task[Pipe]") -> None:
    """Whoever asked for the connection may have stopped waiting before it failed."""
    if not opening.cancelled():
        opening.exception()


def _is_unfit(answer: object) -> bool:
    return isinstance(answer, UNFIT) or (isinstance(answer, ResponseError) and str(answer).startswith(UNFIT_WORDS))
