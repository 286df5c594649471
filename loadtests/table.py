"""The operators' table: `make load-table`, or python -m loadtests.table --users 50,200,500,1000 --seconds 125.

Each row starts everything anew, with an empty database, so that no row inherits another's backlog.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtests.charts import Chart, Line
from loadtests.crowd import CLIENT, Outcome, Wish, run
from loadtests.reports import Report, ms, new_folder
from loadtests.topology import Mock, running

GOAL_SUCCESS, GOAL_ADDED_MS = 99.9, 200.0
PARTS = ("api", "nginx", "postgres", "valkey", "worker", "scheduler", "model", CLIENT)
MEANS = {
    "embedding": 'rapport_recall_seconds_{}{{part="embedding"}}',
    "recall": 'rapport_recall_seconds_{}{{part="statement"}}',
    "before the model is asked": 'rapport_first_token_seconds_{}{{part="added"}}',
}


def figures(outcome: Outcome) -> dict[str, Any]:
    """A row of the table, as data."""
    client, samples = outcome.client, outcome.samples
    counted = client["counted_s"]
    apis = [name for name in samples.processor if name.startswith("api")]
    share = {name: samples.share(name) for name in samples.processor if name not in apis}
    share["api"] = sum(samples.share(name) for name in apis)
    memory = {name: value for name, value in samples.memory.items() if name not in apis}
    memory["api"] = sum(samples.memory.get(name, 0.0) for name in apis)
    found = {
        key.partition('"')[2].rstrip('"}'): value
        for key, value in samples.metrics.items()
        if key.startswith("rapport_live_state_reads_total")
    }
    return {
        "users": outcome.wish.users,
        "turns": client["turns"],
        "turns_per_s": client["turns"] / counted,
        "tokens_per_s": client["tokens"] / counted,
        "open_streams": client["open_peak"],
        "success": outcome.success,
        "failures": client["failures"],
        "wrong_tokens": outcome.wrong,
        **{name: client[name] for name in ("rebased", "taken_over", "breaks", "resumed", "cuts")},
        **{
            name: client[name]
            for name in ("accepted", "first_token", "turn", "added_first", "added_turn", "token_delay", "gap")
        },
        "core_percent": share,
        "elsewhere_percent": samples.elsewhere(),
        # what a turn costs on paper
        "cost": {name: value * samples.seconds / 100 for name, value in share.items()},
        "all_turns": samples.turns,
        "all_tokens": samples.tokens,
        "learnt_messages": samples.learnt,
        "memory_mb": memory,
        "api_us_per_token": 1e4 * share["api"] * samples.seconds / max(1.0, samples.tokens),
        "queue_most": samples.most("queue"),
        "queue_last": samples.last("queue"),
        "unlearnt_last": samples.last("outbox"),
        "connections": samples.most("connections"),
        "connections_active": samples.most("active"),
        "valkey_clients": samples.most("valkey_clients"),
        "cache_reads": found,
        # of what was read once everybody had said something: a first message finds nothing
        "cache_hit_percent": 100 * found.get("all", 0.0) / max(1.0, sum(found.values())),
        "mean_ms": {name: _mean(samples.metrics, pattern) for name, pattern in MEANS.items()},
        "redis_failures": sum(v for k, v in samples.metrics.items() if k.startswith("rapport_redis_failures_total")),
        "takeovers": samples.metrics.get("rapport_takeovers_total", 0.0),
        "model_late_ms": outcome.model["late_ms"],
        "wish": asdict(outcome.wish),
        "progress": outcome.progress,
    }


def _mean(metrics: dict[str, float], pattern: str) -> float:
    count = metrics.get(pattern.format("count"), 0.0)
    return 1000 * metrics.get(pattern.format("sum"), 0.0) / count if count else 0.0


def met_goals(row: dict[str, Any]) -> bool:
    """Whether so many users were served as they should be."""
    in_time = row["added_first"]["p95"] <= GOAL_ADDED_MS
    return bool(row["success"] >= GOAL_SUCCESS and in_time and not row["wrong_tokens"])


def tell(report: Report, rows: Sequence[dict[str, Any]]) -> None:
    """The rows as tables and charts."""
    report.head("What users see")
    report.say(
        f"Goal: success of at least {GOAL_SUCCESS} %, added p95 below {GOAL_ADDED_MS:.0f} ms, no token lost or repeated. "
        "Added is the time to the first token beyond what passed inside the model server, as its own stamps tell."
    )
    report.table(
        ["users", "turns", "success", "wrong tokens", "first token p50 / p95 / p99", "turn p50 / p95 / p99", "added p50 / p95 / p99",
         "added to the whole turn p95", "a token's delay p50 / p95", "open streams", "tokens/s"],
        [_seen(row) for row in rows],
    )  # fmt: skip
    report.head("What it costs")
    report.say("Processor time in percent of one core from the end of the warm-up to the last reply.")
    report.table(
        ["users", *PARTS, "others on the machine", "API, ms a turn", "the same, µs a token"],
        [
            [
                f"{row['users']:,}",
                *(f"{row['core_percent'].get(name, 0):.0f}" for name in PARTS),
                f"{row['elsewhere_percent']:.0f}",
                f"{1000 * row['cost']['api'] / max(1.0, row['all_turns']):.0f}",
                f"{row['api_us_per_token']:.0f}",
            ]
            for row in rows
        ],
    )
    report.say("Memory, MB (proportional; all instances together), and what waits where.")
    report.table(
        [
            "users",
            *PARTS,
            "queue most / last",
            "not yet learnt from",
            "connections (active)",
            "cache hits",
            "model late p99",
        ],
        [_held(row) for row in rows],
    )
    report.head("Where the added time goes")
    report.table(
        [
            "users",
            *(f"{name}, mean ms" for name in MEANS),
            "accepted p50 / p95",
            "take-overs",
            "Redis time-outs",
            "connections lost / resumed",
        ],
        [_spent(row) for row in rows],
    )
    for row in rows:
        if row["failures"]:
            report.say(f"Failures at {row['users']:,} users: {row['failures']}")
    _draw(report, rows)


def _draw(report: Report, rows: Sequence[dict[str, Any]]) -> None:
    report.chart(
        "operators-added", _by_users(rows, "What Rapport adds to the first token", "ms", "added_first", GOAL_ADDED_MS)
    )
    report.chart("operators-first-token", _by_users(rows, "First token", "ms", "first_token"))
    cost = [Line(name, [(row["users"], row["core_percent"].get(name, 0.0)) for row in rows]) for name in PARTS]
    report.chart("operators-processor", Chart("Processor time of the parts", "users", "percent of one core", cost))


def _by_users(rows: Sequence[dict[str, Any]], title: str, unit: str, figure: str, goal: float | None = None) -> Chart:
    lines = [Line(p, [(row["users"], row[figure][p]) for row in rows]) for p in ("p50", "p95", "p99")]
    return Chart(title, "users at once", unit, lines, goal=goal)


def three(found: dict[str, float], names: Sequence[str] = ("p50", "p95", "p99")) -> str:
    return " / ".join(ms(found[name]) for name in names)


def _seen(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['users']:,}",
        f"{row['turns']:,}",
        f"{row['success']:.2f} %",
        f"{row['wrong_tokens']:,}",
        three(row["first_token"]),
        three(row["turn"]),
        three(row["added_first"]),
        ms(row["added_turn"]["p95"]),
        three(row["token_delay"], ("p50", "p95")),
        f"{row['open_streams']:,}",
        f"{row['tokens_per_s']:,.0f}",
    ]


def _held(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['users']:,}",
        *(f"{row['memory_mb'].get(name, 0):,.0f}" for name in PARTS),
        f"{row['queue_most']:,.0f} / {row['queue_last']:,.0f}",
        f"{row['unlearnt_last']:,.0f}",
        f"{row['connections']:.0f} ({row['connections_active']:.0f})",
        f"{row['cache_hit_percent']:.1f} %",
        ms(row["model_late_ms"]["p99"]),
    ]


def _spent(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['users']:,}",
        *(ms(row["mean_ms"][name]) for name in MEANS),
        three(row["accepted"], ("p50", "p95")),
        f"{row['takeovers']:.0f}",
        f"{row['redis_failures']:.0f}",
        f"{row['breaks'] + row['cuts']} / {row['resumed']}",
    ]


def measure(
    users: int, seconds: float, logs: Path, *, instances: int, mock: Mock, worker: bool = True
) -> dict[str, Any]:
    """One row, on servers of its own; what they complained of is kept in `logs`."""
    warm = min(20.0, seconds / 4)
    with running(instances=instances, mock=mock, worker=worker) as topology:
        row = figures(run(topology, Wish(users=users, seconds=seconds, warm=warm, ramp=min(15.0, warm))))
        row["words_told"] = topology.words_told()
        topology.keep_logs(logs)
    print(
        f"{users:>6,} users: {row['success']:.2f} % of {row['turns']:,} turns, added p50/p95/p99 {three(row['added_first'])} ms, "
        f"first token p95 {ms(row['first_token']['p95'])} ms, wrong tokens {row['wrong_tokens']}, "
        f"others on the machine {row['elsewhere_percent']:.0f} % of a core, "
        f"users' words in logs and metrics: {row['words_told'] or 'none'}",
        flush=True,
    )
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.table", description=__doc__)
    parser.add_argument("--users", default="50,200,500,1000", help="the rows")
    parser.add_argument(
        "--seconds", type=float, default=125.0, help="of each row; the first sixth or so is not counted"
    )
    parser.add_argument("--instances", type=int, default=3)
    parser.add_argument(
        "--no-worker", action="store_true", help="nothing is learnt: shows what learning costs its neighbours"
    )
    parser.add_argument("--out", type=Path, default=None)
    wish = parser.parse_args(arguments)
    folder = wish.out or new_folder("table")
    rows = [
        measure(
            int(users),
            wish.seconds,
            folder / f"logs-{users}",
            instances=wish.instances,
            mock=Mock(),
            worker=not wish.no_worker,
        )
        for users in wish.users.split(",")
    ]
    report = Report("The operators' table")
    report.say(
        f"{wish.instances} instances of the API behind nginx, a worker{' (switched off)' if wish.no_worker else ''}, the scheduler, "
        f"PostgreSQL, Valkey. The model: first token after 500 ms, 40 tokens a second, 151 tokens. Users think 5 to 15 s; one reply in "
        f"twenty loses its connection and is followed further on another. {wish.seconds:.0f} s a row."
    )
    tell(report, rows)
    print(f"\n{report.write(folder, rows).read_text()}\nWritten to {folder}")
    sound = all(row["success"] >= GOAL_SUCCESS and not row["wrong_tokens"] and not row["words_told"] for row in rows)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
