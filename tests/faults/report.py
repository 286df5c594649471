"""What a long run says at its end: one table for people, and the same as JSON."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.faults.gaps import ALONE, STOPPED, STORE, quantile
from tests.faults.run import Outcome

KEPT_GAPS = 12


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """How many there are, and their p50, p95 and p99."""
    shares = (0.5, 0.95, 0.99) if values else ()
    return {"n": len(values)} | {f"p{round(share * 100)}": round(quantile(values, share), digits) for share in shares}


def summed(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """All rounds as one."""
    verdicts = [outcome.verdict for outcome in outcomes]
    waits = [wait for outcome in outcomes for wait in outcome.acknowledge]
    acknowledged = sum(verdict.acknowledged for verdict in verdicts)
    drained = [verdict.drained for verdict in verdicts]
    gaps = {
        name: spread([gap for verdict in verdicts for gap in verdict.gaps.get(name, [])])
        for name in (ALONE, STORE, STOPPED)
    }
    return {
        "rounds": len(outcomes),
        "seeds": [outcome.plan.seed for outcome in outcomes],
        "seconds": round(sum(outcome.seconds for outcome in outcomes)),
        "planned": sum(sum(outcome.plan.faults.values()) for outcome in outcomes),
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
        "drained_longest": round(max((seconds for seconds in drained if seconds is not None), default=0.0), 1),
        "bound_95": 3 / acknowledged if acknowledged else None,
        "turns": sum(verdict.turns for verdict in verdicts),
        "failed": dict(sum((verdict.failed for verdict in verdicts), Counter[str]())),
        "replies_taken_over": sum(verdict.replies_taken_over for verdict in verdicts),
        "takeovers": sum(verdict.takeovers for verdict in verdicts),
        "zombie_writes_refused": sum(verdict.zombies for verdict in verdicts),
        "rebased": sum(verdict.rebased for verdict in verdicts),
        "shown_text_taken_back": dict(sum((verdict.taken_back for verdict in verdicts), Counter[str]())),
        "gaps": gaps,
        "long_gaps": [gap for verdict in verdicts for gap in verdict.long_gaps][:KEPT_GAPS],
        "acknowledge": spread(waits, 3),
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
    cells = (
        name,
        f"{figures['faults']:,} of {figures['planned']:,} in {figures['seconds']:,} s",
        f"{figures['acknowledged']:,}",
        *(f"**{figures[key]}**" for key in ("lost", "repeated", "twice", "not_learnt", "never_ended")),
        str(sum(figures["failed"].values())),
        f"{figures['replies_taken_over']:,}",
        str(sum(figures["shown_text_taken_back"].values())),
        f"{figures['zombie_writes_refused']:,}",
        *(_gap(figures["gaps"][key]) for key in (ALONE, STORE, STOPPED)),
        "–" if figures["bound_95"] is None or not is_clean(figures) else f"{figures['bound_95']:.2%}",
    )
    return f"| {' | '.join(cells)} |"


def _gap(found: dict[str, float]) -> str:
    return f"{found['p50']:.1f}/{found['p95']:.1f}/{found['p99']:.1f} s ({found['n']})" if found["n"] else "–"


COLUMNS = (
    "path",
    "faults",
    "acknowledged",
    "lost",
    "repeated",
    "twice",
    "not learnt",
    "never ended",
    "failed, and told so",
    "replies taken over",
    "text taken back, and told so",
    "zombie writes refused",
    "gap of a take-over alone, p50/p95/p99 (n)",
    "gap while a store was away too",
    "gap while the reader's instance or the model server was stopped too",
    "0 means at most, at 95 %",
)
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def kinds(figures: dict[str, Any]) -> str:
    lines = ["| fault | times |", "|---|---|"]
    lines += [f"| {kind} | {count} |" for kind, count in figures["by_kind"].items()]
    return "\n".join(lines)
