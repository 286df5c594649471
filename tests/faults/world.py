"""The real program on real servers of its own: processes that can be killed, hops that can be cut."""

import asyncio
import contextlib
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import aiohttp
import asyncpg
import psutil
import redis.asyncio

from service.auth.config import AuthConfig
from service.auth.local_keys import AGE, SESSION, ensure_key, mint
from service.dev.children import free_port
from service.dev.errors import EmbeddedError
from service.dev.postgres import EmbeddedPostgres
from service.dev.valkey import EmbeddedValkey
from tests.faults.gaps import Absences
from tests.faults.proxy import Hop
from tests.fixtures import ready_made

CHECKOUT = Path(__file__).parents[2]
LEASE_SECONDS = 1.5
DISK_MB = 320
READY_SECONDS = 60.0
RESTART_SECONDS = 60.0
APIS, WORKERS = 2, 1


@dataclass
class Part:
    """A process of the service, and its successors."""

    name: str
    role: str
    port: int
    environment: dict[str, str]
    log: Path
    front: Hop
    """What its clients talk to."""
    redis: Hop
    postgres: Hop
    switch: str = ""
    pid: int = 0
    stopped: bool = False
    leaving: bool = False
    ready: bool = False
    restarts: int = 0

    @property
    def url(self) -> str:
        """Past the hop: for the harness itself."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def hops(self) -> tuple[Hop, ...]:
        return self.front, self.redis, self.postgres


@dataclass
class World:
    """Everything that runs: servers for good, processes by `populate` and `depopulate`. Made by `opened_world`."""

    home: Path
    session: aiohttp.ClientSession
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    parts: dict[str, Part] = field(default_factory=dict)
    forks: asyncio.subprocess.Process | None = None
    skewed: asyncio.subprocess.Process | None = None
    """Another parent, whose children live by the clock in `clock`."""
    disk: Path | None = None
    """A small file system that the servers' data is on, if it is to run full."""
    clock: Path | None = None
    keeping: bool = True
    """Whether who dies is replaced."""
    statuses: Counter[str] = field(default_factory=Counter)
    absences: Absences = field(default_factory=Absences)
    _pids: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    _gone: dict[int, int] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _begun: set[asyncio.Task[None]] = field(default_factory=set)
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _servers: asyncio.Lock = field(default_factory=asyncio.Lock)

    # --- who is there

    def of(self, *roles: str) -> list[Part]:
        return [part for part in self.parts.values() if part.role.removeprefix("naive-") in roles]

    @property
    def apis(self) -> list[Part]:
        return self.of("serve")

    def serving(self) -> list[Part]:
        return [part for part in self.apis if part.ready and not part.stopped and not part.leaving]

    def token(self, subject: str) -> str:
        return mint(AuthConfig(self.home, embedded=True), subject, timedelta(hours=4))

    # --- processes

    async def add(self, name: str, role: str, *, switch: str = "", **environment: str) -> Part:
        port = free_port() if role in {"serve", "naive-serve", "upstream"} else 0
        front, redis, postgres = [await Hop(to).open() for to in (port, self.valkey.port, self.postgres_port)]
        part = Part(name, role, port, {}, self.home / f"{name}.log", front, redis, postgres, switch)
        part.environment = {**self._environment(part), **environment}
        self.parts[name] = part
        await self.start(part)
        return part

    def _environment(self, part: Part) -> dict[str, str]:
        upstream = self.parts.get("upstream", part).url
        model = {"kind": "openai_compatible", "url": f"{upstream}/v1", "continues": True, "context_length": 8192}
        timeouts = {"connect": 1.0, "first_token": 3.0, "between_tokens": 1.5, "total": 120.0}
        backends = [
            {**model, "name": name, "model": name, "tier": name, "timeouts": timeouts} for name in ("large", "small")
        ]
        redis = self.valkey.url.replace(f":{self.valkey.port}/", f":{part.redis.port}/")
        return {
            "PATH": os.defpath,
            "PYTHONPATH": str(CHECKOUT),
            "HARNESS_TALLY": str(self.home / "tally"),
            "RAPPORT_HOME": str(self.home),
            "RAPPORT_EMBEDDED": "true",
            "RAPPORT_PORT": str(part.port),
            "RAPPORT_INSTANCE": part.name,
            "DATABASE_URL": self.postgres.dsn.replace(f":{self.postgres.port}/", f":{part.postgres.port}/"),
            "REDIS_URL": redis,
            "DRAMATIQ_BROKER_URL": redis.removesuffix("/0") + "/1",
            "LLM_BACKENDS": json.dumps(backends),
            "POSTGRES_POOL_SIZE": "4",
            "POSTGRES_MAX_OVERFLOW": "8",
            "TURN_LEASE_SECONDS": str(LEASE_SECONDS),
            "DRAIN_SECONDS": "6",
            "PROXY_IDLE_SECONDS": "0",
            "LEARN_ATTEMPTS": "1000",  # kills are not the text's fault, but nothing can tell
            "WORKER_THREADS": "2",
            "RATE_LIMIT_REQUESTS_PER_MINUTE": "1000000",
            "RATE_LIMIT_AUTHENTICATED_PER_DAY": "1000000",
            "STREAMS_PER_USER": "1000",
            "STREAMS_PER_ADDRESS": "10000",
        }

    async def start(self, part: Part) -> None:
        part.stopped = part.leaving = part.ready = False
        order = {
            "role": part.role,
            "environment": part.environment,
            "log": str(part.log),
            "switch": part.switch,
        }
        parent = self.skewed if self.skewed is not None and part.name == "api0" else self.forks
        async with self._starting:
            assert parent is not None
            assert parent.stdin is not None
            parent.stdin.write(json.dumps(order).encode() + b"\n")
            part.pid = await asyncio.wait_for(self._pids.get(), 30)

    async def _hear(self, parent: asyncio.subprocess.Process) -> None:
        """Learn from a forking parent who began and who ended; replace the dead."""
        assert parent.stdout is not None
        while line := await parent.stdout.readline():
            said = json.loads(line)
            if "pid" in said:
                self._pids.put_nowait(said["pid"])
            elif "ended" in said:
                self._gone[said["ended"]] = said["status"]
                for part in self.parts.values():
                    if part.pid == said["ended"]:
                        self.statuses[f"{part.role} {said['status']}"] += 1
                        part.ready = False
                        if self.keeping:
                            part.restarts += 1
                            task = asyncio.create_task(self.start(part))
                            self._begun.add(task)
                            task.add_done_callback(self._begun.discard)

    async def _look(self) -> None:
        """Know who is ready, as a load balancer does."""
        while True:
            for part in self.apis:
                if not part.stopped:
                    part.ready = await self._is_ready(part)
            await asyncio.sleep(0.05)

    async def _is_ready(self, part: Part) -> bool:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with self.session.get(f"{part.url}/health/live", timeout=aiohttp.ClientTimeout(total=1.0)) as answer:
                return answer.status == 200
        return False

    async def wait_ready(self, count: int | None = None) -> None:
        wanted = len(self.apis) if count is None else count
        deadline = time.monotonic() + READY_SECONDS
        while len(self.serving()) < wanted:
            if time.monotonic() > deadline:
                raise AssertionError("not ready:\n" + "\n".join(p.log.read_text()[-2000:] for p in self.apis))
            await asyncio.sleep(0.02)

    # --- what another topology has otherwise (tests/clusters/worlds.py)

    @property
    def postgres_port(self) -> int:
        """Where the service's processes find PostgreSQL, or what stands in front of it."""
        return self.postgres.port

    def redis_hops(self, part: Part) -> list[Hop]:
        """The ways that a process's messages to Redis go."""
        return [part.redis]

    def a_valkey(self, chance: random.Random) -> EmbeddedValkey:
        """A server that has live state."""
        return self.valkey

    async def wipe_valkey(self) -> bool:
        """False when it is down: then there is nothing to wipe."""
        try:
            async with redis.asyncio.Redis.from_url(self.valkey.url, socket_timeout=10) as client:
                return bool(await client.flushall())
        except redis.exceptions.RedisError:
            return False

    async def answers_again(self) -> None:
        """Until PostgreSQL takes statements again: a killed backend takes the whole server through its recovery."""
        for _ in range(200):
            with contextlib.suppress(OSError, asyncpg.PostgresError, TimeoutError):
                connection = await asyncpg.connect(self.postgres.url("rapport", superuser=True), timeout=2)
                try:
                    await connection.execute("SELECT 1", timeout=2)
                finally:
                    connection.terminate()
                return
            await asyncio.sleep(0.05)

    def signal(self, part: Part, number: int) -> bool:
        """Send a signal; False when there is nobody to send it to."""
        if part.pid in self._gone:
            return False
        try:
            os.kill(part.pid, number)
        except ProcessLookupError:
            return False
        if number == signal.SIGKILL:
            part.ready = False
        return True

    def heal(self) -> None:
        for part in self.parts.values():
            for hop in part.hops:
                hop.heal()

    # --- servers

    async def kill_valkey(self) -> None:
        async with self._servers:
            self.valkey.kill()
            await asyncio.to_thread(self.valkey.start)

    async def roll_valkey_back(self, seconds: float) -> None:
        """Let it lose its last seconds, as a restored backup or a fail-over to a replica that lags does."""
        async with self._servers:
            copy = self.home / "valkey-copy"
            shutil.rmtree(copy, ignore_errors=True)
            files = self.valkey.home / "appendonlydir"
            await asyncio.to_thread(shutil.copytree, files, copy)
            await asyncio.sleep(seconds)
            self.valkey.kill()
            owner = files.stat()
            shutil.rmtree(files)
            copy.rename(files)
            for path in (files, *files.iterdir()):
                os.chown(path, owner.st_uid, owner.st_gid)
            await asyncio.to_thread(self.valkey.start)

    async def kill_postmaster(self) -> None:
        async with self._servers:
            self.postgres.kill()
            await self._restart(self.postgres)

    async def _restart(self, server: EmbeddedPostgres | EmbeddedValkey) -> None:
        """Until it is up: a killed postmaster's children take a moment to notice, and keep its memory for as long."""
        deadline = time.monotonic() + RESTART_SECONDS
        while True:
            try:
                await asyncio.to_thread(server.restart)
            except EmbeddedError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)
            else:
                return

    async def revive_servers(self) -> None:
        """Start whichever server has ended by itself."""
        async with self._servers:
            for server in (self.postgres, self.valkey):
                if server.process is not None and server.process.poll() is not None:
                    await self._restart(server)

    def kill_backend(self, chance: random.Random) -> bool:
        """Kill one connection's process: PostgreSQL then ends all others and recovers from its log."""
        if self.postgres.process is None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.postgres.process.pid).children()
            serving = [child.pid for child in children if "rapport rapport" in " ".join(child.cmdline())]
            if serving:
                os.kill(chance.choice(serving), signal.SIGKILL)
                return True
        return False

    # --- beginning and end

    async def populate(
        self,
        *,
        apis: int = APIS,
        workers: int = WORKERS,
        runners: int = 0,
        switch: str = "",
        environment: dict[str, str] | None = None,
        prefix: str = "",
    ) -> None:
        """Start the service's processes, over an empty database, and wait until they serve."""
        self.keeping = True
        await self.add("upstream", "upstream")
        extra = {**({"TURN_RUNNER": "outside"} if runners else {}), **(environment or {})}
        wanted = {"api": ("serve", apis), "runner": ("runner", runners), "worker": ("worker", workers)}
        for name, (role, count) in {**wanted, "scheduler": ("scheduler", 1)}.items():
            if prefix and role not in {"serve", "worker"}:
                continue
            for number in range(count):
                await self.add(f"{name}{number}", f"{prefix}{role}", switch=switch, **extra)
        await self.wait_ready()

    async def depopulate(self) -> None:
        """End every process, and forget all that they did."""
        self.keeping = False
        await asyncio.gather(*self._begun, return_exceptions=True)
        parts, self.parts = list(self.parts.values()), {}
        for part in parts:
            self.signal(part, signal.SIGKILL)
            for hop in part.hops:
                await hop.close()
        connection = await asyncpg.connect(self.postgres.url("rapport", superuser=True))
        tables = await connection.fetch(
            """SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
            AND NOT relispartition AND relname NOT IN ('alembic_version', 'embedding_models')"""
        )
        await connection.execute(f"TRUNCATE {', '.join(row['relname'] for row in tables)}")
        await connection.close()
        await self.wipe_valkey()
        (self.home / "tally").unlink(missing_ok=True)
        self.statuses.clear()
        self.absences = Absences()

    async def open(self) -> None:
        """Start the servers, and the parent of all processes."""
        for key in (SESSION, AGE):
            ensure_key(self.home, key)
        self.forks = await self._forking()
        if self.clock is not None:
            self.set_clock(0)
            self.skewed = await self._forking(**skewing(self.clock))
        await asyncio.to_thread(ready_made.fill, self.postgres)
        self.postgres.start()
        self.valkey.start()
        for parent in filter(None, (self.forks, self.skewed)):
            assert parent.stdout is not None
            assert "ready" in json.loads(await parent.stdout.readline())
            self._tasks.append(asyncio.create_task(self._hear(parent)))
        self._tasks.append(asyncio.create_task(self._look()))

    async def _forking(self, **more: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.faults.forks",
            cwd=CHECKOUT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={"PATH": os.defpath, "PYTHONPATH": str(CHECKOUT), "RAPPORT_HOME": str(self.home), **more},
        )

    def set_clock(self, ahead: int) -> None:
        """Put the clock of api0 so many seconds ahead of everybody else's, while it runs."""
        assert self.clock is not None
        unfinished = self.clock.with_suffix(".unfinished")
        unfinished.write_text(f"+{ahead}\n")
        unfinished.rename(self.clock)

    async def close(self) -> None:
        self.keeping = False
        for task in (*self._tasks, *self._begun):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._begun, return_exceptions=True)
        for parent in filter(None, (self.forks, self.skewed)):
            if parent.stdin is not None:
                parent.stdin.close()  # it goes, and the kernel ends its children
            try:
                await asyncio.wait_for(parent.wait(), 10)
            except TimeoutError:  # it is in the middle of telling us something, and nobody listens any more
                parent.kill()
                await parent.wait()
        for part in self.parts.values():
            for hop in part.hops:
                await hop.close()
        self.valkey.kill()
        self.postgres.stop(immediately=True)

    def tally(self) -> Counter[str]:
        path = self.home / "tally"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(line.partition(" ")[0] for line in lines)

    def stalls(self) -> list[tuple[float, float]]:
        """Every hold-up of an API's event loop: seconds, and the seconds of processor time within them."""
        path = self.home / "tally"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [line.split() for line in lines if line.startswith("stall ")]
        return [(float(held), float(busy)) for _, held, busy in found]


