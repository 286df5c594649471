"""From measured figures to machines for very many users, on paper.

python -m loadtests.paper --table .rapport/load/table-…/figures.json --growth .rapport/load/growth-…/figures.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.reports import Table
from loadtests.table import met_goals

USE = 0.5
"""How full a core may be at the peak: half, so that a zone may fail and nothing waits."""


@dataclass(frozen=True, slots=True)
class Assumed:
    users: int = 1_000_000
    turns_a_day: int = 20
    peak: float = 3.0
    """The busiest minute over the day's mean."""
    reply_tokens: int = 151
    reply_seconds: float = 4.3

    @property
    def turns_per_s(self) -> float:
        return self.users * self.turns_a_day / 86_400 * self.peak


def lines(row: dict[str, Any], kb_per_message: float, assumed: Assumed) -> list[list[str]]:
    """What is needed at the peak, from what a turn cost in this row of the operators' table."""
    turns = max(1.0, float(row["all_turns"]))
    each = {name: float(value) / turns for name, value in row["cost"].items()}
    rate = assumed.turns_per_s
    learning = float(row["cost"].get("worker", 0.0)) / row["learnt_messages"] if row["learnt_messages"] else 0.0
    cores = {name: each.get(name, 0.0) * rate / USE for name in ("api", "nginx", "postgres", "valkey")}
    # learning may wait until the night: it is reckoned over the day, not at the peak
    cores["worker"] = 2 * learning * rate / assumed.peak / USE
    daily_gb = assumed.users * assumed.turns_a_day * 2 * kb_per_message / 1024**2
    found = [
        [
            "turns a second at the peak",
            f"{rate:,.0f}",
            f"{assumed.users:,} users, {assumed.turns_a_day} turns a day, peak {assumed.peak:g} times the mean",
        ],
        ["streams open at the peak", f"{rate * assumed.reply_seconds:,.0f}", f"{assumed.reply_seconds} s a reply"],
        [
            "tokens a second at the peak",
            f"{rate * assumed.reply_tokens:,.0f}",
            f"{assumed.reply_tokens} tokens a reply",
        ],
    ]
    for name, count in cores.items():
        basis = (
            f"{1000 * learning:.1f} ms a message, twice a turn"
            if name == "worker"
            else f"{1000 * each.get(name, 0.0):.2f} ms of processor a turn"
        )
        found.append([f"cores for {name}", f"{count:,.0f}", f"{basis}, {USE:.0%} full"])
    found.append(
        ["storage a day, GB", f"{daily_gb:,.0f}", f"{kb_per_message:.2f} kB a message, two messages a turn, one copy"]
    )
    return found


def reckoned_with(rows: Sequence[dict[str, Any]], users: int = 0) -> dict[str, Any] | None:
    """The row of so many users, or the largest that met the goals: a machine that is too full is no measure of a turn."""
    fit = [row for row in rows if (row["users"] == users if users else met_goals(row))]
    return max(fit, key=lambda row: row["users"], default=None)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.paper", description=__doc__)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--growth", type=Path, required=True)
    parser.add_argument(
        "--row", type=int, default=0, help="users of the row to reckon with; without it the largest that met the goals"
    )
    parser.add_argument("--users", type=int, default=1_000_000)
    wish = parser.parse_args(arguments)
    row = reckoned_with(json.loads(wish.table.read_text()), wish.row)
    if row is None:
        parser.error(
            "the table has no such row" if wish.row else "no row of the table met the goals; name one with --row"
        )
    grown = json.loads(wish.growth.read_text())
    stored = (grown["users"] or grown["history"])[-1]["kb_per_message"]
    print(f"From the row of {row['users']:,} users:\n")
    print(Table(["what", "how much", "from"], lines(row, stored, Assumed(users=wish.users))).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
