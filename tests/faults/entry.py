"""What a child of the harness runs: the real program, with a hash for the embedding model and counters that outlive it.

Nothing here is in the product. Loading the embedding model takes a second of each start and is not what is tested; the
counters append to a file, because a killed process takes its metrics with it.
"""

import asyncio
import dataclasses
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import ModuleType
from typing import Any

import service.app
import service.chat.writer
import service.embedding
import service.runner
import service.server
import service.worker.main
from service.observability import logs
from service.runtime import Runtime
from service.settings import Settings
from tests.faults import naive, switches, upstream
from tests.memory.learning_kit import HashEmbedder

TICK = 0.01


class Tally:
    """Counts into a file that every process of the run appends to."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, what: str) -> None:
        os.write(self._file, f"{what}\n".encode())


class CountedInto:
    """A Prometheus counter that is also kept where the harness reads it."""

    def __init__(self, counter: Any, tally: Tally, name: str) -> None:
        self._counter, self._tally, self._name = counter, tally, name

    def inc(self, amount: float = 1) -> None:
        self._counter.inc(amount)
        self._tally.note(self._name)


def run(role: str, switch: str) -> int:
    """Run one process of the service until it ends; gives its exit status."""
    tally = Tally(os.environ["HARNESS_TALLY"])
    if role == "upstream":
        return upstream.serve(int(os.environ["RAPPORT_PORT"]))
    logs.configure("info", os.environ["RAPPORT_INSTANCE"], pretty=False)
    prepare(tally)
    switches.apply(switch)
    return ROLES[role](Settings())


ROLES: dict[str, Callable[[Settings], int]] = {
    "naive-serve": naive.serve,
    "naive-worker": naive.work,
    "serve": service.server.serve,
    "worker": service.worker.main.run_worker,
    "scheduler": service.worker.main.run_scheduler,
    "runner": service.runner.run_runner,
}


def prepare(tally: Tally) -> None:
    replace(service.embedding, "MiniLmEmbedder", lambda _original: lambda _config: HashEmbedder())
    # a stopped worker is to be found out in a second or two; a model server that was away for a moment is not to be
    # waited for by minutes (each time it seems away, the pause doubles)
    replace(
        service.worker.main,
        "learn_config",
        lambda original: (
            lambda settings: dataclasses.replace(original(settings), lease_seconds=1.0, away_most_seconds=10.0)
        ),
    )
    replace(service.chat.writer, "ZOMBIE_WRITES", lambda counter: CountedInto(counter, tally, "zombie"))
    replace(service.app, "open_runtime", lambda opener: watched(opener, tally))


def replace(module: ModuleType, name: str, by: Callable[[Any], Any]) -> None:
    setattr(module, name, by(getattr(module, name)))


def watched(
    opener: Callable[..., AbstractAsyncContextManager[Runtime]], tally: Tally
) -> Callable[..., AbstractAsyncContextManager[Runtime]]:
    """The runtime with a look at how long its event loop is held up."""

    @asynccontextmanager
    async def open_watched(settings: Settings) -> AsyncIterator[Runtime]:
        async with opener(settings) as runtime:
            task = asyncio.create_task(watch_stalls(tally), name="stalls")
            yield runtime
            task.cancel()

    return open_watched


async def watch_stalls(tally: Tally) -> None:
    """Note every time that the loop was held up for more than 50 ms by its own process: stopped or starved doesn't count."""
    worst = 0.05
    while True:
        wall, cpu = time.monotonic(), time.process_time()
        await asyncio.sleep(TICK)
        # a loop that computes or blocks; on a shared machine waiting for a processor is not the loop's doing
        held = time.monotonic() - wall - TICK
        busy = time.process_time() - cpu
        if held > worst:
            tally.note(f"stall {held:.3f} {busy:.3f}")


def warm_up() -> None:
    """Do once in the parent what every child would do at its start, as far as it starts no thread."""
    os.environ.setdefault("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    app = service.app.create_app(Settings())
    app.openapi()
