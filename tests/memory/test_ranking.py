"""Each signal alone: with everything else equal, it decides."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

import numpy as np
import numpy.typing as npt
import pytest

from memory import associations, budget, excerpts, ranking, recency
from memory.ranking import Candidates, Trait

TABLE = associations.table()


@dataclass(frozen=True)
class Memory:
    seq: int = 10
    role: str = "assistant"
    speaker: str = "Melanie"
    said_at: datetime = datetime(2023, 5, 8, tzinfo=UTC)
    length: int = 24
    traits: int = 0
    known_words: bytes = b""
    words: float = 0.3
    meaning: float = 0.5
    words_before: float = 0
    words_after: float = 0
    meaning_after: float = 0.3
    around: float = 1.0
    fact: bool = False


PLAIN = Memory()


def columns(memories: Sequence[Memory]) -> Candidates:
    def numbers(name: str) -> npt.NDArray[np.float32]:
        return np.array([getattr(memory, name) for memory in memories], np.float32)

    return Candidates(
        facts=np.array([memory.fact for memory in memories]),
        conversations=np.ones(len(memories), np.int64),
        seqs=np.array([memory.seq for memory in memories], np.int64),
        roles=[memory.role for memory in memories],
        speakers=[memory.speaker for memory in memories],
        said_at=np.array([int(memory.said_at.timestamp() * 1e6) for memory in memories], np.int64),
        lengths=np.array([memory.length for memory in memories], np.int64),
        traits=np.array([memory.traits for memory in memories], np.int64),
        known_words=[memory.known_words for memory in memories],
        words=numbers("words"),
        meaning=numbers("meaning"),
        words_before=numbers("words_before"),
        words_after=numbers("words_after"),
        meaning_after=numbers("meaning_after"),
        around=numbers("around"),
    )


def ranked(memories: Sequence[Memory], question: ranking.Question) -> list[Memory]:
    return [memories[place] for place in ranking.rank(columns(memories), question, TABLE)[0]]


def asking(text: str, days: list[tuple[date, date]] | None = None) -> ranking.Question:
    words = TABLE.numbers(text)
    return ranking.read_question(text, ["Caroline", "Melanie"], days or [], words, np.ones(len(words), np.float32))


@pytest.mark.parametrize(
    ("question", "better"),
    [
        ("anything", {"words": 0.9}),
        ("anything", {"meaning": 0.9}),
        ("anything", {"words_before": 0.8}),
        ("anything", {"around": 1.9}),
        ("What did Caroline do?", {"speaker": "Caroline"}),
        ("What did I say?", {"role": "user"}),
        ("When was it?", {"traits": Trait.NAMES_TIME}),
        ("How many were there?", {"traits": Trait.HAS_NUMBER}),
        ("Which city was it?", {"traits": 2 << ranking.NAMES_SHIFT}),
        ("What about the pets?", {"known_words": TABLE.numbers("Our dog barks at cats").tobytes()}),
    ],
)
def test_a_signal_decides_between_equals(question: str, better: dict[str, object]) -> None:
    preferred = replace(PLAIN, seq=50, **better)  # type: ignore[arg-type]
    assert ranked([PLAIN, preferred], asking(question))[0] == preferred


def test_a_date_in_the_question_prefers_what_was_said_then() -> None:
    then = replace(PLAIN, seq=50, said_at=datetime(2023, 7, 2, tzinfo=UTC))
    asked = asking("What happened?", [(date(2023, 7, 1), date(2023, 7, 3))])
    assert ranked([PLAIN, then], asked)[0] == then


def test_equals_stand_in_the_order_of_saying_whatever_the_store_gave() -> None:
    later = replace(PLAIN, seq=11)
    for given in ([PLAIN, later], [later, PLAIN]):
        assert [found.seq for found in ranked(given, asking("x"))] == [10, 11]


def test_names_are_counted_and_speakers_are_not() -> None:
    shown = ranking.traits("Yesterday Melanie and I saw Rome and Naples.", frozenset({"melanie"}))
    assert shown >> ranking.NAMES_SHIFT == 2
    assert shown & Trait.NAMES_TIME


def test_associated_words_are_close_and_unknown_ones_harmless() -> None:
    close, far = TABLE.closeness(
        TABLE.numbers("cities"),
        np.ones(1, np.float32),
        [TABLE.numbers("I was in Chicago").tobytes(), TABLE.numbers("I like pasta").tobytes()],
    )
    assert close > far + 0.2
    assert TABLE.numbers("xqzzt").size == 0
    assert TABLE.closeness(TABLE.numbers(""), np.zeros(0, np.float32), [b"\0\0"]).tolist() == [0]


def test_a_long_message_is_cut_to_the_sentences_that_answer() -> None:
    filler = "This part is about something else entirely and goes on for a while. "
    text = filler * 6 + "The regatta is on 4 June 2023. " + filler * 6
    cut = excerpts.Cutter({"regatta": 3.0}).cut(text)
    assert "The regatta is on 4 June 2023." in cut
    assert len(cut) <= excerpts.LONGEST + 20
    assert cut.startswith(("…", "This part"))
    assert excerpts.Cutter({"regatta": 3.0}).cut("short") == "short"
    assert len(excerpts.Cutter({}).cut("x" * 50_000)) < 3 * excerpts.LONGEST


def test_a_budget_skips_what_does_not_fit_and_says_nothing_twice() -> None:
    texts = ["a" * 200, "b" * 4000, "c" * 200, "c" * 200]
    kept = budget.within(budget.distinct(texts, str), str, token_budget=150, limit=10)
    assert [text[0] for text in kept] == ["a", "c"]
    assert budget.within(texts, str, token_budget=10_000, limit=2) == texts[:2]
    assert budget.within(texts, str, token_budget=10_000, limit=0) == []


def test_what_was_said_later_stands_above_what_it_corrects() -> None:
    words = TABLE.numbers("monthly budget books subscriptions").tobytes()
    old = replace(PLAIN, seq=1, role="user", known_words=words)
    kites = TABLE.numbers("kites").tobytes()
    others = [replace(PLAIN, seq=n, role="user", known_words=kites) for n in range(2, 12)]
    new = replace(PLAIN, seq=40, role="user", known_words=words)
    found, order = columns([old, *others, new]), list(range(12))
    text = "What is my budget for books?"
    now = recency.newest_first(order, found, text, asking(text), TABLE)
    assert now[0] == 11
    assert now.index(0) < recency.HEAD
    assert sorted(now) == order
    assert recency.newest_first(order, found, "What was my budget for books?", asking("x"), TABLE) == order
    assert recency.newest_first([], columns([]), "What?", asking("What?"), TABLE) == []
