"""One client to Redis that neither retries behind our back nor waits on a server that is known to be away."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sessions.config import RedisConfig
from sessions.errors import LiveStateUnavailableError
from sessions.metrics import REDIS_FAILURES

T = TypeVar("T")


class RedisLink:
    """Runs commands with a deadline and a circuit breaker.

    redis-py's own retries apply a write twice when its answer is lost (measured: SET NX answered None to the process
    that held the lock), so they are off; what is repeated here is idempotent by construction.
    """

    def __init__(self, config: RedisConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._resting_until = 0.0
        self.client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
            config.url,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=config.timeout,
            socket_connect_timeout=config.timeout,
            max_connections=config.connections,
            health_check_interval=0,
            client_name="rapport",
        )

    @property
    def resting(self) -> bool:
        """True while Redis is known to be away."""
        return self._clock() < self._resting_until

    async def run(self, command: Callable[[redis.asyncio.Redis], Awaitable[T]]) -> T:
        """Run an idempotent command. Raises `LiveStateUnavailableError`."""
        if self.resting:
            raise LiveStateUnavailableError("Redis is away.")
        try:
            try:
                return await asyncio.wait_for(command(self.client), self._config.timeout * 2)
            except RedisConnectionError as error:
                if isinstance(error, RedisTimeoutError):
                    raise
                # a pooled connection that a restarted server has forgotten: a fresh one may do
                return await asyncio.wait_for(command(self.client), self._config.timeout * 2)
        except (RedisError, OSError, TimeoutError) as error:
            REDIS_FAILURES.labels(type(error).__name__).inc()
            self._resting_until = self._clock() + self._config.rest
            raise LiveStateUnavailableError(f"Redis is away: {type(error).__name__}") from error

    async def ping(self) -> bool:
        """Ask Redis itself, breaker or not."""
        try:
            await asyncio.wait_for(_awaitable(self.client.ping()), self._config.timeout)
        except (RedisError, OSError, TimeoutError):
            return False
        self._resting_until = 0.0
        return True

    async def aclose(self) -> None:
        await self.client.aclose()


async def _awaitable(value: Any) -> Any:
    return await value
