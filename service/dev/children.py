"""Start a program as our child, know when it is ready, end it for certain."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from service.dev.accounts import Account
from service.dev.errors import ServerStartError

LAUNCHER = Path(__file__).with_name("launch.py")
LOG_TAIL_BYTES = 1500
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run; the kernel sends it `death_signal` when we die (Linux; elsewhere a next start clears up)."""

    argv: Sequence[str]
    log: Path
    death_signal: signal.Signals = signal.SIGTERM
    account: Account | None = None
    env: Mapping[str, str] | None = None
    cwd: Path = Path("/")
    text_in: bytes = b""


def spawn(command: Command) -> subprocess.Popen[bytes]:
    """Start it. Call this from the main thread: the kernel counts the end of the calling thread as our death."""
    uid, gid = (str(command.account.uid), str(command.account.gid)) if command.account else ("-", "-")
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(int(command.death_signal)), uid, gid]
    rotate(command.log)
    with command.log.open("ab") as log:
        process = subprocess.Popen(
            [*launcher, *command.argv],
            stdin=subprocess.PIPE if command.text_in else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=command.cwd,
            env=dict(command.env) if command.env is not None else None,
            start_new_session=True,
        )
    if process.stdin is not None:
        process.stdin.write(command.text_in)
        process.stdin.close()
    return process


def rotate(log: Path, limit_bytes: int = 10_000_000) -> None:
    """Keep one earlier file once a log has grown past the limit."""
    if log.exists() and log.stat().st_size > limit_bytes:
        log.replace(log.with_suffix(log.suffix + ".1"))


def wait_until(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, *, name: str, timeout: float
) -> None:
    """Return when `ready()`; raise `ServerStartError` with the end of the log when the process ends or is too slow."""
    deadline = time.monotonic() + timeout
    while not ready():
        if process.poll() is not None:
            raise ServerStartError(f"{name} ended at start with {process.returncode}:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise ServerStartError(f"{name} was not ready after {timeout:.0f} s:\n{tail(log)}")
        time.sleep(0.02)


def tail(log: Path) -> str:
    try:
        return log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except FileNotFoundError:
        return "(no log)"


def end(process: subprocess.Popen[bytes], steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """Send each signal in turn, waiting its seconds, until the process has ended; SIGKILL is the last."""
    for number, seconds in steps:
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
    if process.poll() is None:
        process.kill()
        process.wait()


def end_orphan(
    pid: int, belongs: Callable[[psutil.Process], bool], steps: Sequence[tuple[signal.Signals, float]]
) -> None:
    """End what a killed owner left running, if `pid` still `belongs` to it and wasn't given to something else."""
    for number, seconds in (*steps, (signal.SIGKILL, 5.0)):
        try:
            orphan = psutil.Process(pid)
            if orphan.status() == psutil.STATUS_ZOMBIE or not belongs(orphan):
                return
            orphan.send_signal(number)
            psutil.wait_procs([orphan], timeout=seconds)
        except psutil.NoSuchProcess:
            return


def end_inside(directory: Path, seconds: float) -> None:
    """Let every process that works in `directory` end within `seconds`; SIGKILL ends what doesn't."""
    inside = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if Path(process.cwd()) == directory:
                inside.append(process)
    _, left = psutil.wait_procs(inside, timeout=seconds)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)


def answers(url: str) -> bool:
    """Whether a server of ours says 200 there; never through a proxy that the environment names."""
    try:
        with _DIRECT.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False  # not listening yet, or not ready (urllib's errors are OSErrors)


def remember(process: subprocess.Popen[bytes], note: Path) -> None:
    """Note the process so that a later owner can tell it from another that got its number."""
    note.write_text(f"{process.pid} {psutil.Process(process.pid).create_time()}")


def end_remembered(note: Path, steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """End the noted process if it still runs. Only the holder of the directory's lock may ask."""
    try:
        pid, started = note.read_text().split()
    except (FileNotFoundError, ValueError):
        return
    end_orphan(int(pid), lambda process: process.create_time() == float(started), steps)


OUTSIDE = range(20_000, 32_768)
"""Ports that Linux does not give to connections by itself: one of those may be somebody's before we listen on it."""


def free_port() -> int:
    """A loopback TCP port that nobody listened on a moment ago."""
    for _ in range(100):
        if port_is_free(port := secrets.choice(OUTSIDE)):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now (sockets that only linger don't count)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
