"""How found memories are put in order: a weighted sum of few signals, the same for everybody.

The weights are constants, chosen with whole conversations left out of the fit in turn (docs/recall.md says which, and
what each signal earns). Nothing is learnt from users.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from enum import IntFlag
from uuid import UUID

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Trait(IntFlag):
    """What a message looks like, whatever is asked."""

    ASKS = 1
    """It contains a question."""
    ENDS_ASKING = 2
    HAS_PHOTO = 4
    NAMES_TIME = 8
    HAS_NUMBER = 16
    ANSWERS = 32
    """The message before it contains a question."""


PHOTO = re.compile(r"\[photo: ")
TIME_WORD = re.compile(
    r"\b(yesterday|today|tonight|tomorrow|last|next|ago|week|weekend|month|year|years|monday|tuesday|wednesday|thursday"
    r"|friday|saturday|sunday|january|february|march|april|june|july|august|september|october|november|december|20\d\d"
    r"|since|recently|few days|morning|evening)\b",
    re.IGNORECASE,
)
NUMBER = re.compile(
    r"\b(\d+|one|two|three|four|five|six|seven|eight|nine|ten|twice|once|couple|dozen)\b", re.IGNORECASE
)
ASKS_WHEN = re.compile(r"\bwhen\b|what (date|day|month|year)|how long ago", re.IGNORECASE)
ASKS_AMOUNT = re.compile(r"how (many|much|long|often|old)", re.IGNORECASE)
FIRST_PERSON = re.compile(r"\b(i|my|me|mine|i['’]m|i['’]ve|i['’]d)\b", re.IGNORECASE)
SECOND_PERSON = re.compile(r"\b(you|your|yours)\b", re.IGNORECASE)
REQUEST = re.compile(
    r"\b((can|could|would|will) you|(do|would) you (think|recommend|suggest)|you (suggest|recommend))\b", re.IGNORECASE
)


def traits(text: str) -> Trait:
    """What a message's own text shows; `Trait.ANSWERS` depends on its neighbour."""
    found = Trait(0)
    if "?" in text:
        found |= Trait.ASKS
    if text.rstrip().endswith("?"):
        found |= Trait.ENDS_ASKING
    if PHOTO.search(text):
        found |= Trait.HAS_PHOTO
    if TIME_WORD.search(text):
        found |= Trait.NAMES_TIME
    if NUMBER.search(text):
        found |= Trait.HAS_NUMBER
    return found


@dataclass(frozen=True, slots=True)
class Candidate:
    """A message that the store found, with its scores and its neighbours'."""

    message_id: UUID
    conversation_id: UUID
    seq: int
    role: str
    speaker: str | None
    said_at: datetime
    text: str
    traits: int
    lexical: float
    """BM25, with the IDF of this user's own memories."""
    dense: float
    """Cosine of the question's and the message's vectors; 0 when one of them is missing."""
    lexical_before: float
    lexical_after: float
    lexical_before2: float
    lexical_after2: float
    dense_before: float
    dense_after: float
    dense_before2: float
    dense_after2: float
    around: float
    """Best sum of both scores among the messages around it, each score as a share of the best one."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The best and the worst scores among all of the user's memories."""

    lexical_best: float
    dense_best: float
    dense_worst: float


@dataclass(frozen=True, slots=True)
class Question:
    """What a question shows of what it asks for."""

    about_role: str | None
    """Whose messages it is about, by pronoun; None when it names people or nobody."""
    about_speaker: str | None
    """The one speaker whom it names."""
    asks_when: bool
    asks_amount: bool
    days: Sequence[tuple[date, date]]
    """The ranges of days that it names."""


def read_question(text: str, names: Sequence[str], days: Sequence[tuple[date, date]]) -> Question:
    named = [name for name in names if re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)]
    role = None
    if not named:
        if FIRST_PERSON.search(text):
            role = "user"
        elif SECOND_PERSON.search(REQUEST.sub("", text)):
            role = "assistant"
    return Question(
        about_role=role,
        about_speaker=named[0].lower() if len(named) == 1 else None,
        asks_when=bool(ASKS_WHEN.search(text)),
        asks_amount=bool(ASKS_AMOUNT.search(text)),
        days=days,
    )


@dataclass(frozen=True, slots=True)
class Weights:
    """What each signal is worth, in the unit of the fused score."""

    lexical: float = 3.1
    dense: float = 3.7
    lexical_before: float = 1.1
    lexical_after: float = 0.3
    lexical_before2: float = 0.9
    lexical_after2: float = 0.35
    dense_before: float = 0.3
    dense_after: float = 0.6
    dense_before2: float = -0.4
    dense_after2: float = 0.45
    around: float = 2.3
    spoken_by: float = 2.1
    length: float = 0.85
    asks: float = 0.2
    ends_asking: float = -0.7
    answers: float = 0.6
    photo: float = 0.2
    when_time: float = 1.8
    amount_number: float = 1.4
    date: float = 5.3

    def vector(self) -> Floats:
        return np.array([getattr(self, field.name) for field in fields(self)], np.float32)


WEIGHTS = Weights()


def date_match(day: date, ranges: Sequence[tuple[date, date]]) -> float:
    """1 within a day of a range that the question names, less within a week, 0 beyond."""
    best = 0.0
    for first, last in ranges:
        apart = max((first - day).days, (day - last).days, 0)
        whole_year = (last - first).days > 300
        value = 1.0 if apart <= 1 else 0.7 if apart <= 7 and (last - first).days < 7 else 0.0
        best = max(best, value * (0.3 if whole_year else 1.0))
    return best


def features(candidates: Sequence[Candidate], scale: Scale, question: Question) -> Floats:
    """One row of signals a candidate, in the order of `Weights`."""
    lexical = 1 / max(scale.lexical_best, 1e-6)
    dense = 1 / max(scale.dense_best - scale.dense_worst, 1e-6)

    def near(value: float) -> float:
        return (value - scale.dense_worst) * dense if value else 0.0

    rows = [
        (
            c.lexical * lexical,
            near(c.dense),
            c.lexical_before * lexical,
            c.lexical_after * lexical,
            c.lexical_before2 * lexical,
            c.lexical_after2 * lexical,
            near(c.dense_before),
            near(c.dense_after),
            near(c.dense_before2),
            near(c.dense_after2),
            c.around,
            _spoken_by(c, question),
            np.log(len(c.text) + 1),
            bool(c.traits & Trait.ASKS),
            bool(c.traits & Trait.ENDS_ASKING),
            bool(c.traits & Trait.ANSWERS),
            bool(c.traits & Trait.HAS_PHOTO),
            question.asks_when and bool(c.traits & Trait.NAMES_TIME),
            question.asks_amount and bool(c.traits & Trait.HAS_NUMBER),
            date_match(c.said_at.date(), question.days) if question.days else 0.0,
        )
        for c in candidates
    ]
    return np.array(rows, np.float32).reshape(len(candidates), len(fields(Weights)))


def _spoken_by(candidate: Candidate, question: Question) -> bool:
    if question.about_speaker is not None:
        return (candidate.speaker or "").lower() == question.about_speaker
    return candidate.role == question.about_role


def rank(
    candidates: Sequence[Candidate], scale: Scale, question: Question, weights: Weights = WEIGHTS
) -> list[tuple[float, Candidate]]:
    """Candidates with their fused scores, best first; equal scores in the order of saying."""
    if not candidates:
        return []
    scores = features(candidates, scale, question) @ weights.vector()
    order = sorted(range(len(candidates)), key=lambda i: (-scores[i], candidates[i].said_at, candidates[i].seq))
    return [(float(scores[i]), candidates[i]) for i in order]
