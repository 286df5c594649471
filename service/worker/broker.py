"""The queue: a Dramatiq broker on a Redis of its own, built when asked for and never at import."""

from collections.abc import Iterable
from dataclasses import dataclass

import redis
from dramatiq import Middleware
from dramatiq.brokers.redis import RedisBroker
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from sessions.address import RedisAddress

NAMESPACE = "rapport-queue"
ALWAYS = 1_000_000
"""Maintenance with every command. At Dramatiq's default of one in a thousand, a killed worker's messages came back
after a median of 13 minutes on an idle queue; at this, after the heartbeat's timeout (measured, docs/decisions/the-queue-only-wakes.md)."""


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    url: str
    heartbeat_ms: int = 7_000
    """After this silence a worker counts as dead, and its messages are given to others."""
    socket_timeout: float = 5.0
    connect_timeout: float = 2.0


def open_broker(config: BrokerConfig, middleware: Iterable[Middleware] = ()) -> RedisBroker:
    """A broker without result backend and without retries: the watermark knows what was done, the sweep tries again."""
    return RedisBroker(  # type: ignore[no-untyped-call]
        client=_client(config),
        namespace=NAMESPACE,
        maintenance_chance=ALWAYS,
        heartbeat_timeout=config.heartbeat_ms,
        dead_message_ttl=86_400_000,
        middleware=list(middleware),
    )


def _client(config: BrokerConfig) -> redis.Redis:
    """To one server, or to the primary that Sentinels name; a queue's scripts use keys of many slots of a cluster."""
    options = {
        "socket_timeout": config.socket_timeout,
        "socket_connect_timeout": config.connect_timeout,
        # a command whose answer was lost would otherwise be applied twice
        "retry": Retry(NoBackoff(), 0),
    }
    address = RedisAddress.parse(config.url)
    if address.kind == "cluster":
        raise ValueError("a queue can't be on a cluster")
    if address.kind == "server":
        return redis.Redis.from_url(config.url, **options, health_check_interval=15)
    sentinel = Sentinel(address.hosts, sentinel_kwargs={**options, **address.sentinel_options})  # type: ignore[no-untyped-call]
    client: redis.Redis = sentinel.master_for(  # type: ignore[no-untyped-call]
        address.service, **address.options, **options, health_check_interval=15
    )
    return client
