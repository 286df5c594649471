"""What was said later corrects what was said before: of memories about one matter the newest stands first."""

import re
from collections.abc import Sequence

import numpy as np

from memory import lexical
from memory.associations import Floats, WordTable
from memory.questions import Question
from memory.ranking import DAY, EPOCH, Candidates

HEAD = 5
"""Memories at the top of which those about the best one's matter stand newest first."""
DEPTH = 16
"""How far down a newer statement of the same matter is looked for."""
ALIKE, OWN_ALIKE, SAME_STATEMENT = 0.6, 0.5, 0.7
"""Cosines of two messages' mean words: about the same matter; the same, when the question is about the user; so near
that the newer one is fetched from below, which is done for the user's own matters alone."""
PAST = re.compile(r"\b(did|was|were|had|ago|used to)\b", re.IGNORECASE)


def newest_first(
    order: Sequence[int], candidates: Candidates, text: str, question: Question, table: WordTable
) -> list[int]:
    """Put the newest of those about one matter first, with the newer statement that comes nearest to the best one.

    A question about the past, or about days gone by, wants what was true then: its order stays. So does that of a
    question in another language than English, whose few known words would take any two messages for one matter.
    """
    ordered = list(order)
    if not ordered or PAST.search(text) or _gone_by(question, candidates) or not lexical.seems_english(text):
        return ordered
    own = question.about_role == "user"
    best = ordered[0]
    matter = _mean(candidates, best, table)

    def likeness(place: int) -> float:
        same = candidates.roles[place] == candidates.roles[best]
        return float((matter * _mean(candidates, place, table)).sum()) if same else 0.0

    def age(place: int) -> tuple[int, int]:
        return int(candidates.said_at[place]), int(candidates.seqs[place])

    below = {
        rank: likeness(ordered[rank])
        for rank in range(HEAD, min(DEPTH, len(ordered)))
        if own and age(ordered[rank]) > age(best)
    }
    newer = max(below, key=below.__getitem__, default=None)
    if newer is not None and below[newer] >= SAME_STATEMENT:
        ordered.insert(HEAD - 1, ordered.pop(newer))
    least = OWN_ALIKE if own else ALIKE
    ranks = [rank for rank in range(min(HEAD, len(ordered))) if rank == 0 or likeness(ordered[rank]) >= least]
    for rank, place in zip(ranks, sorted((ordered[rank] for rank in ranks), key=age, reverse=True), strict=True):
        ordered[rank] = place
    return ordered


def _gone_by(question: Question, candidates: Candidates) -> bool:
    """Whether it names days that were over when something was said last: "this year" is not, "last May" is."""
    last = int(candidates.said_at.max()) // DAY
    return any((end - EPOCH).days < last for _, end in question.days)


def _mean(candidates: Candidates, place: int, table: WordTable) -> Floats:
    # a fact that was superseded is no candidate: facts need not be put in order
    known = np.frombuffer(b"" if candidates.facts[place] else candidates.known_words[place], np.uint16)
    mean: Floats = table.vectors(known).mean(axis=0) if len(known) else np.zeros(1, np.float32)
    unit: Floats = mean / max(float(np.linalg.norm(mean)), 1e-6)
    return unit
