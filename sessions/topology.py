"""Which server has which key: the one there is, the primary that Sentinels name, or the owner of the key's slot."""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, MovedError, RedisError

from sessions.address import RedisAddress
from sessions.config import RedisConfig
from sessions.servers import Server

WATCH_SECONDS = 0.2
"""Between looks at a cluster's map while one of its primaries is away: a replica takes its slots over within seconds."""
FIRST_LOOK_SECONDS = 2.0


class Topology(Protocol):
    async def ready(self) -> None:
        """Return when it is known where keys are, or can't be known now."""
        ...

    def server_of(self, key: str) -> Server | None:
        """The server that has the key as far as is known; None while nobody has."""
        ...

    def servers(self) -> Sequence[Server]:
        """Those that have keys now."""
        ...

    def moved(self, error: MovedError) -> Server: ...

    def asked(self, error: AskError) -> Server: ...

    def suspect(self) -> None:
        """A server that has keys did not answer."""
        ...

    async def look(self) -> bool:
        """Find out anew where keys are. False when no server could tell, or some keys are nowhere."""
        ...

    async def aclose(self) -> None: ...


def options(config: RedisConfig) -> dict[str, Any]:
    """What every connection has: a deadline, and no repetition behind our back."""
    return {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": config.timeout,
        "socket_connect_timeout": config.timeout,
        "health_check_interval": 0,
        "protocol": 2,  # the third may speak unasked, and the shared connection counts answers
    }


def open_topology(config: RedisConfig, clock: Callable[[], float]) -> Topology:
    """Raises `ValueError` for an address that isn't one."""
    address = RedisAddress.parse(config.url)
    of_servers = {**options(config), "client_name": "rapport"}
    if address.kind == "cluster":

        def connect(host: str, port: int) -> Server:
            client = redis.asyncio.Redis(host=host, port=port, **address.options, **of_servers)
            return Server(client, config, clock, (host, port))

        return Cluster(address.hosts, connect)
    if address.kind == "sentinel":
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            address.hosts, sentinel_kwargs={**options(config), **address.sentinel_options}
        )
        client = sentinel.master_for(address.service, **address.options, **of_servers)
        return OneServer(Server(client, config, clock, address.hosts[0]), sentinel)
    client = redis.asyncio.Redis.from_url(address.url, **of_servers)
    return OneServer(Server(client, config, clock, ("", 0)))


class OneServer:
    """All keys are on one server; when Sentinels name another primary, new connections go there."""

    def __init__(self, server: Server, sentinel: Sentinel | None = None) -> None:
        self._server = server
        self._sentinel = sentinel

    async def ready(self) -> None:
        return

    def server_of(self, key: str) -> Server:  # noqa: ARG002  the only one there is
        return self._server

    def servers(self) -> Sequence[Server]:
        return (self._server,)

    def moved(self, error: MovedError) -> Server:  # noqa: ARG002
        return self._server  # a cluster under a server's address: it is told as "away", and why, by its next answer

    def asked(self, error: AskError) -> Server:  # noqa: ARG002
        return self._server

    def suspect(self) -> None:
        return

    async def look(self) -> bool:
        return True

    async def aclose(self) -> None:
        await self._server.aclose()
        if self._sentinel is not None:
            await self._sentinel.aclose()


class Cluster:
    """The map of a cluster's slots, mended by what servers say and drawn anew when one doesn't answer.

    Not redis-py's cluster client: a pipeline of its fails as a whole when one node is away, does not look for the new
    primary unless retries are on, and sends ASKING over another connection than the command that it is for.
    """

    def __init__(self, seeds: Iterable[tuple[str, int]], connect: Callable[[str, int], Server]) -> None:
        self._seeds = tuple(seeds)
        self._connect = connect
        self._known: dict[tuple[str, int], Server] = {}
        self._owners: list[Server | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._primaries: tuple[Server, ...] = ()
        self._unknown_until = 0.0
        self._looking: asyncio.Task[bool] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def ready(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self._primaries and now >= self._unknown_until:
            await self.look()
            # nobody there: not every request is to find that out
            self._unknown_until = now + FIRST_LOOK_SECONDS

    def server_of(self, key: str) -> Server | None:
        return self._owners[key_slot(key.encode())]

    def servers(self) -> Sequence[Server]:
        return self._primaries

    def moved(self, error: MovedError) -> Server:
        server = self.asked(error)
        self._owners[error.slot_id] = server
        if server not in self._primaries:
            self._primaries = (*self._primaries, server)
        self.suspect()
        return server

    def asked(self, error: AskError) -> Server:
        return self._at(error.host or self._seeds[0][0], error.port)

    def suspect(self) -> None:
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(), name="redis-cluster-map")

    async def _watch(self) -> None:
        while True:
            await self.look()
            if not any(server.resting for server in self._primaries):
                return
            await asyncio.sleep(WATCH_SECONDS)

    async def look(self) -> bool:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="redis-cluster-look")
        return await asyncio.shield(self._looking)

    async def _look(self) -> bool:
        known = [server for server in self._known.values() if not server.resting]
        random.shuffle(known)
        seeds = [self._at(*seed) for seed in self._seeds]
        for server in [*known, *(seed for seed in seeds if seed not in known)]:
            try:
                asking = server.client.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
                ranges = await asyncio.wait_for(asking, FIRST_LOOK_SECONDS)
            except (RedisError, OSError, TimeoutError):
                continue
            if ranges:
                self._draw(ranges, server.name[0])
                return all(owner is not None for owner in self._owners)
        return False

    def _draw(self, ranges: Any, host: str) -> None:
        owners: list[Server | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, primary, *_replicas in ranges:
            name = primary[0].decode() if isinstance(primary[0], bytes) else primary[0]
            # a node that doesn't know its own name is where it was asked
            owners[first : last + 1] = [self._at(name or host, primary[1])] * (last + 1 - first)
        self._owners = owners
        self._primaries = tuple({server.name: server for server in owners if server is not None}.values())
        wanted = {server.name for server in self._primaries} | set(self._seeds)
        for name in self._known.keys() - wanted:
            task = asyncio.create_task(self._known.pop(name).aclose(), name="redis-cluster-close")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _at(self, host: str, port: int) -> Server:
        if (host, port) not in self._known:
            self._known[host, port] = self._connect(host, port)
        return self._known[host, port]

    async def aclose(self) -> None:
        tasks = [task for task in (self._watching, self._looking, *self._closing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._known.values():
            await server.aclose()
