"""The long form: `python -m tests.faults [--seed N] [--rounds N] [--naive] [--json FILE]`."""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.faults.report import HEAD, is_clean, kinds, row, summed
from tests.faults.run import Outcome, Plan, run
from tests.faults.world import opened_world

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
NAIVE = (
    Setting("naive path, kills only", 1, KILLS, processes={"prefix": "naive-", "workers": 2}),
    Setting(
        "naive path, all faults",
        1,
        {name: count for name, count in {**INSIDE, **SERVERS, **NETWORK}.items() if name != "kill scheduler"},
        processes={"prefix": "naive-", "workers": 2},
    ),
)


async def rounds(setting: Setting, seed: int, factor: float, end: float) -> list[Outcome]:
    """All rounds of a setting that can begin before `end`."""
    outcomes: list[Outcome] = []
    faults = {name: max(1, round(count * factor)) for name, count in setting.faults.items()}
    with TemporaryDirectory(prefix="rapport-faults-") as home:
        async with opened_world(Path(home), **setting.servers) as world:
            for number in range(setting.rounds):
                if time.monotonic() > end:
                    break
                drain = 20.0 if "prefix" in setting.processes else 300.0
                plan = Plan(seed + number, faults, clients=10, words=40, drain_seconds=drain)
                outcome = await run(world, plan, **setting.processes)
                verdict = outcome.verdict
                told = f"{setting.name}, seed {plan.seed}: {outcome.faults} faults in {outcome.seconds:.0f} s, "
                told += f"{verdict.acknowledged} acknowledged, {verdict.failed.total()} failed"
                print(f"{time.strftime('%H:%M:%S')} {told}: {verdict.summary()}", flush=True)
                outcomes.append(outcome)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--factor", type=float, default=1.0, help="times the usual number of faults of each kind")
    parser.add_argument("--naive", action="store_true", help="run the naive path too, for comparison")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no round after so many minutes")
    parser.add_argument("--only", default="", help="the settings whose name holds this")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    end = time.monotonic() + options.minutes * 60
    found: dict[str, list[Outcome]] = {}
    figures: dict[str, Any] = {}
    for setting in (*SETTINGS, *(NAIVE if options.naive else ())):
        if options.only in setting.name and (time.monotonic() < end or setting in NAIVE):
            longest = end if setting in SETTINGS else float("inf")
            begun = options.seed + len(found.get(setting.name, ()))
            outcomes = asyncio.run(rounds(setting, begun, options.factor, longest))
            found.setdefault(setting.name, []).extend(outcomes)
            figures[setting.name] = summed(found[setting.name])
            if options.json:
                options.json.write_text(json.dumps(figures, indent=1))
    rapport = {setting.name for setting in SETTINGS}
    ours = [outcome for name, outcomes in found.items() if name in rapport for outcome in outcomes]
    print(f"\n{HEAD}")
    for name, found_figures in figures.items():
        print(row(name, found_figures))
    if not ours:
        return 0
    total = figures["Rapport, all"] = summed(ours)
    print(f"{row('**Rapport, all**', total)}\n\n{kinds(total)}\n")
    print(json.dumps({key: value for key, value in total.items() if key not in {"by_kind", "seeds"}}, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 0 if is_clean(total) else 1


if __name__ == "__main__":
    sys.exit(main())
