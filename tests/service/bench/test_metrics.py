"""Our measures against the ones that they restate, where those are at hand, and against numbers worked out by hand."""

import importlib.util
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from service.bench import answers, metrics, overview
from service.bench.recall import table

REFERENCE = Path(__file__).parents[4] / "shared" / "bench" / "recall_eval.py"
TURNS = [
    {
        "id": f"D{session}:{n}",
        "speaker": speaker,
        "text": text,
        "date": f"2023-05-{session:02}",
        "session": f"s{session}",
    }
    for session in (7, 8, 9)
    for n, (speaker, text) in enumerate(
        [
            ("Ana", "I adopted three cats and a hamster yesterday (6 May 2023)."),
            ("Ben", "The lake house was painted blue in June 2021."),
            ("Ana", "My sister moved to Lisbon for painting classes."),
            ("Ben", "Nothing much."),
        ]
    )
]
QUESTIONS: list[dict[str, Any]] = [
    {"category": "single-hop", "answer": "three cats, a hamster", "evidence": ["D7:0"]},
    {"category": "temporal", "answer": "6 May 2023", "evidence": ["D8:0", "D9:0"]},
    {"category": "temporal", "answer": "June 2021", "evidence": ["D7:1"]},
    {"category": "multi-hop", "answer": "Lisbon and painting", "evidence": ["D7:2", "D9:2", "D8:1"]},
    {"category": "adversarial", "answer": "", "evidence": ["D9:3"]},
    {
        "category": "knowledge_update",
        "answer": "blue",
        "evidence": ["D7:1", "D9:1"],
        "parts": {"original_info": ["D7:1"], "updated_info": ["D9:1"]},
    },
]


def reference() -> ModuleType:
    if not REFERENCE.exists():
        pytest.skip("the measures that ours restate are not beside this checkout")
    spec = importlib.util.spec_from_file_location("recall_eval", REFERENCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rankings(seed: int) -> list[list[str]]:
    shuffler = random.Random(seed)
    ids = [turn["id"] for turn in TURNS]
    return [shuffler.sample(ids, shuffler.randint(0, len(ids))) for _ in QUESTIONS]


def items(conversation: metrics.Conversation, ranked: list[str]) -> list[metrics.Item]:
    return [metrics.Item((("c", turn),), conversation.rendered(turn)) for turn in ranked]


@pytest.mark.parametrize("seed", range(8))
def test_they_give_the_numbers_of_the_reference(seed: int) -> None:
    original = reference()
    asked = [{**question, "qid": f"c#{n}", "question": "?"} for n, question in enumerate(QUESTIONS)]
    turns = [{**turn, "caption": ""} for turn in TURNS]
    rows = original.evaluate(
        [{"id": "c", "turns": turns, "questions": asked}],
        [{"qid": question["qid"], "ranked": ranked} for question, ranked in zip(asked, rankings(seed), strict=True)],
    )
    conversation = metrics.Conversation("c", {turn["id"]: turn for turn in TURNS})
    ours = [
        metrics.score(conversation, question, items(conversation, ranked))
        for question, ranked in zip(QUESTIONS, rankings(seed), strict=True)
    ]
    about = {"qid", "conv", "category", "missing", "n"}
    for expected, got in zip(rows, ours, strict=True):
        assert got == pytest.approx({name: value for name, value in expected.items() if name not in about})
    means = metrics.averages((question["category"], scores) for question, scores in zip(QUESTIONS, ours, strict=True))
    for name, group in original.groups(rows).items():
        if name in {"OVERALL", "temporal", "adversarial"}:
            mine = means["overall" if name == "OVERALL" else name]
            assert mine["R@10"] == pytest.approx(original.mean(group, "R@10"))
            assert mine["n"] == len(group)


def test_another_conversations_source_is_a_leak() -> None:
    conversation = metrics.Conversation("c", {turn["id"]: turn for turn in TURNS})
    found = [metrics.Item((("other", "D7:0"),), "x"), metrics.Item((("c", "D7:0"),), "y")]
    scores = metrics.score(conversation, QUESTIONS[0], found)
    assert scores["leaks"] == 1
    assert (scores["R@1"], scores["R@5"], scores["mrr"]) == (0, 1, 0.5)


def test_context_is_filled_in_order_with_what_fits() -> None:
    conversation = metrics.Conversation("c", {turn["id"]: turn for turn in TURNS})
    found = [metrics.Item((("c", "D7:1"),), "x" * 3000), metrics.Item((("c", "D7:0"),), "three cats, hamster")]
    scores = metrics.score(conversation, QUESTIONS[0], found)
    assert (scores["R@t500"], scores["R@t1000"]) == (1, 1)
    assert scores["ans@t500"] == 1


def test_the_table_shows_every_category_and_the_leaks() -> None:
    conversation = metrics.Conversation("c", {turn["id"]: turn for turn in TURNS})
    rows = [
        (q["category"], metrics.score(conversation, q, items(conversation, r)))
        for q, r in zip(QUESTIONS, rankings(1), strict=True)
    ]
    shown = table(metrics.averages(rows), [1.0, 2.0, 3.0])
    assert "| multi-hop | 1 |" in shown
    assert "leaks 0" in shown


def test_dates_are_read_in_the_ways_that_people_write_them() -> None:
    found = answers.days("on 7 May 2023, then May 8th, 2023; 2023-05-09 and June 2021")
    assert {(2023, 5, 7), (2023, 5, 8), (2023, 5, 9), (2021, 6, 0)} <= found


def test_the_overview_shows_what_was_reached_beside_the_goal() -> None:
    result = {"overall": {"R@5": 0.6}, "multi-hop": {"R@10": 0.5}}
    shown = overview.rows("realtalk-dev", result)
    assert "| realtalk-dev | overall | R@5 | 0.446 | 0.517 | **0.600** | 0.550 |" in shown
    assert "| realtalk-dev | multi-hop | R@10 |  | 0.411 | **0.500** | 0.460 |" in shown


def test_the_overview_says_when_the_sets_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert overview.main(["--data", str(tmp_path)]) == 2
    assert "No conversations in" in capsys.readouterr().err
