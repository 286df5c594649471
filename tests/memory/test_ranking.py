"""Each signal alone: with everything else equal, it decides."""

from dataclasses import replace
from datetime import UTC, date, datetime
from uuid import uuid4

import numpy as np
import pytest

from memory import associations, budget, excerpts, ranking, recency
from memory.ranking import Candidate, Trait

TABLE = associations.table()
PLAIN = Candidate(
    id=uuid4(),
    layer="episode",
    conversation_id=uuid4(),
    seq=10,
    role="assistant",
    speaker="Melanie",
    said_at=datetime(2023, 5, 8, tzinfo=UTC),
    text="Something that was said.",
    traits=0,
    known_words=b"",
    words=0.3,
    meaning=0.5,
    words_before=0,
    words_after=0,
    meaning_after=0.3,
    around=1.0,
)


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
    preferred = replace(PLAIN, id=uuid4(), seq=50, **better)  # type: ignore[arg-type]
    ranked = ranking.rank([PLAIN, preferred], asking(question), TABLE)
    assert ranked[0][1].id == preferred.id


def test_a_date_in_the_question_prefers_what_was_said_then() -> None:
    then = replace(PLAIN, id=uuid4(), seq=50, said_at=datetime(2023, 7, 2, tzinfo=UTC))
    asked = asking("What happened?", [(date(2023, 7, 1), date(2023, 7, 3))])
    assert ranking.rank([PLAIN, then], asked, TABLE)[0][1].id == then.id


def test_equals_stand_in_the_order_of_saying_whatever_the_store_gave() -> None:
    later = replace(PLAIN, id=uuid4(), seq=11)
    for given in ([PLAIN, later], [later, PLAIN]):
        assert [found.seq for _, found in ranking.rank(given, asking("x"), TABLE)] == [10, 11]


def test_names_are_counted_and_speakers_are_not() -> None:
    shown = ranking.traits("Yesterday Melanie and I saw Rome and Naples.", frozenset({"melanie"}))
    assert shown >> ranking.NAMES_SHIFT == 2
    assert shown & Trait.NAMES_TIME


def test_associated_words_are_close_and_unknown_ones_harmless() -> None:
    close, far = TABLE.closeness(
        TABLE.numbers("cities"),
        np.ones(1, np.float32),
        [TABLE.numbers("I was in Chicago"), TABLE.numbers("I like pasta")],
    )
    assert close > far + 0.2
    assert TABLE.numbers("xqzzt").size == 0
    assert TABLE.closeness(TABLE.numbers(""), np.zeros(0, np.float32), [TABLE.numbers("pasta")]).tolist() == [0]


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
    old = replace(PLAIN, id=uuid4(), seq=1, role="user", known_words=words)
    kites = TABLE.numbers("kites").tobytes()
    others = [replace(PLAIN, id=uuid4(), seq=n, role="user", known_words=kites) for n in range(2, 12)]
    new = replace(PLAIN, id=uuid4(), seq=40, role="user", known_words=words)
    ranked = [(9.0, old), *((5.0, other) for other in others), (4.0, new)]
    now = recency.newest_first(ranked, "What is my budget for books?", asking("What is my budget for books?"), TABLE)
    places = [found.id for _, found in now]
    assert places[0] == new.id
    assert places.index(old.id) < recency.HEAD
    assert len(places) == len(ranked)
    past = recency.newest_first(ranked, "What was my budget for books?", asking("x"), TABLE)
    assert past == ranked
    assert recency.newest_first([], "What?", asking("What?"), TABLE) == []
