"""Real conversations to measure on, read where they lie beside the checkout; never part of it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[3] / "shared" / "bench" / "data"
SETS = ("locomo-dev", "realtalk-dev", "beam-dev")


@dataclass(frozen=True, slots=True)
class Recorded:
    id: str
    lines: tuple[tuple[str, str, str, datetime], ...]
    """(role, speaker, text, said at)"""

    @property
    def companion(self) -> str:
        return next((speaker for role, speaker, _, _ in self.lines if role == "assistant"), "")


def conversations(name: str, *, most: int | None = None) -> list[Recorded]:
    path = DATA / f"{name}.json"
    if not path.exists():
        pytest.skip(f"the development conversations are not here ({path.name})")
    return [_recorded(raw) for raw in list(_listed(json.loads(path.read_text())))[:most]]


def _listed(raw: Any) -> Iterator[dict[str, Any]]:
    yield from raw["conversations"] if isinstance(raw, dict) else raw


def _recorded(raw: dict[str, Any]) -> Recorded:
    first = raw["speakers"][0]
    lines = []
    for number, turn in enumerate(raw["turns"]):
        day = (
            datetime.fromisoformat(turn["date"]).replace(tzinfo=UTC)
            if turn.get("date")
            else datetime(2024, 1, 1, tzinfo=UTC)
        )
        role = "user" if turn["speaker"] == first else "assistant"
        lines.append((role, turn["speaker"], turn["text"].replace("\0", ""), day + timedelta(hours=9, seconds=number)))
    return Recorded(raw["id"], tuple(lines))
