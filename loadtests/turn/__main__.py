"""`make bench-turn`: what Rapport adds to a turn beside nginx, LiteLLM and LangGraph, in one interleaved run."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtests.turn import endurance, floor, report, targets
from loadtests.turn.measure import LONG, PROFILES, SINGLE, Run, interleaved, measure, medians, say
from loadtests.turn.peers import PeerMissingError

USERS, MEMORIES, CONVERSATIONS = 10, 1000, 300


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.turn", description=__doc__)
    parser.add_argument("--peers", default="nginx,usual,litellm,langgraph", help="besides the mock and Rapport")
    parser.add_argument("--streams", default="1,100,500", help="streams at once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run with many streams")
    parser.add_argument("--turns", type=int, default=40, help="of each run with one stream")
    parser.add_argument("--memories", type=int, default=MEMORIES, help="of each of Rapport's users")
    parser.add_argument("--users", type=int, default=USERS, help="of Rapport, who speak in turn")
    parser.add_argument("--conversations", type=int, default=CONVERSATIONS, help="of each of them")
    parser.add_argument("--capacity", action="store_true", help="also: how many streams one core holds")
    parser.add_argument("--idle", action="store_true", help="also: memory of 1,000 waiting streams")
    parser.add_argument("--soak", type=float, default=0.0, help="also: memory over so many minutes of load")
    parser.add_argument("--patience", type=float, default=15.0, help="seconds to wait at most for a quiet machine")
    parser.add_argument("--json", type=Path, help="write all runs to this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and, last, `ratio N.NN`. Returns 1 when Rapport lost, repeated or mixed up a token."""
    asked = parsed(arguments)
    with tempfile.TemporaryDirectory(prefix="rapport-turn-") as home, targets.opened_stand(Path(home)) as stand:
        stand.patience = asked.patience
        names = ["direct"]
        for peer in filter(None, asked.peers.split(",")):
            try:
                targets.PEERS[peer](stand)
            except (PeerMissingError, targets.NotRelayingError) as error:
                sys.stderr.write(f"Without {peer}: {error}\n")
                continue
            names.append(peer)
        profiles = {profile.name: profile.model for profile in PROFILES}
        targets.add_rapport(stand, profiles, asked.users, asked.memories, asked.conversations)
        names.append("rapport")
        for name in list(names):
            try:
                targets.warm(stand.targets[name], SINGLE.name if name == "rapport" else SINGLE.model)
            except targets.NotRelayingError as error:
                if name == "rapport":
                    raise
                sys.stderr.write(f"Without {name}: {error}\n")
                names.remove(name)
        counts = [int(count) for count in asked.streams.split(",")]
        runs: list[Run] = list(
            interleaved(stand, names, counts, repeats=asked.repeats, seconds=asked.seconds, turns=asked.turns)
        )
        parts = floor.measure(stand)
        own = stand.targets["rapport"]
        if len(counts) > 1:
            runs.append(measure(stand, own, LONG, 100, seconds=6, turns=0))
            say(runs[-1])
        more: dict[str, Any] = {}
        if asked.capacity:
            more["capacity"] = asdict(endurance.capacity(stand, own))
        if asked.idle:
            more["waiting"] = asdict(endurance.waiting(stand, own))
        if asked.soak:
            more["soak"] = asdict(endurance.soak(own, asked.soak))
    found = medians(runs)
    sys.stdout.write(report.table(found, parts) + "\n")
    if asked.json:
        asked.json.write_text(json.dumps({"runs": [asdict(run) for run in runs], "floor": parts, **more}, indent=1))
    for name, figures in more.items():
        sys.stdout.write(f"{name}: {json.dumps(figures)}\n")
    ours = [run for run in runs if run.target == "rapport"]
    sys.stdout.write(report.closing(found, parts) + "\n")
    return 0 if all(run.whole for run in ours) else 1


if __name__ == "__main__":
    sys.exit(main())
