"""The measurement itself, on a small conversation of our own."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memory.ports import Vectors
from service.bench.kept_vectors import KeptVectors
from service.bench.recall import measure

LINES = [
    ("Ana", "Good morning! How was the regatta?"),
    ("Ben", "We won it yesterday, with the old sails."),
    ("Ana", "I signed up for a glassblowing course."),
    ("Ben", "My nephew plays the bassoon now."),
]
CORPUS = [
    {
        "id": name,
        "speakers": ["Ana", "Ben"],
        "turns": [
            {"id": f"D1:{n}", "speaker": speaker, "text": f"{text} {name}", "date": "2023-05-08", "session": "s1"}
            for n, (speaker, text) in enumerate(LINES)
        ],
        "questions": [
            {"qid": "0", "question": "When did Ben win the regatta?", "answer": "7 May 2023", "category": "temporal", "evidence": ["D1:1"]},
            {"qid": "1", "question": "Which course did Ana sign up for?", "answer": "glassblowing", "category": "single-hop", "evidence": ["D1:2"]},
        ],
    }
    for name in ("first", "second")
]  # fmt: skip


class Counting:
    """Vectors by the words of a text, and how often they were asked for."""

    name = "counting"
    dimensions = 384
    asked = 0

    async def embed(self, texts: Sequence[str], *, question: bool = False) -> Vectors:
        self.asked += len(texts)
        rows = np.zeros((len(texts), 384), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                rows[row, hashlib.blake2b(word.encode()).digest()[0]] += 1
        unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    async def aclose(self) -> None: ...


async def test_conversations_go_through_import_and_recall_and_leak_nothing(database_url: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.json"
    corpus.write_text(json.dumps(CORPUS))
    result, times = await measure(database_url, Counting(), corpus, CORPUS)
    assert result["overall"]["n"] == len(times) == 4
    assert result["overall"]["leaks"] == 0
    assert result["overall"]["R@5"] == 1
    assert result["temporal"]["date@t1000"] == 1
    assert result["single-hop"]["ans@t1000"] == 1


async def test_vectors_are_kept_for_the_next_run(tmp_path: Path) -> None:
    first = Counting()
    kept = KeptVectors(first, tmp_path / "bench" / "vectors.npz")
    made = await kept.embed(["one", "two", "one"])
    await kept.aclose()
    second = Counting()
    again = KeptVectors(second, tmp_path / "bench" / "vectors.npz")
    np.testing.assert_array_equal(await again.embed(["one", "two", "one"]), made)
    assert (first.asked, second.asked) == (2, 0)
