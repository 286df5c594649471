"""The faults: each does one thing to the running system, puts it right again, and says whether it really happened."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import redis.asyncio

from tests.faults.proxy import Hop
from tests.faults.upstream import FAULTS as UPSTREAM_FAULTS
from tests.faults.world import LEASE_SECONDS, Part, World

Fault = Callable[["Injector"], Awaitable[bool]]
KNOWN: dict[str, Fault] = {}
SLEEP_SECONDS = 1.5


def fault(name: str) -> Callable[[Fault], Fault]:
    def known(strike: Fault) -> Fault:
        KNOWN[name] = strike
        return strike

    return known


@dataclass
class Injector:
    """Strikes a plan of faults, in its order, and counts those that happened."""

    world: World
    chance: random.Random
    done: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)

    async def run(self, plan: list[str], *, pause: tuple[float, float] = (0.1, 0.5)) -> None:
        """Strike each fault of the plan until it has happened, a few times at most."""
        for name in plan:
            for _ in range(20):
                await asyncio.sleep(self.chance.uniform(*pause))
                if await KNOWN[name](self):
                    self.done[name] += 1
                    break
                self.missed[name] += 1

    async def victim(self, *roles: str) -> Part | None:
        """A process that is up. Of those that serve, one is left: the harness tests take-overs, not an outage."""
        for _ in range(200):
            ready = [part for part in self.world.of(*roles) if not part.stopped and not part.leaving]
            if "serve" in roles:
                serving = self.world.serving()
                ready = serving if len(serving) > 1 else []
            if ready:
                return self.chance.choice(ready)
            await asyncio.sleep(0.05)
        return None

    def hop(self, kind: str) -> Hop:
        """A way that one process's messages go: to Redis, to PostgreSQL, or from its clients."""
        if kind == "client":
            return self.chance.choice(self.world.apis).front
        part = self.chance.choice(self.world.of("serve", "runner", "worker"))
        return part.redis if kind == "redis" else part.postgres


def plan_of(counts: dict[str, int], chance: random.Random) -> list[str]:
    plan = [name for name, count in counts.items() for _ in range(count)]
    chance.shuffle(plan)
    return plan


def killing(*roles: str) -> Fault:
    async def strike(injector: Injector) -> bool:
        part = await injector.victim(*roles)
        return part is not None and injector.world.signal(part, signal.SIGKILL)

    return strike


for role in ("serve", "runner", "worker", "scheduler"):
    fault(f"kill {'api' if role == 'serve' else role}")(killing(role))


def stopping(*roles: str) -> Fault:
    async def strike(injector: Injector) -> bool:
        """Stop one for longer than its lease: when it wakes, it believes to be the writer still."""
        part = await injector.victim(*roles)
        if part is None or not injector.world.signal(part, signal.SIGSTOP):
            return False
        part.stopped, part.ready = True, False
        pid = part.pid
        await asyncio.sleep(injector.chance.uniform(1.5, 2.5) * LEASE_SECONDS)
        part.stopped = False
        return part.pid == pid and injector.world.signal(part, signal.SIGCONT)

    return strike


@fault("sleepwalker")
async def sleepwalker(injector: Injector) -> bool:
    """Stop a writer until others have finished its replies, wipe their logs, and let it go on: only its epoch tells."""
    part = await injector.victim("serve")
    if part is None or not injector.world.signal(part, signal.SIGSTOP):
        return False
    part.stopped, part.ready = True, False
    pid = part.pid
    await asyncio.sleep(2 * LEASE_SECONDS + SLEEP_SECONDS)
    async with redis.asyncio.Redis.from_url(injector.world.valkey.url) as client:
        await client.flushall()
    part.stopped = False
    return part.pid == pid and injector.world.signal(part, signal.SIGCONT)


fault("stop api")(stopping("serve"))
fault("stop runner")(stopping("runner"))
fault("stop worker")(stopping("worker"))


@fault("restart api")
async def restart_api(injector: Injector) -> bool:
    """SIGTERM: it drains, goes, and is replaced."""
    part = await injector.victim("serve")
    if part is None:
        return False
    before = part.restarts
    part.leaving = True
    if not injector.world.signal(part, signal.SIGTERM):
        return False
    for _ in range(400):
        if part.restarts > before:
            return injector.world.statuses["serve 0"] > 0
        await asyncio.sleep(0.05)
    return False


@fault("kill valkey")
async def kill_valkey(injector: Injector) -> bool:
    await injector.world.kill_valkey()
    return True


@fault("wipe valkey")
async def wipe_valkey(injector: Injector) -> bool:
    async with redis.asyncio.Redis.from_url(injector.world.valkey.url) as client:
        return bool(await client.flushall())


@fault("roll valkey back")
async def roll_valkey_back(injector: Injector) -> bool:
    await injector.world.roll_valkey_back(injector.chance.uniform(0.3, 2.0))
    return True


@fault("stop valkey")
async def stop_valkey(injector: Injector) -> bool:
    process = injector.world.valkey.process
    if process is None:
        return False
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(injector.chance.uniform(1.0, 3.0))
    process.send_signal(signal.SIGCONT)
    return True


@fault("kill postmaster")
async def kill_postmaster(injector: Injector) -> bool:
    await injector.world.kill_postmaster()
    return True


@fault("kill postgres backend")
async def kill_backend(injector: Injector) -> bool:
    return injector.world.kill_backend(injector.chance)


def hopping(kind: str, what: str) -> Fault:
    async def strike(injector: Injector) -> bool:
        hop = injector.hop(kind)
        if what == "cut":
            return hop.cut() > 0
        if what == "lost answer":
            return await ambushed(hop, AMBUSHES[kind])
        if what == "delay":
            hop.delay = injector.chance.uniform(0.1, 0.4)
        else:
            hop.deaf = True
        await asyncio.sleep(injector.chance.uniform(1.0, 1.6 * LEASE_SECONDS))
        hop.heal()
        return True

    return strike


async def ambushed(hop: Hop, request: bytes) -> bool:
    """Drop one answer to such a request after the server has done what was asked."""
    before = hop.ambushed
    hop.ambush = request
    for _ in range(60):
        await asyncio.sleep(0.05)
        if hop.ambushed > before:
            return True
    hop.ambush = None
    return False


AMBUSHES = {"redis": b"EVALSHA", "postgres": b"COMMIT", "client": b"/turns HTTP"}

for hop_kind in ("redis", "postgres", "client"):
    for happening in ("cut", "lost answer", "delay", "black hole"):
        fault(f"{hop_kind} {happening}")(hopping(hop_kind, happening))


def breaking(kind: str) -> Fault:
    async def strike(injector: Injector) -> bool:
        world = injector.world
        url = f"{world.parts['upstream'].url}/control"
        async with world.session.post(url, json={}) as answer:
            before = (await answer.json()).get(kind, 0)
        async with world.session.post(url, json={"fault": kind}) as answer:
            await answer.read()
        for _ in range(200):
            await asyncio.sleep(0.05)
            async with world.session.post(url, json={}) as answer:
                if (await answer.json()).get(kind, 0) > before:
                    return True
        return False

    return strike


for upstream_fault in UPSTREAM_FAULTS:
    fault(f"upstream {upstream_fault}")(breaking(upstream_fault))
