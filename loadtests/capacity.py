"""How far it goes: `make load-limit` finds how many users fit, `make load-streams` holds very many slow streams open.

python -m loadtests.capacity users --from 250 --step 250      python -m loadtests.capacity streams --streams 10000
"""

import argparse
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.charts import Chart, Line
from loadtests.crowd import CLIENT, Outcome, Wish, run
from loadtests.reports import Report, ms, new_folder
from loadtests.table import PARTS, figures, three
from loadtests.topology import Mock, running

TOO_LATE_MS = 500.0
LEAST_SUCCESS = 99.0
SPARE_FILES = 500
"""Descriptors that a process needs besides its streams: databases, caches, libraries."""


def find_limit(first: int, step: int, most: int, seconds: float, logs: Path, *, worker: bool) -> list[dict[str, Any]]:
    """More and more users on the same servers, until the added p95 or the success says that it is enough."""
    rows: list[dict[str, Any]] = []
    with running(worker=worker) as topology:
        for users in range(first, most + 1, step):
            row = figures(run(topology, Wish(users=users, seconds=seconds, warm=seconds / 3, ramp=seconds / 4)))
            rows.append(row)
            print(
                f"{users:>6,} users: added p95 {ms(row['added_first']['p95'])} ms, success {row['success']:.2f} %, "
                f"{row['tokens_per_s']:,.0f} tokens/s, others on the machine {row['elsewhere_percent']:.0f} % of a core",
                flush=True,
            )
            if row["added_first"]["p95"] > TOO_LATE_MS or row["success"] < LEAST_SUCCESS:
                break
        topology.keep_logs(logs)
    return rows


def report_limit(rows: Sequence[dict[str, Any]], *, worker: bool) -> Report:
    report = Report("How many users fit")
    report.say(
        f"Three instances behind nginx, {'with' if worker else 'without'} a worker; users as in the operators' table, more in every step, "
        f"until what Rapport adds to the first token passes {TOO_LATE_MS:.0f} ms at p95, or success falls below {LEAST_SUCCESS:.0f} %."
    )
    fits = [
        row["users"] for row in rows if row["added_first"]["p95"] <= TOO_LATE_MS and row["success"] >= LEAST_SUCCESS
    ]
    report.say(
        f"The most that fit: {max(fits, default=0):,} users."
        + ("" if len(fits) < len(rows) else " The end was not reached.")
    )
    report.table(
        ["users", "success", "added p50 / p95 / p99", "turns/s", "tokens/s", "open streams", "wrong tokens", *(f"{p} %" for p in PARTS), "others %"],
        [
            [
                f"{row['users']:,}", f"{row['success']:.2f} %", three(row["added_first"]), f"{row['turns_per_s']:.1f}",
                f"{row['tokens_per_s']:,.0f}", f"{row['open_streams']:,}", f"{row['wrong_tokens']}",
                *(f"{row['core_percent'].get(p, 0):.0f}" for p in PARTS), f"{row['elsewhere_percent']:.0f}",
            ]
            for row in rows
        ],
    )  # fmt: skip
    lines = [Line(p, [(row["users"], row["added_first"][p]) for row in rows]) for p in ("p50", "p95")]
    report.chart(
        "limit-added", Chart("Added to the first token as users grow", "users at once", "ms", lines, goal=TOO_LATE_MS)
    )
    return report


def check_files(streams: int, instances: int) -> None:
    """Exit with advice when this machine's limit on open files can't hold the streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # nginx has two for each stream; its workers share them, but unevenly; an instance has one for its reader, one for the model
    needed = max(streams, 2 * streams // instances) + SPARE_FILES
    if hard < needed:
        sys.exit(
            f"{streams:,} streams need {needed:,} open files in one process; the limit is {hard:,} (soft {soft:,}). ulimit -n, or limits.conf."
        )


def hold_streams(streams: int, between_ms: int, ramp: float, hold: float, logs: Path) -> Outcome:
    """Open so many replies that trickle, and keep all of them open together for `hold` seconds."""
    tokens = int((ramp + hold + 60) * 1000 / between_ms) + 1  # more than there is time for: nothing ends by itself
    with running(mock=Mock(first_ms=500, between_ms=between_ms, tokens=tokens, stamped=1), worker=False) as topology:
        wish = Wish(
            users=streams,
            seconds=ramp + 1,
            warm=0,
            think=(1e5, 1e5),
            ramp=ramp,
            breaks=0,
            turns=1,
            grace=hold,
            timeout=2 * (ramp + hold) + 60,
            hold=True,
        )
        outcome = run(topology, wish)
        topology.keep_logs(logs)
        return outcome


def kb_per_stream(outcome: Outcome, name: str) -> float:
    """How steeply a part's memory rises with the streams that are open, while they are opened; an instance has a third."""
    opened = [(point["t"], point["open"]) for point in outcome.progress]
    if not opened:
        return 0.0
    times, counts = zip(*opened, strict=True)
    most = times[counts.index(max(counts))]
    # the first fifth is left out: pools fill and caches warm while the first streams come
    looks = [
        (m["t"], m["memory"][name]) for m in outcome.samples.moments if "memory" in m and most / 5 <= m["t"] <= most
    ]
    held = [float(np.interp(t, times, counts)) for t, _ in looks]
    if len(looks) < 2 or max(held) - min(held) < 1:
        return 0.0
    return float(np.polyfit(held, [1024 * weight for _, weight in looks], 1)[0])


