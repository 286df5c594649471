"""Processes of a measurement: started on one core, looked at through /proc, stopped as a group."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from loadtests.sampling import family, memory_mb

CHECKOUT = Path(__file__).parents[2]
LOAD_CORE, RELAY_CORE = 0, 1
"""The mock, the client and the stores on one core; the relay alone on the other."""


@dataclass(slots=True)
class Process:
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        try:
            self.popen.wait(15)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.popen.wait()


def start(command: Sequence[str], log: Path, core: int | None, environment: Mapping[str, str] | None = None) -> Process:
    """Start a program in a process group of its own, on one core (None: on any)."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        popen = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=CHECKOUT,
            start_new_session=True,
        )
    if core is not None:
        pin(popen.pid, core)
    return Process(popen, log)


def pin(pid: int, core: int) -> None:
    """Keep a process, its threads and its children on one core, where there are two."""
    if core >= (os.cpu_count() or 1):
        return
    for each in family(pid):
        for thread in _threads(each):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(thread, {core})


def cpu_seconds(pids: Sequence[int]) -> float:
    """Processor time of these processes and their living children, on the scheduler's own nanosecond clock."""
    total = 0
    for pid in pids:
        for each in family(pid):
            for thread in _threads(each):
                with contextlib.suppress(OSError, ValueError, IndexError):
                    total += int(Path(f"/proc/{each}/task/{thread}/schedstat").read_text().split()[0])
    return total / 1e9


def memory_kb(pids: Sequence[int]) -> float:
    """Proportional set size of these processes and their children."""
    return 1024 * sum(map(memory_mb, pids))


def wait_until_quiet(most: float, patience: float) -> float:
    """Wait, at most `patience` seconds, until the machine is less busy than `most`; gives how busy it was."""
    deadline = time.monotonic() + patience
    while True:
        busy = psutil.cpu_percent(interval=0.4) / 100
        if busy < most or time.monotonic() > deadline:
            return busy


def _threads(pid: int) -> list[int]:
    try:
        return [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []
