"""How much of it one process bears: streams on one core, memory of waiting ones, memory over time."""

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from loadtests.turn import client
from loadtests.turn.measure import LONG, MANY, WAITING, measure, say
from loadtests.turn.procs import LOAD_CORE, memory_kb, pin
from loadtests.turn.targets import Stand, Target

JITTER = 100.0
"""Milliseconds by which a token may be late, 99 of 100 times, for a stream to count as held."""
FIRST_TRY, STEP, FINE = 150, 1.5, 0.12
LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Capacity:
    held: int
    """Streams of 50 tokens a second at once."""
    not_held: int
    late_p99: float
    """Of the held ones, ms."""
    cpu_per_token: float


@dataclass(frozen=True, slots=True)
class Waiting:
    streams: int
    kb_each: float
    kb_left: float
    """For each, after they have ended: what the allocator keeps, and what leaks."""


@dataclass(frozen=True, slots=True)
class Soak:
    minutes: float
    turns: int
    first_mb: float
    """Median of the second minute: the first one fills caches and pools."""
    last_mb: float
    missing: int
    repeated: int


def capacity(stand: Stand, target: Target) -> Capacity:
    """The most streams that one core holds: every token there, none of a hundred later than JITTER."""
    held, failed, streams, best = 0, 0, FIRST_TRY, (0.0, 0.0)
    while not failed or (failed - held) / failed > FINE:
        run = measure(stand, target, LONG, streams, seconds=4, turns=0)
        say(run)
        if run.whole and not run.unfinished and run.late_p99 < JITTER and run.gap_p99 < JITTER + LONG.between:
            held, best = streams, (run.late_p99, run.cpu_per_token or 0.0)
        else:
            failed = streams
        streams = int(held * STEP) if not failed else (held + failed) // 2
        if streams <= held:
            break
    return Capacity(held, failed, *best)


def waiting(stand: Stand, target: Target, streams: int = 1000) -> Waiting:
    """Memory of streams that wait for their first token."""
    own = [target.process.pid] if target.process else []
    before = memory_kb(own)
    options = ["-n", str(streams), "--ramp", str(streams * 25), "--timeout", "180"]
    popen = subprocess.Popen(
        client.command(target.door, _model(target, WAITING.name, WAITING.model), 1, streams, options),
        stdout=subprocess.PIPE,
        text=True,
    )
    pin(popen.pid, LOAD_CORE)
    peak, most = 0.0, 0
    while popen.poll() is None:
        time.sleep(1)
        active = client.mock_says(stand.mock_url)["active"]
        if active >= most:
            most, peak = active, max(peak, memory_kb(own))
    popen.communicate()
    time.sleep(LOOK_SECONDS)
    return Waiting(most, (peak - before) / max(1, most), (memory_kb(own) - before) / max(1, most))


def soak(target: Target, minutes: float, streams: int = 40) -> Soak:
    """Memory of the process while turns come and go."""
    own = [target.process.pid] if target.process else []
    options = ["-d", str(minutes * 60), "--hard", str(minutes * 60 + 30), "--timeout", "60"]
    model = _model(target, MANY.name, MANY.model)
    popen = subprocess.Popen(
        client.command(target.door, model, MANY.tokens, streams, options), stdout=subprocess.PIPE, text=True
    )
    pin(popen.pid, LOAD_CORE)
    seen: list[tuple[float, float]] = []
    began = time.monotonic()
    while popen.poll() is None:
        time.sleep(LOOK_SECONDS)
        seen.append((time.monotonic() - began, memory_kb(own) / 1024))
        sys.stderr.write(f"\r{seen[-1][0]:5.0f} s  {seen[-1][1]:6.1f} MB ")
    found = client.parsed(popen.communicate()[0])
    early = [mb for at, mb in seen if 60 <= at < 120] or [seen[0][1]]
    late = [mb for at, mb in seen if minutes * 60 - 60 <= at < minutes * 60] or [seen[-1][1]]
    return Soak(
        minutes, found["ok"], statistics.median(early), statistics.median(late), found["seq_missing"], found["seq_dup"]
    )


def _model(target: Target, name: str, model: str) -> str:
    return name if target.name == "rapport" else model
