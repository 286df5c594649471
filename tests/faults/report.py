"""What a long run says at its end: one table for people, and the same as JSON."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.faults.run import Outcome


def quantile(values: Sequence[float], share: float) -> float:
    """Nearest rank; NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def summed(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """All rounds as one."""
    verdicts = [outcome.verdict for outcome in outcomes]
    gaps = [gap for verdict in verdicts for gap in verdict.gaps]
    waits = [wait for outcome in outcomes for wait in outcome.acknowledge]
    acknowledged = sum(verdict.acknowledged for verdict in verdicts)
    drained = [verdict.drained for verdict in verdicts]
    return {
        "rounds": len(outcomes),
        "seeds": [outcome.plan.seed for outcome in outcomes],
        "seconds": round(sum(outcome.seconds for outcome in outcomes)),
        "faults": sum(outcome.faults for outcome in outcomes),
        "by_kind": dict(sorted(sum((outcome.done for outcome in outcomes), Counter[str]()).items())),
        "short_of_plan": [outcome.short_of_plan for outcome in outcomes if outcome.short_of_plan],
        "acknowledged": acknowledged,
        "lost": sum(len(verdict.lost) for verdict in verdicts),
        "repeated": sum(len(verdict.repeated) for verdict in verdicts),
        "twice": sum(len(verdict.twice) for verdict in verdicts),
        "not_learnt": sum(len(verdict.unlearnt) for verdict in verdicts),
        "never_ended": sum(len(verdict.unfinished) for verdict in verdicts),
        "out_of_order": sum(len(verdict.disorder) for verdict in verdicts),
        "foreign": sum(len(verdict.foreign) for verdict in verdicts),
        "not_drained": sum(seconds is None for seconds in drained),
        "drained_longest": round(max((seconds for seconds in drained if seconds is not None), default=float("nan")), 1),
        "bound_95": 3 / acknowledged if acknowledged else None,
        "turns": sum(verdict.turns for verdict in verdicts),
        "failed": dict(sum((verdict.failed for verdict in verdicts), Counter[str]())),
        "replies_taken_over": sum(verdict.replies_taken_over for verdict in verdicts),
        "takeovers": sum(verdict.takeovers for verdict in verdicts),
        "zombie_writes_refused": sum(verdict.zombies for verdict in verdicts),
        "rebased": sum(verdict.rebased for verdict in verdicts),
        "shown_text_taken_back": sum(verdict.shrunk for verdict in verdicts),
        "gap": [round(quantile(gaps, share), 2) for share in (0.5, 0.95, 0.99)],
        "acknowledge": [round(quantile(waits, share), 3) for share in (0.5, 0.95, 0.99)],
        "answers": dict(sum((outcome.answers for outcome in outcomes), Counter[str]())),
    }


BAD = (
    "lost",
    "repeated",
    "twice",
    "not_learnt",
    "never_ended",
    "out_of_order",
    "foreign",
    "not_drained",
    "short_of_plan",
)


def is_clean(figures: dict[str, Any]) -> bool:
    return not any(figures[name] for name in BAD)


def row(name: str, figures: dict[str, Any]) -> str:
    """One line of the comparison in docs/reliability.md."""
    gaps = "/".join(f"{seconds:.1f}" for seconds in figures["gap"])
    cells = (
        name,
        f"{figures['faults']:,} in {figures['seconds']:,} s",
        f"{figures['acknowledged']:,}",
        *(f"**{figures[key]}**" for key in ("lost", "repeated", "twice", "not_learnt", "never_ended")),
        f"{figures['replies_taken_over']:,}",
        f"{figures['zombie_writes_refused']:,}",
        "–" if gaps.startswith("nan") else f"{gaps} s",
    )
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| path | faults | acknowledged | lost | repeated | twice | not learnt | reply never ended | replies taken over "
    "| zombie writes refused | gap p50/p95/p99 |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def kinds(figures: dict[str, Any]) -> str:
    lines = ["| fault | times |", "|---|---|"]
    lines += [f"| {kind} | {count} |" for kind, count in figures["by_kind"].items()]
    return "\n".join(lines)
