"""The harness's world on other topologies of the same engines: the same program, plan and judge."""

import asyncio
import contextlib
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import asyncpg
import redis

from service.dev.postgres import EmbeddedPostgres
from service.dev.valkey import EmbeddedValkey
from tests.clusters.postgreses import PgBouncer, Standby
from tests.clusters.valkeys import Node, ValkeyCluster, Valkeys, ValkeySentinels, until
from tests.faults.injection import Fault, Injector, fault
from tests.faults.proxy import Hop
from tests.faults.world import Part, World

FAILOVER_SECONDS = 30.0
W = TypeVar("W", bound=World)


@dataclass
class ValkeysWorld(World):
    """Live state on several servers; one of them may be killed, and another takes its place.

    A hop stands in front of each, under which it is known to clients and to its peers.
    """

    hops: list[Hop] = field(default_factory=list)
    failovers: int = 0

    @property
    def valkeys(self) -> Valkeys:
        raise NotImplementedError

    async def open(self) -> None:
        await super().open()
        self.valkeys.prepare()
        for node in self.valkeys.nodes:
            hop = await Hop(node.server.port).open()
            node.seen_as = hop.port
            self.hops.append(hop)
        self.valkeys.launch()
        await asyncio.to_thread(self.valkeys.form)

    async def close(self) -> None:
        await super().close()
        self.valkeys.stop()
        for hop in self.hops:
            await hop.close()

    def redis_hops(self, part: Part) -> list[Hop]:
        return self.hops

    def heal(self) -> None:
        super().heal()
        for hop in self.hops:
            hop.heal()

    def a_valkey(self, chance: random.Random) -> EmbeddedValkey:
        owners = self.valkeys.owners()
        return chance.choice(owners or self.valkeys.nodes).server

    async def wipe_valkey(self) -> bool:
        try:
            await asyncio.to_thread(self.valkeys.flush)
        except redis.RedisError:
            return False
        return await super().wipe_valkey()

    async def kill_valkey(self) -> None:
        """Kill a primary, let another take its place, and bring it back as that one's replica."""
        async with self._servers:
            owner = await self._victim()
            await self._fail_over(owner)

    async def roll_valkey_back(self, seconds: float) -> None:
        """Kill a primary whose replicas have not heard from it for so long: its last seconds are lost."""
        async with self._servers:
            owner = await self._victim()
            replicas = self.valkeys.replicas_of(owner)
            for node in replicas:
                node.signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            owner.server.kill()
            for node in replicas:
                node.signal(signal.SIGCONT)
            await self._fail_over(owner)

    async def _victim(self) -> Node:
        """A primary that has somebody to succeed it."""

        def found() -> Node | None:
            for owner in random.sample(owners := self.valkeys.owners(), len(owners)):
                for node in self.valkeys.replicas_of(owner):
                    with contextlib.suppress(redis.RedisError):
                        if node.ask("INFO", "replication").get("master_link_status") == "up":
                            return owner
            return None

        chosen: list[Node] = []

        def done() -> bool:
            if node := found():
                chosen.append(node)
            return bool(chosen)

        await asyncio.to_thread(until, "a primary has a replica in step", done, FAILOVER_SECONDS)
        return chosen[0]

    async def _fail_over(self, owner: Node) -> None:
        successors = self.valkeys.replicas_of(owner)
        owner.server.kill()

        def succeeded() -> bool:
            return any(node.role() == "master" for node in successors)

        await asyncio.to_thread(until, "a replica takes over", succeeded, FAILOVER_SECONDS)
        self.failovers += 1
        owner.server.start()


@dataclass
class ClusterWorld(ValkeysWorld):
    """Three primaries with a replica each; the queue on a Valkey of its own."""

    cluster: ValkeyCluster | None = None

    @property
    def valkeys(self) -> ValkeyCluster:
        if self.cluster is None:
            self.cluster = ValkeyCluster(self.home / "cluster")
        return self.cluster

    def _environment(self, part: Part) -> dict[str, str]:
        return {**super()._environment(part), "REDIS_URL": self.valkeys.url}