def report_streams(outcome: Outcome, between_ms: int) -> Report:
    client, samples = outcome.client, outcome.samples
    streams = max(1, int(client["open_peak"]))
    report = Report(f"{streams:,} open streams")
    report.say(
        f"Replies of one token every {between_ms / 1000:g} s, opened over {outcome.wish.ramp:.0f} s and then open together. kB a "
        "stream is how steeply a part's memory rose with the streams that it held; files are descriptors of one process."
    )
    report.table(
        ["streams wanted", "open together", "success", "wrong tokens", "added p50 / p95 / p99", "a token's delay p50 / p95 / p99", "take-overs", "failures"],
        [[
            f"{outcome.wish.users:,}", f"{streams:,}", f"{outcome.success:.2f} %", f"{outcome.wrong}", three(client["added_first"]),
            three(client["token_delay"]), f"{samples.metrics.get('rapport_takeovers_total', 0):.0f}", str(client["failures"] or "none"),
        ]],
    )  # fmt: skip
    rows = [
        [
            name,
            f"{samples.memory_first.get(name, 0.0):,.0f}",
            f"{samples.memory.get(name, 0.0):,.0f}",
            f"{kb_per_stream(outcome, name) * (3 if name.startswith('api') else 1):.1f}",
            f"{samples.files.get(name, 0):,}",
            f"{samples.share(name):.0f}",
        ]
        for name in samples.processor
    ]
    report.table(["part", "MB first", "MB most", "kB a stream", "files", "percent of a core"], rows)
    report.say(
        f"Others on the machine: {samples.elsewhere():.0f} % of a core. Connections of PostgreSQL: {samples.most('connections'):.0f}."
    )
    lines = [Line("open streams", [(p["t"], p["open"]) for p in outcome.progress])]
    report.chart("streams-open", Chart("Open streams", "seconds", "streams", lines))
    apis = [
        Line(n, [(m["t"], m["processor"][n]) for m in samples.moments])
        for n in samples.processor
        if n in {"api0", "postgres", "nginx", "valkey", CLIENT}
    ]
    report.chart("streams-processor", Chart("Processor time", "seconds", "percent of one core", apis))
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.capacity", description=__doc__)
    parser.add_argument("what", choices=["users", "streams"])
    parser.add_argument("--from", dest="first", type=int, default=250)
    parser.add_argument("--step", type=int, default=250)
    parser.add_argument("--most", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each step")
    parser.add_argument("--no-worker", action="store_true")
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--between-ms", type=int, default=5000, help="between two tokens of a slow stream")
    parser.add_argument("--ramp", type=float, default=600.0, help="seconds over which the streams are opened")
    parser.add_argument("--hold", type=float, default=60.0, help="seconds for which all are open together")
    parser.add_argument("--out", type=Path, default=None)
    wish = parser.parse_args(arguments)
    folder = wish.out or new_folder(wish.what)
    if wish.what == "users":
        rows = find_limit(wish.first, wish.step, wish.most, wish.seconds, folder / "logs", worker=not wish.no_worker)
        path = report_limit(rows, worker=not wish.no_worker).write(folder, rows)
    else:
        check_files(wish.streams, 3)
        outcome = hold_streams(wish.streams, wish.between_ms, wish.ramp, wish.hold, folder / "logs")
        path = report_streams(outcome, wish.between_ms).write(folder, asdict(outcome))
    print(f"\n{path.read_text()}\nWritten to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
