"""All sets in one table, beside what others reached on them: `make bench-recall`.

The baselines were measured once, on the same development conversations (BEAM's on all of its 100K conversations); the
goals are this project's own. None of the sets is part of this project: they are read from a directory beside it.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.bench.metrics import Scores
from service.bench.recall import run

BESIDE = Path(__file__).parents[2].parent / "shared" / "bench" / "data"
KEPT = Path(".rapport") / "bench"


@dataclass(frozen=True, slots=True)
class Row:
    """A measure of a set: whose category, what it is, what a plain sum of BM25 and MiniLM reaches, and what is aimed at."""

    category: str
    measure: str
    plain: float | None
    linear: float | None
    """A sum of 17 signals fitted on other conversations of the set; BEAM: the user's side alone, smoothed."""
    goal: float


SETS: Mapping[str, Sequence[Row]] = {
    "locomo-dev": (
        Row("overall", "R@5", 0.522, 0.697, 0.75),
        Row("overall", "R@10", 0.616, 0.778, 0.82),
        Row("overall", "R@t1000", 0.722, 0.844, 0.88),
        Row("overall", "ans@t1000", 0.808, 0.922, 0.95),
        Row("overall", "date@t1000", 0.425, 0.458, 0.60),
        Row("multi-hop", "R@10", 0.379, 0.523, 0.58),
        Row("multi-hop", "all@10", 0.168, 0.263, 0.35),
    ),
    "realtalk-dev": (
        Row("overall", "R@5", 0.446, 0.517, 0.55),
        Row("overall", "R@10", 0.513, 0.596, 0.64),
        Row("overall", "R@t1000", 0.625, 0.671, 0.72),
        Row("multi-hop", "R@10", None, 0.411, 0.46),
    ),
    "beam-dev": (
        Row("overall", "R@10", 0.501, 0.622, 0.66),
        Row("overall", "R@t1000", 0.471, 0.643, 0.68),
        Row("preference_following", "R@10", 0.444, 0.791, 0.80),
        Row("overall", "new_first", 0.378, 0.351, 0.95),
    ),
}


def rows(name: str, result: Mapping[str, Scores]) -> list[str]:
    lines = []
    for row in SETS[name]:
        reached = result.get(row.category, {}).get(row.measure)
        cells = [name, row.category, row.measure, *map(_cell, (row.plain, row.linear)), f"**{_cell(reached)}**"]
        lines.append("| " + " | ".join([*cells, _cell(row.goal)]) + " |")
    return lines


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m service.bench.overview", description=__doc__)
    parser.add_argument("--data", type=Path, default=BESIDE, help="where the *-dev.json files are")
    directory: Path = parser.parse_args(arguments).data
    found = {name: directory / f"{name}.json" for name in SETS if (directory / f"{name}.json").exists()}
    if not found:
        sys.stderr.write(f"No conversations in {directory}: give their directory with --data.\n")
        return 2
    sys.stdout.write(
        "| set | questions | measure | BM25 + MiniLM | linear | **Rapport** | goal |\n|---|---|---|---|---|---|---|\n"
    )
    for name, path in found.items():
        result, _ = run(path, KEPT / f"{name}.npz")
        leaks = sum(scores["leaks"] for category, scores in result.items() if category != "overall")
        sys.stdout.write("\n".join([*rows(name, result), f"| {name} | all | leaks | | | **{leaks:.0f}** | 0 |"]) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
