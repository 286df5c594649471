"""The figures of a run as one Markdown table."""

from collections.abc import Mapping, Sequence

from loadtests.turn.measure import Run

HEAD = (
    "| relay | streams | added p50 / p95 / p99, ms | token late p50 / p99, ms | CPU, µs a token | of its stores | "
    "whole / failed | missing / repeated | others |\n|---|---|---|---|---|---|---|---|---|"
)


def table(runs: Sequence[Run], parts: Mapping[str, float]) -> str:
    lines = [HEAD]
    for run in runs:
        name = f"{run.target} (replies of 600 tokens)" if run.profile == "long" else run.target
        lines.append(
            f"| {name} | {run.streams} | {run.added_p50:.1f} / {run.added_p95:.1f} / {run.added_p99:.1f} "
            f"| {run.late_p50:.1f} / {run.late_p99:.1f} | {_number(run.cpu_per_token)} "
            f"| {_number(run.store_cpu_per_token)} | {run.ok} / {run.failed} | {run.missing} / {run.repeated} "
            f"| {run.others:.0%} |"
        )
    told = ", ".join(f"{name} {value:.2f} ms" for name, value in parts.items())
    return "\n".join([*lines, "", f"floor: {told}"])


def closing(runs: Sequence[Run], parts: Mapping[str, float]) -> str:
    """`ratio N.NN`: Rapport's added first-token p50 over LiteLLM's, one stream; without LiteLLM, over the floor."""
    single = {run.target: run.added_p50 for run in runs if run.streams == 1}
    own = single.get("rapport", 0.0)
    lines = [f"over the floor {own / parts['sum']:.2f}"]
    if "litellm" in single:
        lines.append(f"ratio {own / single['litellm']:.2f}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"
