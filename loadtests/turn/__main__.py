"""`make bench-turn`: what Rapport adds to a turn beside nginx, LiteLLM and LangGraph, in one interleaved run."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from loadtests.turn import floor, report, targets
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
    parser.add_argument("--capacity", action="store_true", help="also: how many streams one core holds")
    parser.add_argument("--idle", action="store_true", help="also: memory of 1,000 waiting streams")
    parser.add_argument("--soak", type=float, default=0.0, help="also: memory over so many minutes of load")
    parser.add_argument("--json", type=Path, help="write all runs to this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and, last, `ratio N.NN`. Returns 1 when Rapport lost, repeated or mixed up a token."""
    asked = parsed(arguments)
    with tempfile.TemporaryDirectory(prefix="rapport-turn-") as home, targets.opened_stand(Path(home)) as stand:
        names = ["direct"]
        for peer in filter(None, asked.peers.split(",")):
            try:
                targets.PEERS[peer](stand)
            except PeerMissingError as error:
                sys.stderr.write(f"Without {peer}, which can't be installed: {error}\n")
                continue
            names.append(peer)
        profiles = {profile.name: profile.model for profile in PROFILES}
        targets.add_rapport(stand, profiles, USERS, asked.memories, CONVERSATIONS)
        names.append("rapport")
        for name in names:
            model = SINGLE.name if name == "rapport" else SINGLE.model
            targets.warm(stand.targets[name], model)
        counts = [int(count) for count in asked.streams.split(",")]
        runs: list[Run] = list(
            interleaved(stand, names, counts, repeats=asked.repeats, seconds=asked.seconds, turns=asked.turns)
        )
        parts = floor.measure(stand)
        if len(counts) > 1:
            runs.append(measure(stand, stand.targets["rapport"], LONG, 100, seconds=6, turns=0))
            say(runs[-1])
    found = medians(runs)
    sys.stdout.write(report.table(found, parts) + "\n")
    if asked.json:
        asked.json.write_text(json.dumps({"runs": [asdict(run) for run in runs], "floor": parts}, indent=1))
    own = [run for run in runs if run.target == "rapport"]
    sys.stdout.write(report.closing(found, parts) + "\n")
    return 0 if all(run.whole for run in own) else 1


if __name__ == "__main__":
    sys.exit(main())
