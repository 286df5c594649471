"""What the parts cost while a load runs: processor time and memory of each, queue, connections, caches."""

import asyncio
import contextlib
import os
import threading
import time
import urllib.request
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import asyncpg
import psutil
import redis

from loadtests.topology import Topology
from service.dev.postgres import run_alone
from service.worker.broker import NAMESPACE
from service.worker.tasks import QUEUE

TICK = os.sysconf("SC_CLK_TCK")
EVERY_SECONDS = 1.0
SLOW_SECONDS = 5.0
"""Between looks that cost more: shared memory, databases."""
SHARE = 20
"""They take one part in so many of a core at most: a hundred processes of PostgreSQL are weighed for a second."""


def family(pid: int) -> list[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return []


def processor_seconds(pid: int) -> float:
    """Of a process, its living children, and those that it has already buried."""
    total = 0.0
    for each in family(pid):
        with contextlib.suppress(OSError, IndexError):
            values = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            own, buried = int(values[11]) + int(values[12]), int(values[13]) + int(values[14])
            total += (own + buried if each == pid else own) / TICK
    return total


def memory_mb(pid: int) -> float:
    """Proportional set size of a process and its children: what they share is counted once."""
    total = 0
    for each in family(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def open_files(pid: int) -> int:
    """Descriptors of the one process in the family that has the most."""
    counts = [0]
    for each in family(pid):
        with contextlib.suppress(OSError):
            counts.append(len(list(Path(f"/proc/{each}/fd").iterdir())))
    return max(counts)


def metrics_of(port: int) -> dict[str, float]:
    """The counters of one instance: `name{labels}` to value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for line in text.splitlines():
        if line.startswith("rapport_"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


@dataclass
class Samples:
    """What was seen; a row of it for each moment."""

    moments: list[dict[str, Any]] = field(default_factory=list)
    processor: dict[str, float] = field(default_factory=dict)
    """Seconds of the processor that each part used while it was looked at."""
    memory: dict[str, float] = field(default_factory=dict)
    """The most that each part had, MB."""
    memory_first: dict[str, float] = field(default_factory=dict)
    """What each had at the first look."""
    files: dict[str, int] = field(default_factory=dict)
    """The most descriptors that one process of each part had open."""
    seconds: float = 0.0
    busy: float = 0.0
    """Seconds of the processor that the whole machine used."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What the instances counted, all together."""
    learnt: float = 0.0
    """Messages that the worker learnt from."""
    turns: float = 0.0
    tokens: float = 0.0
    """What the model server finished and sent in that time."""

    def most(self, name: str) -> float:
        return max((float(moment[name]) for moment in self.moments if name in moment), default=0.0)

    def last(self, name: str) -> float:
        return next((float(moment[name]) for moment in reversed(self.moments) if name in moment), 0.0)

    def share(self, name: str) -> float:
        """Of one core, in percent."""
        return 100 * self.processor.get(name, 0.0) / self.seconds if self.seconds else 0.0

    def elsewhere(self) -> float:
        """What the machine did besides, in percent of one core."""
        return max(0.0, 100 * (self.busy - sum(self.processor.values())) / self.seconds) if self.seconds else 0.0


class Sampler:
    """Looks at everything from a thread, between `with`'s beginning and end. `extra` names more processes.

    What is used up in the first `warm` seconds, when models are loaded and statements planned, is no part of the cost.
    """

    def __init__(self, topology: Topology, extra: dict[str, int] | None = None, warm: float = 0.0) -> None:
        self.samples = Samples()
        self._topology = topology
        self._warm = warm
        self._pids = {**topology.roots, **(extra or {})}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._before: dict[str, float] = {}
        self._metrics_before: dict[str, float] = {}
        self._learnt_before = 0.0
        self._model_before: dict[str, Any] = {}
        self._last: dict[str, float] = {}
        self._began = 0.0
        self._busy = 0.0

    def __enter__(self) -> Self:
        self._mark()
        self._thread.start()
        return self

    def _mark(self) -> None:
        """Count from here."""
        self._before = {name: processor_seconds(pid) for name, pid in self._pids.items()}
        self._metrics_before = self._metrics()
        self._learnt_before = self._learnt()
        self._model_before = self._topology.mock_stats()
        self._began, self._busy = time.monotonic(), busy_seconds()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(15)
        samples = self.samples
        samples.seconds = time.monotonic() - self._began
        samples.busy = busy_seconds() - self._busy
        for name, pid in self._pids.items():
            # what has ended meanwhile is known as far as the last look
            now = processor_seconds(pid) or self._last.get(name, self._before[name])
            samples.processor[name] = now - self._before[name]
        model = self._topology.mock_stats()
        samples.turns = float(model["done"]) - float(self._model_before["done"])
        samples.tokens = float(model["tokens"]) - float(self._model_before["tokens"])
        samples.learnt = self._learnt() - self._learnt_before
        after = self._metrics()
        samples.metrics = {name: value - self._metrics_before.get(name, 0.0) for name, value in after.items()}

    def _metrics(self) -> dict[str, float]:
        total: dict[str, float] = defaultdict(float)
        for port in self._topology.api_ports:
            with contextlib.suppress(OSError):
                for name, value in metrics_of(port).items():
                    total[name] += value
        return dict(total)

    def _learnt(self) -> float:
        with contextlib.suppress(OSError):
            if self._topology.worker_port:
                return metrics_of(self._topology.worker_port).get("rapport_learnt_messages_total", 0.0)
        return 0.0

    def _run(self) -> None:
        due, before, at, began = 0.0, dict(self._before), self._began, self._began
        warm: float | None = began + self._warm if self._warm else None
        while not self._end.wait(EVERY_SECONDS):
            now = time.monotonic()
            if warm is not None and now >= warm:
                warm = None
                with contextlib.suppress(OSError):
                    self._mark()
            moment: dict[str, Any] = {"t": round(now - began, 1)}
            seconds = {name: processor_seconds(pid) for name, pid in self._pids.items()}
            moment["processor"] = {
                name: round(100 * (seconds[name] - before[name]) / (now - at), 1) for name in seconds
            }
            self._last |= {name: value for name, value in seconds.items() if value}
            before, at = seconds, now
            if now >= due:
                moment["memory"] = {name: self._weigh(name, pid) for name, pid in self._pids.items()}
                with contextlib.suppress(OSError, asyncpg.PostgresError, redis.RedisError, TimeoutError):
                    moment |= run_alone(_databases(self._topology))
                due = now + max(SLOW_SECONDS, SHARE * (time.monotonic() - now))
            self.samples.moments.append(moment)

    def _weigh(self, name: str, pid: int) -> float:
        samples, weight = self.samples, memory_mb(pid)
        samples.memory_first.setdefault(name, weight)
        samples.memory[name] = max(samples.memory.get(name, 0.0), weight)
        samples.files[name] = max(samples.files.get(name, 0), open_files(pid))
        return round(weight, 2)


async def _databases(topology: Topology) -> dict[str, float]:
    connection = await asyncpg.connect(topology.postgres.url("rapport", superuser=True), timeout=5)
    try:
        async with asyncio.timeout(5):
            row = await connection.fetchrow(
                """SELECT (SELECT count(*) FROM outbox) AS outbox,
                (SELECT count(*) FROM pg_stat_activity WHERE usename = 'rapport') AS connections,
                (SELECT count(*) FROM pg_stat_activity WHERE usename = 'rapport' AND state = 'active') AS active,
                pg_database_size('rapport') / 1048576.0 AS size_mb"""
            )
    finally:
        await connection.close()
    found = {name: float(value) for name, value in row.items()} if row else {}
    return found | await asyncio.to_thread(_valkey, topology)


def _valkey(topology: Topology) -> dict[str, float]:
    with contextlib.closing(redis.Redis.from_url(topology.valkey.url)) as live:
        about: Any = live.info()
    with contextlib.closing(redis.Redis.from_url(topology.valkey.database_url(1))) as queue:
        waiting: Any = queue.llen(f"{NAMESPACE}:{QUEUE}")
    return {
        "queue": float(waiting),
        "valkey_clients": float(about["connected_clients"]),
        "valkey_mb": about["used_memory"] / 1048576,
    }


def busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))
