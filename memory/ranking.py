"""How found memories are put in order: a weighted sum of few signals, the same for everybody.

The weights are constants, chosen with whole conversations left out of the fit in turn (docs/recall.md says which, and
what each signal earns). Nothing is learnt from users.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from uuid import UUID

import numpy as np

from memory.associations import Floats, Numbers, WordTable


class Trait:
    """What a message looks like, whatever is asked, in bits. Bits 8 and 9 count the names in it, up to three.

    Plain numbers: an enumeration's operators would take longer than all other signals together.
    """

    ASKS = 1
    """It contains a question."""
    ANSWERS = 2
    """The message before it contains a question."""
    HAS_PHOTO = 4
    NAMES_TIME = 8
    HAS_NUMBER = 16
    STANDING = 32
    """It sets a rule or a preference that is meant to last: "always …", "I prefer …"."""
    QUOTES = 64


NAMES_SHIFT = 8

TIME_WORD = re.compile(
    r"\b(yesterday|today|tonight|tomorrow|last|next|ago|week|weekend|month|years?|monday|tuesday|wednesday|thursday"
    r"|friday|saturday|sunday|january|february|march|april|june|july|august|september|october|november|december|20\d\d"
    r"|since|recently|few days|morning|evening)\b",
    re.IGNORECASE,
)
NUMBER = re.compile(
    r"\b(\d+|one|two|three|four|five|six|seven|eight|nine|ten|twice|once|couple|dozen)\b", re.IGNORECASE
)
STANDING = re.compile(
    r"\b(always|never|prefer|preference|from now on|make sure (you|to)|whenever i|don['’]t (ever|want)"
    r"|please (don['’]t|do not|always|never))\b",
    re.IGNORECASE,
)
CAPITALISED = re.compile(r"(?<![.!?\]] )(?<!^)\b[A-Z][a-z]{2,}")
NO_NAMES = frozenset(
    {"Thanks", "Yeah", "Yes", "The", "And", "But", "What", "How", "Wow", "That", "This", "You", "Your"}
)

ASKS_WHEN = re.compile(r"\bwhen\b|what (date|day|month|year)|how long ago", re.IGNORECASE)
ASKS_AMOUNT = re.compile(r"how (many|much|long|often|old)", re.IGNORECASE)
ASKS_NAME = re.compile(
    r"\b(who|which|where|whose|name|named|called|titles?|what (is|are|was|were) the|what (books?|movies?|films?|games?"
    r"|songs?|bands?|cit(y|ies)|countr(y|ies)|places?|states?|team|brand|company|series|show|artist|author|restaurant"
    r"|kind|types?|breed))",
    re.IGNORECASE,
)
ASKS_HELP = re.compile(
    r"\b(can|could|would|will|should) (you|i)\b|how (do|should|can|would) i|suggest|recommend|help"
    r"|i['’]m (trying|planning|looking|working|about|thinking)",
    re.IGNORECASE,
)
FIRST_PERSON = re.compile(r"\b(i|my|me|mine|i['’]m|i['’]ve|i['’]d)\b", re.IGNORECASE)
SECOND_PERSON = re.compile(r"\b(you|your|yours)\b", re.IGNORECASE)


def traits(text: str, speakers: frozenset[str] = frozenset()) -> int:
    """What a message's own text shows, with the names in it that are not the speakers'."""
    found = 0
    if "?" in text:
        found |= Trait.ASKS
    if "[photo: " in text:
        found |= Trait.HAS_PHOTO
    if TIME_WORD.search(text):
        found |= Trait.NAMES_TIME
    if NUMBER.search(text):
        found |= Trait.HAS_NUMBER
    if STANDING.search(text):
        found |= Trait.STANDING
    if '"' in text:
        found |= Trait.QUOTES
    names = {name for name in CAPITALISED.findall(text) if name.lower() not in speakers} - NO_NAMES
    return found | min(len(names), 3) << NAMES_SHIFT


@dataclass(frozen=True, slots=True)
class Candidate:
    """A memory that the store found, with its scores and those of the messages around it, as shares of the best."""

    id: UUID
    layer: str
    conversation_id: UUID
    seq: int
    role: str
    speaker: str | None
    said_at: datetime
    text: str
    traits: int
    known_words: bytes
    """The numbers of its words in the table of associations."""
    words: float
    """BM25, with the IDF of this user's own memories."""
    meaning: float
    """Cosine of the question's and the message's vectors, above the least alike memory; 0 when one is missing."""
    words_before: float
    """Mean over the two messages before."""
    words_after: float
    meaning_after: float
    around: float
    """Best sum of words and meaning within a sitting's reach."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a question shows of what it asks for."""

    about_role: str | None
    """Whose messages it is about, by pronoun; None when it names people or nobody."""
    about_speaker: str | None
    """The one speaker whom it names."""
    about_nobody: bool
    """It says neither "I" nor "you", and names no speaker."""
    asks_when: bool
    asks_amount: bool
    asks_name: bool
    asks_help: bool
    days: Sequence[tuple[date, date]]
    """The ranges of days that it names."""
    words: Numbers
    """Numbers of its words in the table of associations, the speakers' names left out."""
    word_weights: Floats
    """How telling each of them is: its IDF in this user's memories."""


def _role(text: str) -> str | None:
    if FIRST_PERSON.search(text):
        return "user"
    return "assistant" if SECOND_PERSON.search(text) else None


