"""`make load`: people of all kinds against three instances on this machine, or against --host; a report with plots.

python -m loadtests.run --users 50 --seconds 60 --shape ramp          python -m loadtests.run --host https://chat.example --tokens tokens.txt
"""

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtests.charts import Chart, Line
from loadtests.reports import Report, new_folder
from loadtests.sampling import Sampler, Samples
from loadtests.settings import SHAPES
from loadtests.topology import CHECKOUT, Mock, Topology, running

STREAMS = ("first token", "gap between tokens", "whole reply", "stopped reply")
GENERATOR = "locust"
Row = Mapping[str, str]


def locust(
    host: str, wish: argparse.Namespace, folder: Path, more: Sequence[str], environment: Mapping[str, str]
) -> list[str]:
    """Locust's command line."""
    return [
        sys.executable, "-m", "locust", "-f", str(CHECKOUT / "loadtests" / "locustfile.py"), "--headless", "--only-summary",
        "--host", host, "-u", str(wish.users), "-r", str(max(1, wish.users // 15)), "-t", f"{wish.seconds}s",
        "--shape", wish.shape, "--csv", str(folder / "locust"), "--csv-full-history",
        *(("--signing-key", environment["KEY"]) if "KEY" in environment else ()), *more,
    ]  # fmt: skip


def drive(
    host: str, wish: argparse.Namespace, folder: Path, more: Sequence[str], topology: Topology | None
) -> tuple[int, Samples | None]:
    """Run Locust to its end; what the parts cost meanwhile, where they are ours to look at."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {"KEY": str(topology.home / "keys" / "session.pem")} if topology is not None else {}
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), **({"RAPPORT_EMBEDDED": "true"} if topology else {})}
    process = subprocess.Popen(locust(host, wish, folder, more, own), cwd=CHECKOUT, env=environment)
    try:
        if topology is None:
            return process.wait(), None
        with Sampler(topology, {GENERATOR: process.pid}) as sampler:
            code = process.wait()
        return code, sampler.samples
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(20)


def rows_of(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def value(row: Row, name: str) -> float:
    try:
        return float(row.get(name) or 0)
    except ValueError:
        return 0.0  # Locust writes N/A where it has nothing yet


def report_of(
    host: str, wish: argparse.Namespace, folder: Path, samples: Samples | None
) -> tuple[Report, dict[str, Any]]:
    """What Locust wrote, as tables and charts."""
    report = Report(f"Load: {wish.users} users, {wish.shape}, {wish.seconds} s", here=not wish.host)
    stats, failures = rows_of(folder / "locust_stats.csv"), rows_of(folder / "locust_failures.csv")
    history = rows_of(folder / "locust_stats_history.csv")
    report.say(
        f"Against {host}. Streams are told apart from requests: first token, gap between tokens, whole reply. Times in ms."
    )
    replies = next((row for row in stats if row["Name"] == "whole reply"), {})
    count, bad = value(replies, "Request Count"), value(replies, "Failure Count")
    if count:
        report.say(
            f"{count:,.0f} replies read, {100 * (count - bad) / count:.2f} % of them whole: every event in order, no token missing or repeated."
        )
    order = sorted(stats, key=lambda row: (row["Name"] == "Aggregated", row["Type"] != "SSE", row["Name"]))
    report.table(
        ["what", "how often", "failed", "p50", "p95", "p99", "most"],
        [
            [
                f"{row['Type']} {row['Name']}".strip(), f"{value(row, 'Request Count'):,.0f}", f"{value(row, 'Failure Count'):,.0f}",
                *(f"{value(row, p):,.0f}" for p in ("50%", "95%", "99%", "100%")),
            ]
            for row in order
        ],
    )  # fmt: skip
    if failures:
        report.head("Failures")
        report.table(
            ["what", "error", "how often"],
            [[f"{row['Method']} {row['Name']}", row["Error"][:200], row["Occurrences"]] for row in failures],
        )
    _charts(report, history)
    if samples is not None:
        _cost(report, samples)
    return report, {
        "options": vars(wish) | {"out": str(wish.out)},
        "stats": stats,
        "failures": failures,
        "samples": samples.moments if samples else [],
    }


def _charts(report: Report, history: Sequence[Row]) -> None:
    if not history:
        return
    began = value(history[0], "Timestamp")

    def line(name: str, of: str, column: str) -> Line:
        found = [row for row in history if row["Name"] == of]
        return Line(name, [(value(row, "Timestamp") - began, value(row, column)) for row in found])

    whole = "Aggregated"
    report.chart(
        "load-users",
        Chart(
            "Users, and requests a second",
            "seconds",
            "",
            [
                line("users", whole, "User Count"),
                line("requests a second", whole, "Requests/s"),
                line("failures a second", whole, "Failures/s"),
            ],
        ),
    )
    for name in STREAMS[:3]:
        lines = [line(p, name, column) for p, column in (("p50", "50%"), ("p95", "95%"), ("p99", "99%"))]
        report.chart(
            f"load-{name.replace(' ', '-')}",
            Chart(name.capitalize(), "seconds", "ms, over the last ten seconds", lines),
        )


def _cost(report: Report, samples: Samples) -> None:
    report.head("What it cost")
    report.say(
        f"Locust is one Python process: it used {samples.share(GENERATOR):.0f} % of a core, and at 100 % its own figures are late. "
        f"Others on the machine used {samples.elsewhere():.0f} %."
    )
    rows = [
        [
            name,
            f"{samples.share(name):.0f}",
            f"{samples.memory_first.get(name, 0):,.0f}",
            f"{samples.memory.get(name, 0):,.0f}",
        ]
        for name in samples.processor
    ]
    report.table(["part", "percent of a core", "MB first", "MB most"], rows)
    report.say(
        f"Queue at most {samples.most('queue'):,.0f}, {samples.last('queue'):,.0f} at the end; conversations not yet learnt from "
        f"{samples.last('outbox'):,.0f}; connections of PostgreSQL at most {samples.most('connections'):.0f}."
    )
    lines = [
        Line(name, [(m["t"], m["processor"].get(name, 0.0)) for m in samples.moments]) for name in samples.processor
    ]
    report.chart("load-processor", Chart("Processor time of the parts", "seconds", "percent of one core", lines))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.run", description=__doc__)
    parser.add_argument(
        "--host", default="", help="an existing deployment; without it, three instances are started here"
    )
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--shape", choices=SHAPES[1:], default="steady")
    parser.add_argument("--instances", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    wish, more = parser.parse_known_args(arguments)
    folder = wish.out or new_folder("locust")
    if wish.host:
        host: str = wish.host
        code, samples = drive(host, wish, folder, more, None)
    else:
        with running(instances=wish.instances, mock=Mock()) as topology:
            host = f"{wish.instances} instances behind nginx on this machine, with the mock model (500 ms, 40 tokens a second, 151 tokens)"
            code, samples = drive(topology.url, wish, folder, more, topology)
    report, data = report_of(host, wish, folder, samples)
    report.write(folder, data)
    print(f"\nReport: {folder / 'report.html'} and report.md")
    return code


if __name__ == "__main__":
    sys.exit(main())
