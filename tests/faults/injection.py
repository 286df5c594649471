"""The faults: each does one thing to the running system, puts it right again, and says whether it really happened."""

import asyncio
import contextlib
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from tests.faults.proxy import Hop
from tests.faults.upstream import FAULTS as UPSTREAM_FAULTS
from tests.faults.world import LEASE_SECONDS, Part, World

Fault = Callable[["Injector"], Awaitable[bool]]
KNOWN: dict[str, Fault] = {}
SLEEP_SECONDS = 1.5
LASTING = ("stop ", "sleepwalker", "restart ", "upstream ", "jump ", " delay", " black hole", " lost answer")
AT_ONCE = 3
UNSEEN = ("kill postgres backend", "fill disk", "kill valkey", "roll valkey back")
"""Over before the servers serve again: their absence ends when they do."""


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
        """Strike the whole plan: what is over at once one by one, what takes a while meanwhile, a few at a time."""
        at_once = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as lasting:
            for name in plan:
                await asyncio.sleep(self.chance.uniform(*pause))
                if name.startswith(LASTING) or name.endswith(LASTING):
                    await at_once.acquire()
                    lasting.create_task(self._strike(name)).add_done_callback(lambda _: at_once.release())
                else:
                    await self._strike(name)

    async def _strike(self, name: str) -> None:
        """Strike until it has happened, a few times at most."""
        for _ in range(20):
            with self.world.absences.noted(name):
                struck = await KNOWN[name](self)
                if struck and name in UNSEEN:
                    await self.world.answers_again()
            if struck:
                self.done[name] += 1
                return
            self.missed[name] += 1
            await asyncio.sleep(self.chance.uniform(0.1, 0.5))

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
        return self.chance.choice(self.world.redis_hops(part)) if kind == "redis" else part.postgres


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
    lost = await injector.world.wipe_valkey()
    part.stopped = False
    return part.pid == pid and injector.world.signal(part, signal.SIGCONT) and lost


fault("stop api")(stopping("serve"))
fault("stop runner")(stopping("runner"))
fault("stop worker")(stopping("worker"))


@fault("lose the queue")
async def lose_the_queue(injector: Injector) -> bool:
    """Let wake-ups gather while no worker takes them, then lose them all, and the workers with what they had taken."""
    workers = [part for part in injector.world.of("worker") if injector.world.signal(part, signal.SIGSTOP)]
    await asyncio.sleep(1.0)
    lost = await injector.world.wipe_valkey()
    killed = [part for part in workers if injector.world.signal(part, signal.SIGKILL)]
    return lost and bool(killed)


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
    return await injector.world.wipe_valkey()


@fault("roll valkey back")
async def roll_valkey_back(injector: Injector) -> bool:
    await injector.world.roll_valkey_back(injector.chance.uniform(0.3, 2.0))
    return True


@fault("stop valkey")
async def stop_valkey(injector: Injector) -> bool:
    process = injector.world.a_valkey(injector.chance).process
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


@fault("jump clock")
async def jump_clock(injector: Injector) -> bool:
    """One process's clock jumps, forwards or back, by minutes."""
    if injector.world.clock is None:
        return False
    injector.world.set_clock(injector.chance.choice([0, 45, 120, 600]))
    await asyncio.sleep(1.0)
    return True


@fault("fill disk")
async def fill_disk(injector: Injector) -> bool:
    """The servers' disk is full for some seconds."""
    disk = injector.world.disk
    if disk is None:
        return False
    ballast = disk / "ballast"
    await asyncio.to_thread(stuff, ballast)
    full = await grows_no_more(injector.world)
    await asyncio.sleep(injector.chance.uniform(2.0, 4.0))
    ballast.unlink()
    await injector.world.revive_servers()
    return full


async def grows_no_more(world: World) -> bool:
    """Whether PostgreSQL itself says that its disk is full."""
    try:
        connection = await asyncpg.connect(world.postgres.url("rapport", superuser=True), timeout=2)
    except (OSError, asyncpg.PostgresError, TimeoutError):
        return True  # it couldn't even answer
    try:
        await connection.execute("CREATE TABLE growth AS SELECT repeat('x', 100) FROM generate_series(1, 100000)")
    except asyncpg.PostgresError:
        return True
    else:
        await connection.execute("DROP TABLE growth")
        return False
    finally:
        await connection.close()


def stuff(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)


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