def skewing(clock: Path) -> dict[str, str]:
    """The environment in which a process believes the clock in a file; its timers go on by the real one."""
    package = importlib.util.find_spec("libfaketime")
    assert package is not None, "pip install libfaketime"
    assert package.origin is not None
    library = next(Path(package.origin).parent.rglob("libfaketime.so*"))
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system of its own in memory. Wants root."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=711", "none", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@asynccontextmanager
async def opened_world(
    home: Path, *, clock: bool = False, disk: bool = False, kind: type[World] = World
) -> AsyncIterator[World]:
    """Servers, and nobody who uses them yet; all ended with the block."""
    await asyncio.to_thread(home.chmod, 0o711)  # servers of root's run as another user, who passes through
    async with AsyncExitStack() as stack:
        data = stack.enter_context(small_disk(home / "disk")) if disk else home
        limits = {"max_wal_size": "64MB", "min_wal_size": "32MB"} if disk else {}
        postgres = EmbeddedPostgres(data / "postgres", settings={"shared_buffers": "64MB", **limits})
        valkey = EmbeddedValkey(data / "valkey")
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        world = kind(home, session, postgres, valkey)
        world.disk = data if disk else None
        world.clock = home / "clock" if clock else None
        stack.push_async_callback(world.close)
        await world.open()
        yield world
