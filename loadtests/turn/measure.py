"""One run of one target, and the order in which all of them run."""

import statistics
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from loadtests.sampling import busy_seconds
from loadtests.turn import client
from loadtests.turn.procs import cpu_seconds, memory_kb, wait_until_quiet
from loadtests.turn.targets import Stand, Target

QUIET = 0.25
"""A run begins when others use less than a quarter of the machine, or after so many seconds."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How the mock answers: milliseconds to the first token and between tokens, and how many there are."""

    name: str
    first: int
    tokens: int
    between: int

    @property
    def model(self) -> str:
        return f"mock-ttft{self.first}-n{self.tokens}-itl{self.between}-st1"

    @property
    def seconds(self) -> float:
        return (self.first + self.tokens * self.between) / 1000


SINGLE = Profile("single", 50, 5, 10)
MANY = Profile("many", 200, 100, 20)
LONG = Profile("long", 200, 600, 20)
"""Long enough for a token's own cost to stand apart from its turn's."""
WAITING = Profile("waiting", 60_000, 1, 0)
"""Nothing comes for a minute: what an open stream holds meanwhile."""
PROFILES = (SINGLE, MANY, LONG, WAITING)


@dataclass(frozen=True, slots=True)
class Run:
    target: str
    streams: int
    profile: str
    ok: int
    failed: int
    unfinished: int
    missing: int
    repeated: int
    foreign: int
    """Streams with another's words."""
    added_p50: float
    added_p95: float
    added_p99: float
    late_p50: float
    """Of each token: from the mock's send to the client's receipt, ms."""
    late_p99: float
    gap_p99: float
    cpu_per_token: float | None
    """Microseconds of the relay's own processes."""
    store_cpu_per_token: float | None
    relay_busy: float
    """Share of a core that the relay used."""
    memory_mb: float
    memory_peak_mb: float
    others: float
    """Share of a core that somebody else used meanwhile: a run where it is high says little."""
    mock_late_p99: float

    @property
    def whole(self) -> bool:
        return not (self.failed or self.missing or self.repeated or self.foreign)


def measure(stand: Stand, target: Target, profile: Profile, streams: int, *, seconds: float, turns: int) -> Run:
    """`turns` one after another for one stream; else `streams` at once for `seconds` once all have begun."""
    wait_until_quiet(QUIET, stand.patience)
    own = [target.process.pid] if target.process else []
    mock = [stand.mock.pid] if stand.mock else []
    client.mock_says(stand.mock_url, reset=True)
    before = cpu_seconds(own), cpu_seconds(target.stores), cpu_seconds(mock), busy_seconds(), time.monotonic()
    memory = memory_kb(own)
    peak = _Peak(own, memory)
    model = profile.name if target.name == "rapport" else profile.model
    life = profile.seconds * 1.1
    if streams == 1:
        options = ["-n", str(turns), "--timeout", "60"]
    else:
        options = ["-d", str(life + seconds), "--warm", str(life), "--ramp", str(int(profile.seconds * 1000))]
        options += ["--hard", str(life + seconds + profile.seconds + 6), "--timeout", "60"]
    with peak:
        found = client.run(target.door, model, profile.tokens, streams, options)
    after = cpu_seconds(own), cpu_seconds(target.stores), cpu_seconds(mock), busy_seconds(), time.monotonic()
    used, stores, mocked, busy, wall = (late - early for late, early in zip(after, before, strict=True))
    said = client.mock_says(stand.mock_url)
    tokens = said["tokens"]
    others = (busy - used - stores - mocked - found["client_cpu_s"]) / wall
    return Run(
        target=target.name,
        streams=streams,
        profile=profile.name,
        ok=found["ok"],
        failed=found["fail"],
        unfinished=found["unfinished"],
        missing=found["seq_missing"],
        repeated=found["seq_dup"],
        foreign=found["wrong_tag"],
        added_p50=found["ttft_overhead"]["p50"],
        added_p95=found["ttft_overhead"]["p95"],
        added_p99=found["ttft_overhead"]["p99"],
        late_p50=found["one_way"]["p50"],
        late_p99=found["one_way"]["p99"],
        gap_p99=found["gap"]["p99"],
        cpu_per_token=1e6 * used / tokens if own and tokens else None,
        store_cpu_per_token=1e6 * stores / tokens if target.stores and tokens else None,
        relay_busy=used / wall,
        memory_mb=memory / 1024,
        memory_peak_mb=peak.kb / 1024,
        others=max(0.0, others),
        mock_late_p99=said["late_ms"]["p99"],
    )


class _Peak(threading.Thread):
    """Looks at the relay's memory once a second while a run goes on."""

    def __init__(self, pids: Sequence[int], kb: float) -> None:
        super().__init__(daemon=True)
        self.kb = kb
        self._pids = pids
        self._over = threading.Event()

    def run(self) -> None:
        while self._pids and not self._over.wait(1.0):
            self.kb = max(self.kb, memory_kb(self._pids))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def interleaved(
    stand: Stand, names: Sequence[str], counts: Iterable[int], *, repeats: int, seconds: float, turns: int
) -> Iterator[Run]:
    """For each number of streams and each repeat, every target in its turn: drift and neighbours fall on all alike."""
    for streams in counts:
        profile = SINGLE if streams == 1 else MANY
        for _ in range(repeats):
            for name in names:
                target = stand.targets[name]
                if streams > target.most:
                    continue
                run = measure(stand, target, profile, streams, seconds=seconds, turns=turns)
                say(run)
                yield run


def medians(runs: Sequence[Run]) -> list[Run]:
    """For each target, number of streams and profile the median of each figure; counts of what went wrong add up."""
    groups: dict[tuple[str, int, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.target, run.streams, run.profile), []).append(run)
    return [_median(group) for group in groups.values()]


SUMS = {"ok", "failed", "unfinished", "missing", "repeated", "foreign"}


def _median(group: Sequence[Run]) -> Run:
    rows = [asdict(run) for run in group]
    made = {}
    for name, first in rows[0].items():
        values = [row[name] for row in rows]
        if isinstance(first, str) or name == "streams":
            made[name] = first
        elif name in SUMS:
            made[name] = sum(values)
        else:
            made[name] = None if first is None else statistics.median(values)
    return Run(**made)


def say(run: Run) -> None:
    cpu = "      –" if run.cpu_per_token is None else f"{run.cpu_per_token:7.0f}"
    sys.stderr.write(
        f"{run.target:10} {run.streams:5} streams  ok {run.ok:5} failed {run.failed} missing {run.missing} "
        f"repeated {run.repeated}  added {run.added_p50:8.2f} / {run.added_p99:8.2f} ms  late p99 {run.late_p99:7.1f} ms"
        f"  {cpu} µs a token  core {run.relay_busy:4.0%}  others {run.others:4.0%}\n"
    )
    sys.stderr.flush()
