"""Each signal alone: with everything else equal, it decides."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

import numpy as np
import numpy.typing as npt
import pytest

from memory import associations, budget, excerpts, questions, ranking, recency, traits
from memory.ranking import Candidates
from memory.traits import Trait

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
        meaning_after=numbers("meaning_after"),
        around=numbers("around"),
    )


def ranked(memories: Sequence[Memory], question: questions.Question) -> list[Memory]:
    return [memories[place] for place in ranking.rank(columns(memories), question, TABLE)[0]]


def asking(text: str, days: list[tuple[date, date]] | None = None) -> questions.Question:
    words = TABLE.numbers(text)
    return questions.read_question(text, ["Caroline", "Melanie"], days or [], words, np.ones(len(words), np.float32))


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
        ("Which city was it?", {"traits": 2 << traits.NAMES_SHIFT}),
        ("What about the pets?", {"known_words": TABLE.numbers("Our dog barks at cats").tobytes()}),
        ("anything", {"traits": 2 << traits.NAMES_SHIFT}),
        ("Where did you say my keys are?", {"role": "assistant"}),
        ("A summary of the trip, please.", {"role": "assistant"}),
    ],
)
def test_a_signal_decides_between_equals(question: str, better: dict[str, object]) -> None:
    plain = replace(PLAIN, role="user" if better.get("role") == "assistant" else "assistant")
    preferred = replace(plain, seq=50, **better)  # type: ignore[arg-type]
    assert ranked([plain, preferred], asking(question))[0] == preferred


ESSAY = replace(PLAIN, seq=5, length=3_000, words=0.1, meaning=0.1)
"""Beside the others it shows that the companion writes essays."""
MINE = replace(PLAIN, role="user", length=60)


@pytest.mark.parametrize(
    ("question", "better", "worse"),
    [
        ("What is a login form?", {}, {"role": "assistant"}),
        ("How do I make a form?", {"traits": Trait.STANDING}, {}),
        ("How do I make a form?", {"traits": Trait.RULE}, {}),
        ("How do I make a form?", {}, {"traits": Trait.ACKNOWLEDGES}),
    ],
)
def test_where_the_companion_writes_essays_what_the_user_set_counts_more(
    question: str, better: dict[str, object], worse: dict[str, object]
) -> None:
    first = replace(MINE, seq=20, **worse)  # type: ignore[arg-type]
    preferred = replace(MINE, seq=50, **better)  # type: ignore[arg-type]
    talk = [first, preferred, ESSAY]
    assert ranking.essays(columns(talk)) == 1
    assert ranked(talk, asking(question))[0] == preferred


def test_people_write_no_essays_and_facts_are_nobodys_messages() -> None:
    assert ranking.essays(columns([MINE, replace(MINE, role="assistant", length=110)])) == 0
    assert ranking.essays(columns([MINE, MINE])) == 0
    assert ranking.essays(columns([MINE, replace(ESSAY, fact=True)])) == 0
    assert 0 < ranking.essays(columns([MINE, replace(MINE, role="assistant", length=170)])) < 1


def test_words_shared_out_between_a_question_and_its_answer_count_together() -> None:
    def saying(seq: int, text: str) -> Memory:
        return replace(PLAIN, seq=seq, known_words=TABLE.numbers(text).tobytes())

    apart = [saying(1, "Our dog"), saying(11, "in Chicago")]
    together = [saying(21, "Our dog"), saying(22, "in Chicago")]
    assert ranked([*apart, *together], asking("Which city for pets?"))[0] == together[1]


def test_an_overview_begins_with_what_the_days_began_with() -> None:
    later = datetime(2023, 6, 8, tzinfo=UTC)
    talk = [replace(PLAIN, seq=n, said_at=PLAIN.said_at if n < 30 else later) for n in range(1, 60)]
    first = ranked(talk, asking("In what order did the topics of our talks come up?"))[:4]
    assert {memory.seq for memory in first} == {1, 2, 30, 31}


def test_orders_and_acknowledgements_are_told_by_how_a_sentence_begins() -> None:
    rule = Trait.STANDING | Trait.RULE
    assert traits.traits("Always name the source when I ask about news.") & rule == rule
    assert traits.traits("I prefer tea.") & rule == Trait.STANDING
    assert traits.traits("I've never been there, like I always say.") & rule == 0
    assert traits.traits("Thanks, that helps!") & Trait.ACKNOWLEDGES
    assert not traits.traits("I say thanks to Ann.") & Trait.ACKNOWLEDGES


def test_a_date_in_the_question_prefers_what_was_said_then() -> None:
    then = replace(PLAIN, seq=50, said_at=datetime(2023, 7, 2, tzinfo=UTC))
    asked = asking("What happened?", [(date(2023, 7, 1), date(2023, 7, 3))])
    assert ranked([PLAIN, then], asked)[0] == then


def test_equals_stand_in_the_order_of_saying_whatever_the_store_gave() -> None:
    later = replace(PLAIN, seq=11)
    for given in ([PLAIN, later], [later, PLAIN]):
        assert [found.seq for found in ranked(given, asking("x"))] == [10, 11]


def test_names_are_counted_and_speakers_are_not() -> None:
    shown = traits.traits("Yesterday Melanie and I saw Rome and Naples.", frozenset({"melanie"}))
    assert shown >> traits.NAMES_SHIFT == 2
    assert shown & Trait.NAMES_TIME


def test_associated_words_are_close_and_unknown_ones_harmless() -> None:
    (close,), (far,) = TABLE.closest(
        TABLE.numbers("cities"),
        [TABLE.numbers("I was in Chicago").tobytes(), TABLE.numbers("I like pasta").tobytes()],
    )
    assert close > far + 0.2
    assert TABLE.numbers("xqzzt").size == 0
    assert TABLE.closest(TABLE.numbers(""), [b"\0\0"]).shape == (1, 0)


def test_a_long_message_is_cut_to_the_sentences_that_answer() -> None:
    filler = "This part is about something else entirely and goes on for a while. "
    text = filler * 6 + "The regatta is on 4 June 2023. " + filler * 6
    cut = excerpts.Cutter({"regatta": 3.0}).cut(text)
    assert "The regatta is on 4 June 2023." in cut
    assert len(cut) <= excerpts.LONGEST + 20
    assert cut.startswith(("…", "This part"))
    assert excerpts.Cutter({"regatta": 3.0}).cut("short") == "short"
    assert len(excerpts.Cutter({}).cut("x" * 50_000)) < 3 * excerpts.LONGEST


def test_the_sentence_after_a_hit_is_kept_before_one_far_from_it() -> None:
    filler = "It rained for most of the afternoon and nothing else happened at all. "
    text = filler * 3 + "I went to the regatta. We saw thirty boats. " + filler * 3
    cut = excerpts.Cutter({"regatta": 3.0}).cut(text, longest=60)
    assert cut == "… I went to the regatta. We saw thirty boats. …"


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"boat": 1.0, "boathous": 3.0}, "The boathouse burnt."),  # the longer of two beginnings
        ({"hobbi": 3.0}, "My hobby is this."),
        ({"regatta": 3.0}, "A Regatta!"),
        ({"почт": 3.0}, "Вот почта."),
        ({"寿司": 3.0}, "今日は寿司です。"),
    ],
)
def test_a_sentence_is_told_by_how_its_words_begin(terms: dict[str, float], said: str) -> None:
    filler = "Some boats sank. The overboathouse is no such word, and it rained for most of the afternoon. "
    cut = excerpts.Cutter(terms).cut(f"{filler * 4}{said} {filler * 4}", longest=20)
    assert cut == f"… {said} …"


def test_the_first_memories_get_more_room() -> None:
    assert [excerpts.room(rank) for rank in (0, excerpts.FIRST - 1, excerpts.FIRST)] == [
        excerpts.ROOM,
        excerpts.ROOM,
        excerpts.LONGEST,
    ]


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
    gone, running = [(date(2023, 1, 1), date(2023, 1, 31))], [(date(2023, 1, 1), date(2023, 12, 31))]
    assert recency.newest_first(order, found, text, asking(text, gone), TABLE) == order
    assert recency.newest_first(order, found, text, asking(text, running), TABLE) == now
    # of a question about somebody else nothing is fetched from below
    other = "What is the budget for books?"
    assert recency.newest_first(order, found, other, asking(other), TABLE) == order
    assert recency.newest_first([], columns([]), "What?", asking("What?"), TABLE) == []
