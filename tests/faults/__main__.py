"""The long form: `python -m tests.faults [--seed N] [--naive] [--json FILE]`, or the short one `--topology` NAME."""

import argparse
import asyncio
import importlib.util
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg

from tests.clusters.worlds import TOPOLOGIES
from tests.faults.report import HEAD, is_clean, kinds, row, summed
from tests.faults.run import Outcome, Plan, run
from tests.faults.test_faults import SHORT
from tests.faults.world import CHECKOUT, World, opened_world

NETWORK = {
    f"{hop} {what}": 2
    for hop in ("redis", "postgres", "client")
    for what in ("cut", "lost answer", "delay", "black hole")
}
UPSTREAM = {f"upstream {what}": 2 for what in ("hang", "cut", "429", "500", "garbage")}
SERVERS = {
    "kill valkey": 8,
    "wipe valkey": 8,
    "roll valkey back": 4,
    "stop valkey": 2,
    "kill postgres backend": 3,
    "kill postmaster": 1,
    "lose the queue": 2,
}
INSIDE = {
    "kill api": 26,
    "kill worker": 10,
    "kill scheduler": 3,
    "stop api": 3,
    "stop worker": 1,
    "sleepwalker": 1,
    "restart api": 3,
}
OUTSIDE = {
    "kill api": 12,
    "kill runner": 20,
    "kill worker": 6,
    "kill scheduler": 2,
    "stop runner": 3,
    "stop api": 1,
    "restart api": 2,
}
KILLS = {"kill api": 30, "kill worker": 20, "kill valkey": 20, "client lost answer": 5, "redis lost answer": 5}


@dataclass(frozen=True)
class Setting:
    """Rounds of one kind, in a world of their own."""

    name: str
    rounds: int
    faults: dict[str, int]
    servers: dict[str, Any] = field(default_factory=dict)
    processes: dict[str, Any] = field(default_factory=dict)


INSIDE_ROUNDS = Setting(
    "replies written by the API", 2, {**INSIDE, **SERVERS, **NETWORK, **UPSTREAM}, processes={"apis": 3}
)
OUTSIDE_ROUNDS = Setting(
    "replies written by runners", 1, {**OUTSIDE, **SERVERS, **NETWORK, **UPSTREAM}, processes={"runners": 2}
)
SETTINGS = (
    INSIDE_ROUNDS,
    OUTSIDE_ROUNDS,
    Setting("one clock jumps", 1, {"jump clock": 30, "kill api": 15, "kill worker": 5}, {"clock": True}),
    Setting("the disk runs full", 1, {"fill disk": 15, "kill api": 10, "kill worker": 5}, {"disk": True}),
    INSIDE_ROUNDS,
    OUTSIDE_ROUNDS,
    INSIDE_ROUNDS,
    OUTSIDE_ROUNDS,
)
ON = {name: Setting(f"on {name}", 1, {**SHORT, **more}, {"kind": kind}) for name, (kind, more) in TOPOLOGIES.items()}
"""The short run on other topologies of the same engines, with the faults that are theirs (docs/topologies.md)."""
OURS = {setting.name for setting in (*SETTINGS, *ON.values())}
ALL = "Rapport, all"
KEPT = CHECKOUT / ".rapport"
"""Where the traces of broken rounds are kept."""
PAUSE = (0.05, 0.35)
"""Seconds between two faults."""
ROUND_SECONDS = 900.0
"""After which a round counts as hung."""
NAIVE = (
    Setting("naive path, kills only", 1, KILLS, processes={"prefix": "naive-", "workers": 2}),
    Setting(
        "naive path, all faults",
        1,
        {name: count for name, count in {**INSIDE, **SERVERS, **NETWORK}.items() if name != "kill scheduler"},
        processes={"prefix": "naive-", "workers": 2},
    ),
)


def possible(setting: Setting) -> str:
    """Why a setting can't be run here; empty when it can."""
    if setting.servers.get("clock") and importlib.util.find_spec("libfaketime") is None:
        return "no clock can be put forward without libfaketime (pip install libfaketime)"
    if setting.servers.get("disk") and os.geteuid() != 0:
        return "a disk of its own that runs full wants root"
    return ""


