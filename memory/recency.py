"""What was said later corrects what was said before: of memories about one matter the newest stands first."""

import re
from collections.abc import Sequence

import numpy as np

from memory import lexical
from memory.associations import Floats, WordTable
from memory.ranking import Candidates, Question

HEAD = 5
"""Memories at the top of which those about the best one's matter stand newest first."""
DEPTH = 16
"""How far down a newer statement of the same matter is looked for."""
ALIKE, SAME_STATEMENT = 0.6, 0.7
"""Cosines of two messages' mean words: about the same matter; so near that the newer one is fetched from below."""
PAST = re.compile(r"\b(did|was|were|had|ago|used to)\b", re.IGNORECASE)


def newest_first(
    order: Sequence[int], candidates: Candidates, text: str, question: Question, table: WordTable
) -> list[int]:
    """Put the newest of those about one matter first, with the newer statement that comes nearest to the best one.

    A question about the past, or about a day, wants what was true then: its order stays. So does that of a question in
    another language than English, whose few known words would take any two messages for one matter.
    """
    ordered = list(order)
    if not ordered or PAST.search(text) or question.days or not lexical.seems_english(text):
        return ordered
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
        if age(ordered[rank]) > age(best)
    }
    newer = max(below, key=below.__getitem__, default=None)
    if newer is not None and below[newer] >= SAME_STATEMENT:
        ordered.insert(HEAD - 1, ordered.pop(newer))
    ranks = [rank for rank in range(min(HEAD, len(ordered))) if rank == 0 or likeness(ordered[rank]) >= ALIKE]
    for rank, place in zip(ranks, sorted((ordered[rank] for rank in ranks), key=age, reverse=True), strict=True):
        ordered[rank] = place
    return ordered


def _mean(candidates: Candidates, place: int, table: WordTable) -> Floats:
    # a fact that was superseded is no candidate: facts need not be put in order
    known = np.frombuffer(b"" if candidates.facts[place] else candidates.known_words[place], np.uint16)
    mean: Floats = table.vectors(known).mean(axis=0) if len(known) else np.zeros(1, np.float32)
    unit: Floats = mean / max(float(np.linalg.norm(mean)), 1e-6)
    return unit