def read_question(
    text: str, names: Sequence[str], days: Sequence[tuple[date, date]], words: Numbers, word_weights: Floats
) -> Question:
    named = sorted({name.lower() for name in names if re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)})
    role = None if named else _role(text)
    return Question(
        about_role=role,
        about_speaker=named[0] if len(named) == 1 else None,
        about_nobody=not named and role is None,
        asks_when=bool(ASKS_WHEN.search(text)),
        asks_amount=bool(ASKS_AMOUNT.search(text)),
        asks_name=bool(ASKS_NAME.search(text)),
        asks_help=bool(ASKS_HELP.search(text)),
        days=days,
        words=words,
        word_weights=word_weights,
    )


@dataclass(frozen=True, slots=True)
class Weights:
    """What each signal is worth, in the unit of the fused score."""

    words: float = 1.4
    meaning: float = 3.0
    associations: float = 3.3
    words_before: float = 1.2
    words_after: float = 0.5
    meaning_after: float = 0.6
    associations_near: float = 0.6
    around: float = 1.7
    spoken_by: float = 2.1
    spoken_by_user: float = 0.4
    """More of it when the question says "I" or "my"."""
    user_by_default: float = 1.8
    """The user's own words, when the question is about nobody in particular."""
    long: float = -0.7
    answers: float = 0.5
    photo: float = 0.4
    time_asked: float = 1.7
    number_asked: float = 1.3
    name_asked: float = 1.6
    date: float = 3.4
    standing: float = 0.5
    standing_asked: float = 1.4
    fact: float = 2.0
    """Not fitted, for want of facts in the sets: a fact has no neighbours to speak for it, and says in a few words what
    took several messages to say."""

    def vector(self) -> Floats:
        return np.array([getattr(self, field.name) for field in fields(self)], np.float32)


WEIGHTS = Weights()
ESSAY = 400
"""Characters from which a message counts as long: it touches on more than what is asked."""


def date_match(day: date, ranges: Sequence[tuple[date, date]]) -> float:
    """1 within a day of a range that the question names, less within a week of a short one, 0 beyond."""
    best = 0.0
    for first, last in ranges:
        apart = max((first - day).days, (day - last).days, 0)
        length = (last - first).days
        if apart <= 1:
            best = max(best, 0.3 if length > 300 else 1.0)
        elif apart <= 7 and length < 7:
            best = max(best, 0.7)
    return best


def associations(candidates: Sequence[Candidate], question: Question, table: WordTable) -> tuple[Floats, Floats]:
    """How close each candidate's words come to the question's, as a share of the best; and the mean of its neighbours."""
    known = [
        np.frombuffer(c.known_words, np.uint16) if c.layer == "episode" else table.numbers(c.text) for c in candidates
    ]
    own = table.closeness(question.words, question.word_weights, known)
    if own.size and own.max() > 0:
        own /= own.max()
    places = {(c.conversation_id, c.seq): i for i, c in enumerate(candidates) if c.layer == "episode"}
    near = np.zeros_like(own)
    for (conversation, seq), i in places.items():
        for beside in (seq - 1, seq + 1):
            if (neighbour := places.get((conversation, beside))) is not None:
                near[i] += own[neighbour] / 2
    return own, near


def features(candidates: Sequence[Candidate], question: Question, table: WordTable) -> Floats:
    """One row of signals a candidate, in the order of `Weights`."""
    own, near = associations(candidates, question, table)
    rows = [
        (
            c.words,
            c.meaning,
            own[i],
            c.words_before,
            c.words_after,
            c.meaning_after,
            near[i],
            c.around,
            _spoken_by(c, question),
            question.about_role == "user" and c.role == "user",
            question.about_nobody and c.role == "user",
            min(max(np.log(len(c.text) / ESSAY), 0), 3) if c.text else 0,
            bool(c.traits & Trait.ANSWERS),
            bool(c.traits & Trait.HAS_PHOTO),
            question.asks_when and bool(c.traits & Trait.NAMES_TIME),
            question.asks_amount and bool(c.traits & Trait.HAS_NUMBER),
            _names(c.traits) if question.asks_name else 0,
            date_match(c.said_at.date(), question.days) if question.days else 0,
            c.role == "user" and bool(c.traits & Trait.STANDING),
            question.asks_help and c.role == "user" and bool(c.traits & Trait.STANDING),
            c.layer == "fact",
        )
        for i, c in enumerate(candidates)
    ]
    return np.array(rows, np.float32).reshape(len(candidates), len(fields(Weights)))


def _names(shown: int) -> float:
    names = shown >> NAMES_SHIFT & 3
    return names / 3 if names else 0.3 * bool(shown & Trait.QUOTES)


def _spoken_by(candidate: Candidate, question: Question) -> bool:
    if question.about_speaker is not None:
        return (candidate.speaker or candidate.role).lower() == question.about_speaker
    return candidate.role == question.about_role


def rank(
    candidates: Sequence[Candidate], question: Question, table: WordTable, weights: Weights = WEIGHTS
) -> list[tuple[float, Candidate]]:
    """Candidates with their fused scores, best first; equal scores in the order of saying."""
    if not candidates:
        return []
    scores = features(candidates, question, table) @ weights.vector()
    order = sorted(range(len(candidates)), key=lambda i: (-scores[i], candidates[i].said_at, candidates[i].seq))
    return [(float(scores[i]), candidates[i]) for i in order]