@dataclass
class Run:
    """All rounds of one long run, as far as it has come."""

    options: argparse.Namespace
    found: dict[str, list[Outcome]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    """Faults that can't be struck on this machine; they are not planned, and that is said."""
    undone: list[str] = field(default_factory=list)
    """Rounds that were planned and not done, or that the harness itself broke off: the run has failed."""

    def plan(self, setting: Setting, seed: int) -> Plan:
        faults = {name: max(1, round(count * self.options.factor)) for name, count in setting.faults.items()}
        drain = 20.0 if "prefix" in setting.processes else 300.0
        return Plan(seed, faults, clients=10, words=40, drain_seconds=drain, pause=PAUSE)

    async def rounds(self, setting: Setting, end: float) -> None:
        """All rounds of a setting that can begin before `end`, in a world of their own."""
        outcomes = self.found.setdefault(setting.name, [])
        with TemporaryDirectory(prefix="rapport-faults-") as home:
            async with opened_world(Path(home), **setting.servers) as world:
                for number in range(setting.rounds):
                    if time.monotonic() > end:
                        self.undone.append(f"{setting.name}: {setting.rounds - number} rounds not begun in time")
                        return
                    plan = self.plan(setting, self.options.seed + len(outcomes))
                    async with asyncio.timeout(ROUND_SECONDS):
                        outcome = await run(world, plan, **setting.processes)
                    outcomes.append(outcome)
                    tell(setting.name, outcome)
                    if outcome.verdict.broken:
                        await keep_traces(world, KEPT / f"faults-{plan.seed}")

    def wants(self, setting: Setting) -> bool:
        return self.options.only in setting.name and not possible(setting)

    def all_of(self, settings: Sequence[Setting], end: float) -> None:
        for setting in settings:
            if self.options.only not in setting.name:
                continue
            if reason := possible(setting):
                self.skipped.append(f"{setting.name}: skipped, {reason}")
                print(self.skipped[-1], flush=True)
                continue
            try:
                asyncio.run(self.rounds(setting, end))
            except Exception as error:
                # one broken round must not cost the figures of the others
                traceback.print_exc()
                self.undone.append(f"{setting.name}: broken off by {type(error).__name__}")
            self.write()

    def figures(self) -> dict[str, Any]:
        ours = [outcome for setting in OURS for outcome in self.found.get(setting, [])]
        figures: dict[str, Any] = {name: summed(outcomes) for name, outcomes in self.found.items() if outcomes}
        if ours:
            figures[ALL] = summed(ours) | {"skipped": self.skipped, "undone": self.undone}
        return figures

    def write(self) -> None:
        if self.options.json:
            self.options.json.write_text(json.dumps(self.figures(), indent=1))


WHAT_WAITS = """
SELECT c.*, clock_timestamp() AS asked_at, o.not_before, o.dispatched_at FROM conversations c
LEFT JOIN outbox o ON o.user_id = c.user_id AND o.conversation_id = c.id WHERE c.learnt_seq < c.next_seq - 1
"""


async def keep_traces(world: World, folder: Path) -> None:
    """Of a round that broke something: what its processes logged, and what of learning was left over."""
    connection = await asyncpg.connect(world.postgres.url("rapport", superuser=True), timeout=10)
    try:
        rows = await connection.fetch(WHAT_WAITS)
    finally:
        await connection.close()
    await asyncio.to_thread(_keep, [part.log for part in world.parts.values()], rows, folder)
    print(f"    logs and what was left are kept in {folder}", flush=True)


def _keep(logs: Sequence[Path], rows: Sequence[asyncpg.Record], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for log in logs:
        if log.exists():
            shutil.copy(log, folder)
    (folder / "waiting.txt").write_text("\n".join(str(dict(row)) for row in rows))


def tell(name: str, outcome: Outcome) -> None:
    verdict = outcome.verdict
    told = f"{name}, seed {outcome.plan.seed}: {outcome.faults} faults in {outcome.seconds:.0f} s, "
    told += f"{verdict.acknowledged} acknowledged, {verdict.replies_taken_over} replies taken over, "
    told += f"{verdict.failed.total()} failed: {verdict.summary()}"
    if outcome.short_of_plan:
        told += f"; short of plan by {outcome.short_of_plan}"
    print(f"{time.strftime('%H:%M:%S')} {told}", flush=True)
    for broken in verdict.broken.values():
        for line in broken[:5]:
            print(f"    {line}", flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--factor", type=float, default=1.0, help="times the usual number of faults of each kind")
    parser.add_argument("--naive", action="store_true", help="run the naive path too, for comparison")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no round after so many minutes, and fail")
    parser.add_argument("--only", default="", help="the settings whose name holds this")
    parser.add_argument("--topology", choices=[*ON, "all"], help="the short run on such servers, and nothing else")
    parser.add_argument("--json", type=Path, help="write all figures to this file, after each round")
    return parser.parse_args()


def main() -> int:
    options = parsed()
    long_run = Run(options)
    long_run.write()  # a file that can't be written is found out now, not after half an hour
    settings: Sequence[Setting] = SETTINGS
    if options.topology:
        settings = tuple(setting for name, setting in ON.items() if options.topology in {name, "all"})
    planned = sum(
        sum(long_run.plan(each, 0).faults.values()) * each.rounds for each in settings if long_run.wants(each)
    )
    print(f"seed {options.seed}: {planned:,} faults planned", flush=True)
    end = time.monotonic() + options.minutes * 60
    long_run.all_of(settings, end)
    if options.naive:
        long_run.all_of(NAIVE, float("inf"))
    figures = long_run.figures()
    total = figures.get(ALL)
    print(f"\n{HEAD}")
    for name, found in figures.items():
        print(row(f"**{name}**" if name == ALL else name, found))
    if total is None:
        return 1 if long_run.undone else 0
    print(f"\n{kinds(total)}\n")
    print(json.dumps({key: value for key, value in total.items() if key not in {"by_kind", "seeds"}}, indent=1))
    clean = is_clean(total) and not long_run.undone
    print("Everything held." if clean else f"RED: {', '.join(long_run.undone) or 'see above'}")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
