"""How found memories are put in order: a weighted sum of few signals, the same for everybody.

The weights are constants, chosen with whole conversations left out of the fit in turn (docs/recall.md says which, and
what each signal earns). Nothing is learnt from users.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date

import numpy as np
import numpy.typing as npt

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
EPOCH = date(1970, 1, 1)

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
class Candidates:
    """Memories for a closer look, a column a value: with their scores, and those around them, as shares of the best."""

    facts: npt.NDArray[np.bool_]
    conversations: npt.NDArray[np.int64]
    """A number for each conversation."""
    seqs: npt.NDArray[np.int64]
    roles: Sequence[str]
    speakers: Sequence[str | None]
    said_at: npt.NDArray[np.int64]
    """Microseconds since 1970."""
    lengths: npt.NDArray[np.int64]
    """Of the texts."""
    traits: npt.NDArray[np.int64]
    known_words: Sequence[bytes]
    """The numbers of their words in the table of associations."""
    words: Floats
    """BM25, with the IDF of this user's own memories."""
    meaning: Floats
    """Cosine of the question's and the memory's vectors, above the least alike memory; 0 when one is missing."""
    words_before: Floats
    """Mean over the two messages before."""
    words_after: Floats
    meaning_after: Floats
    around: Floats
    """Best sum of words and meaning within a sitting's reach."""

    def __len__(self) -> int:
        return len(self.seqs)


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


DAY = 86_400_000_000


def date_match(days: npt.NDArray[np.int64], ranges: Sequence[tuple[date, date]]) -> Floats:
    """1 within a day of a range that the question names, less within a week of a short one, 0 beyond.

    `days` are counted from 1970.
    """
    best = np.zeros(len(days), np.float32)
    for first, last in ranges:
        length = (last - first).days
        start, end = (first - EPOCH).days, (last - EPOCH).days
        apart = np.maximum(np.maximum(start - days, days - end), 0)
        worth = np.where(apart <= 1, 0.3 if length > 300 else 1.0, np.where((apart <= 7) & (length < 7), 0.7, 0.0))
        best = np.maximum(best, worth.astype(np.float32))
    return best


def associations(candidates: Candidates, question: Question, table: WordTable) -> tuple[Floats, Floats]:
    """How close each candidate's words come to the question's, as a share of the best; and the mean of its neighbours."""
    own = table.closeness(question.words, question.word_weights, candidates.known_words)
    if own.size and own.max() > 0:
        own /= own.max()
    near = np.zeros_like(own)
    episodes = np.flatnonzero(~candidates.facts)
    order = episodes[np.lexsort((candidates.seqs[episodes], candidates.conversations[episodes]))]
    left, right = order[:-1], order[1:]
    beside = (candidates.conversations[left] == candidates.conversations[right]) & (
        candidates.seqs[left] + 1 == candidates.seqs[right]
    )
    near[right[beside]] += own[left[beside]] / 2
    near[left[beside]] += own[right[beside]] / 2
    return own, near


def features(candidates: Candidates, question: Question, table: WordTable) -> Floats:
    """A column of signals each, in the order of `Weights`."""
    c, shown = candidates, candidates.traits
    own, near = associations(c, question, table)
    none = np.zeros(len(c), np.float32)
    by_user = np.array([role == "user" for role in c.roles], bool)
    standing = by_user & (shown & Trait.STANDING > 0)
    names = shown >> NAMES_SHIFT & 3
    columns = (
        c.words,
        c.meaning,
        own,
        c.words_before,
        c.words_after,
        c.meaning_after,
        near,
        c.around,
        _spoken_by(c, question),
        by_user if question.about_role == "user" else none,
        by_user if question.about_nobody else none,
        np.clip(np.log(np.maximum(c.lengths, 1) / ESSAY), 0, 3),
        shown & Trait.ANSWERS > 0,
        shown & Trait.HAS_PHOTO > 0,
        shown & Trait.NAMES_TIME > 0 if question.asks_when else none,
        shown & Trait.HAS_NUMBER > 0 if question.asks_amount else none,
        np.where(names > 0, names / 3, 0.3 * (shown & Trait.QUOTES > 0)) if question.asks_name else none,
        date_match(c.said_at // DAY, question.days) if question.days else none,
        standing,
        standing if question.asks_help else none,
        c.facts,
    )
    return np.array(columns, np.float32)


def _spoken_by(candidates: Candidates, question: Question) -> npt.NDArray[np.bool_]:
    if question.about_speaker is not None:
        said_by = [speaker or role for speaker, role in zip(candidates.speakers, candidates.roles, strict=True)]
        asked = {name for name in set(said_by) if name.lower() == question.about_speaker}
        return np.array([name in asked for name in said_by], bool)
    return np.array([role == question.about_role for role in candidates.roles], bool)


def rank(
    candidates: Candidates, question: Question, table: WordTable, weights: Weights = WEIGHTS
) -> tuple[list[int], Floats]:
    """The candidates' places, best first, and each one's score; equal scores in the order of saying."""
    scores = weights.vector() @ features(candidates, question, table)
    return np.lexsort((candidates.seqs, candidates.said_at, -scores)).tolist(), scores