@dataclass
class SentinelWorld(ValkeysWorld):
    """A primary with two replicas and three Sentinels, for live state and queue."""

    sentinels: ValkeySentinels | None = None

    @property
    def valkeys(self) -> ValkeySentinels:
        if self.sentinels is None:
            self.sentinels = ValkeySentinels(self.home / "sentinels")
        return self.sentinels

    def _environment(self, part: Part) -> dict[str, str]:
        addresses = {"REDIS_URL": self.valkeys.url(0), "DRAMATIQ_BROKER_URL": self.valkeys.url(1)}
        return {**super()._environment(part), **addresses}


@dataclass
class ReplicaWorld(World):
    """A streaming standby that reads go to."""

    standby: EmbeddedPostgres | None = None

    async def open(self) -> None:
        await super().open()
        home = self.home / "standby"
        self.standby = Standby(home, settings={"shared_buffers": "64MB"}, primary=self.postgres)
        self.standby.start()

    async def close(self) -> None:
        await super().close()
        if self.standby is not None:
            self.standby.stop(immediately=True)

    @property
    def replica(self) -> EmbeddedPostgres:
        assert self.standby is not None
        return self.standby

    def _environment(self, part: Part) -> dict[str, str]:
        return {**super()._environment(part), "DATABASE_REPLICA_URLS": self.replica.dsn}

    async def restart_replica(self) -> None:
        async with self._servers:
            self.replica.kill()
            await self._restart(self.replica)


@dataclass
class BouncerWorld(World):
    """PgBouncer in transaction mode in front of PostgreSQL, for every process."""

    bouncer: PgBouncer | None = None

    async def open(self) -> None:
        await super().open()
        self.bouncer = PgBouncer(self.home / "pgbouncer", self.postgres).start()

    async def close(self) -> None:
        await super().close()
        if self.bouncer is not None:
            self.bouncer.kill()

    @property
    def postgres_port(self) -> int:
        assert self.bouncer is not None
        return self.bouncer.port


def of(kind: type[W]) -> Callable[[Callable[[Injector, W], Awaitable[bool]]], Fault]:
    """A fault that needs such a world."""

    def made(strike: Callable[[Injector, W], Awaitable[bool]]) -> Fault:
        async def checked(injector: Injector) -> bool:
            return isinstance(injector.world, kind) and await strike(injector, injector.world)

        return checked

    return made


@fault("kill replica")
@of(ReplicaWorld)
async def kill_replica(injector: Injector, world: ReplicaWorld) -> bool:
    await world.restart_replica()
    return True


@fault("stop replica")
@of(ReplicaWorld)
async def stop_replica(injector: Injector, world: ReplicaWorld) -> bool:
    """Its processes stand still: it takes connections and never answers."""
    import psutil

    assert world.replica.process is not None
    family = [psutil.Process(world.replica.process.pid)]
    family += family[0].children(recursive=True)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    await asyncio.sleep(injector.chance.uniform(1.0, 3.0))
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
    return True


@fault("late replica")
@of(ReplicaWorld)
async def late_replica(injector: Injector, world: ReplicaWorld) -> bool:
    """It goes on answering, and replays nothing for a while: whoever reads there reads the past."""
    try:
        connection = await asyncpg.connect(world.replica.url("rapport", superuser=True), timeout=2)
    except (OSError, asyncpg.PostgresError, TimeoutError):
        return False
    try:
        await connection.execute("SELECT pg_wal_replay_pause()")
        await asyncio.sleep(injector.chance.uniform(1.0, 3.0))
        await connection.execute("SELECT pg_wal_replay_resume()")
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    finally:
        await connection.close(timeout=1)
    return True


@fault("restart pgbouncer")
@of(BouncerWorld)
async def restart_pgbouncer(injector: Injector, world: BouncerWorld) -> bool:
    assert world.bouncer is not None
    world.bouncer.restart()  # in this thread, with which the kernel would end it
    return True


TOPOLOGIES: dict[str, tuple[type[World], dict[str, int]]] = {
    "cluster": (ClusterWorld, {"stop valkey": 1}),
    "sentinel": (SentinelWorld, {"stop valkey": 1}),
    "replica": (ReplicaWorld, {"kill replica": 2, "stop replica": 1, "late replica": 2}),
    "pgbouncer": (BouncerWorld, {"restart pgbouncer": 3}),
}
"""Each with the faults that are its own, beside those of the short run."""
