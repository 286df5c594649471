"""How found memories are put in order: a weighted sum of few signals, the same for everybody.

The weights are constants, chosen with whole conversations left out of the fit in turn (docs/recall.md says which, and
what each signal earns). Nothing is learnt from users.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from memory.associations import Floats, WordTable
from memory.questions import Question
from memory.traits import NAMES_SHIFT, Trait

EPOCH = date(1970, 1, 1)


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
    meaning_after: Floats
    around: Floats
    """Best sum of words and meaning within a sitting's reach."""

    def __len__(self) -> int:
        return len(self.seqs)


@dataclass(frozen=True, slots=True)
class Weights:
    """What each signal is worth, in the unit of the fused score."""

    words: float = 1.1
    meaning: float = 2.3
    associations: float = 1.8
    associations_around: float = 3.0
    """Of the message with the two before it, as if they were one: a question and its answer share out the words."""
    words_before: float = 0.7
    meaning_after: float = 1.2
    around: float = 1.9
    spoken_by: float = 2.0
    spoken_by_user: float = 1.2
    """More of it when the question says "I" or "my"."""
    user_by_default: float = 1.2
    """The user's own words, when the question is about nobody in particular."""
    long: float = -0.5
    answers: float = 0.6
    photo: float = 0.4
    names: float = 0.5
    time_asked: float = 1.7
    number_asked: float = 1.2
    name_asked: float = 1.2
    date: float = 4.3
    standing: float = 0
    standing_asked: float = 0
    rule: float = 0
    acknowledges: float = 0
    opening: float = 2.4
    """When an overview is asked for: what a day's talk begins with says what it is about."""
    companion_sums_up: float = 4.5
    """When a summary is asked for: the companion's own words, which gather what was said."""
    fact: float = 2.0
    """Not fitted, for want of facts in the sets: a fact has no neighbours to speak for it, and says in a few words what
    took several messages to say."""

    def vector(self) -> Floats:
        """Kept: it is asked for at every question."""
        return _vector(self)


@lru_cache
def _vector(weights: Weights) -> Floats:
    return np.array([getattr(weights, field.name) for field in fields(weights)], np.float32)


WEIGHTS = Weights()
"""Where both sides write about as much, as people do."""
ESSAYS = replace(
    WEIGHTS,
    words=3.0,
    meaning=4.5,
    associations_around=0,
    meaning_after=0,
    around=0.9,
    user_by_default=6.5,
    answers=0,
    date=1.7,
    standing=0.9,
    standing_asked=1.6,
    rule=1.5,
    acknowledges=-0.6,
)
"""Where the companion answers in essays: they touch on everything, so that what stands near them tells little."""
ESSAYS_FROM, ESSAYS_TO = 2.0, 4.0
"""How many times as long the companion's messages are, on average, for their weights to begin to count, and to hold."""
ESSAY = 400
"""Characters from which a message counts as long: it touches on more than what is asked."""
OPENING = 12
"""Messages in which a day's opening fades."""


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
    """How close each candidate's words come to the question's, alone and with the two before it; as shares of the best."""
    closest = table.closest(question.words, candidates.known_words)
    episodes = np.flatnonzero(~candidates.facts)
    order = episodes[np.lexsort((candidates.seqs[episodes], candidates.conversations[episodes]))]
    seqs, conversations = candidates.seqs[order], candidates.conversations[order]
    own = closest[order]
    together = own.copy()
    for step in (1, 2):
        near = (conversations[step:] == conversations[:-step]) & (seqs[step:] - seqs[:-step] <= 2)
        later = np.flatnonzero(near) + step
        together[later] = np.maximum(together[later], own[later - step])
    around = closest.copy()
    around[order] = together
    return _share(closest @ question.word_weights), _share(around @ question.word_weights)


def _share(scores: Floats) -> Floats:
    most = scores.max() if scores.size else 0
    return scores / most if most > 0 else scores


def essays(candidates: Candidates) -> float:
    """How far the companion writes essays where the user writes messages: 0 … 1."""
    told, by_user = ~candidates.facts, _by_user(candidates)
    users, companions = candidates.lengths[told & by_user], candidates.lengths[told & ~by_user]
    if not len(users) or not len(companions):
        return 0.0
    times = max(float(companions.mean()) / max(float(users.mean()), 1.0), 1.0)
    return min(max(math.log2(times / ESSAYS_FROM) / math.log2(ESSAYS_TO / ESSAYS_FROM), 0.0), 1.0)


def _by_user(candidates: Candidates) -> npt.NDArray[np.bool_]:
    return np.array([role == "user" for role in candidates.roles], bool)


def openings(candidates: Candidates) -> Floats:
    """1 for what a day's talk begins with, as far as the candidates show it, fading from message to message."""
    days = np.stack([candidates.conversations, candidates.said_at // DAY], axis=1)
    _, which = np.unique(days, axis=0, return_inverse=True)
    first = np.full(len(candidates), np.iinfo(np.int64).max)
    np.minimum.at(first, which, candidates.seqs)
    since = (candidates.seqs - first[which]).astype(np.float32)
    fading: Floats = np.where(candidates.facts, 0, np.exp(-since / OPENING)).astype(np.float32)
    return fading


def features(candidates: Candidates, question: Question, table: WordTable) -> Floats:
    """A column of signals each, in the order of `Weights`."""
    c, shown = candidates, candidates.traits
    own, around = associations(c, question, table)
    none = np.zeros(len(c), np.float32)
    by_user = _by_user(c)
    standing = by_user & (shown & Trait.STANDING > 0)
    names = shown >> NAMES_SHIFT & 3
    columns = (
        c.words,
        c.meaning,
        own,
        around,
        c.words_before,
        c.meaning_after,
        c.around,
        _spoken_by(c, question),
        by_user if question.about_role == "user" else none,
        by_user if question.about_nobody else none,
        np.clip(np.log(np.maximum(c.lengths, 1) / ESSAY), 0, 3),
        shown & Trait.ANSWERS > 0,
        shown & Trait.HAS_PHOTO > 0,
        names / 3,
        shown & Trait.NAMES_TIME > 0 if question.asks_when else none,
        shown & Trait.HAS_NUMBER > 0 if question.asks_amount else none,
        np.where(names > 0, names / 3, 0.3 * (shown & Trait.QUOTES > 0)) if question.asks_name else none,
        date_match(c.said_at // DAY, question.days) if question.days else none,
        standing,
        standing if question.asks_help else none,
        by_user & (shown & Trait.RULE > 0),
        shown & Trait.ACKNOWLEDGES > 0,
        openings(c) if question.asks_overview else none,
        ~by_user & ~c.facts if question.asks_summary else none,
        c.facts,
    )
    return np.array(columns, np.float32)


def _spoken_by(candidates: Candidates, question: Question) -> npt.NDArray[np.bool_]:
    if question.about_speaker is not None:
        said_by = [speaker or role for speaker, role in zip(candidates.speakers, candidates.roles, strict=True)]
        asked = {name for name in set(said_by) if name.lower() == question.about_speaker}
        return np.array([name in asked for name in said_by], bool)
    return np.array([role == question.about_role for role in candidates.roles], bool)


def rank(candidates: Candidates, question: Question, table: WordTable) -> tuple[list[int], Floats]:
    """The candidates' places, best first, and each one's score; equal scores in the order of saying."""
    share = np.float32(essays(candidates))
    weights = (1 - share) * WEIGHTS.vector() + share * ESSAYS.vector()
    scores = weights @ features(candidates, question, table)
    return np.lexsort((candidates.seqs, candidates.said_at, -scores)).tolist(), scores
