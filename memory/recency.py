"""What was said later corrects what was said before: of memories about one matter the newest stands first."""

import re
from collections.abc import Sequence

import numpy as np

from memory.associations import Floats, WordTable
from memory.ranking import Candidate, Question

HEAD = 5
"""Memories at the top of which those about the best one's matter stand newest first."""
DEPTH = 16
"""How far down a newer statement of the same matter is looked for."""
ALIKE, SAME_STATEMENT = 0.6, 0.7
"""Cosines of two messages' mean words: about the same matter; so near that the newer one is fetched from below."""
PAST = re.compile(r"\b(did|was|were|had|ago|used to)\b", re.IGNORECASE)

Ranked = tuple[float, Candidate]


def newest_first(ranked: Sequence[Ranked], text: str, question: Question, table: WordTable) -> list[Ranked]:
    """Put the newest of those about one matter first, with the newer statement that comes nearest to the best one.

    A question about the past, or about a day, wants what was true then: its order stays.
    """
    ordered = list(ranked)
    if not ordered or PAST.search(text) or question.days:
        return ordered
    best = ordered[0][1]
    matter = _mean(best, table)

    def likeness(found: Candidate) -> float:
        return float(matter @ _mean(found, table)) if found.role == best.role else 0.0

    below = {
        place: likeness(ordered[place][1])
        for place in range(HEAD, min(DEPTH, len(ordered)))
        if _age(ordered[place]) > _age(ordered[0])
    }
    newer = max(below, key=below.__getitem__, default=None)
    if newer is not None and below[newer] >= SAME_STATEMENT:
        ordered.insert(HEAD - 1, ordered.pop(newer))
    places = [place for place in range(min(HEAD, len(ordered))) if place == 0 or likeness(ordered[place][1]) >= ALIKE]
    for place, item in zip(places, sorted((ordered[place] for place in places), key=_age, reverse=True), strict=True):
        ordered[place] = item
    return ordered


def _age(item: Ranked) -> tuple[float, int]:
    return item[1].said_at.timestamp(), item[1].seq


def _mean(candidate: Candidate, table: WordTable) -> Floats:
    known = np.frombuffer(candidate.known_words, np.uint16)
    mean: Floats = table.vectors[known].mean(axis=0) if len(known) else np.zeros(table.vectors.shape[1], np.float32)
    unit: Floats = mean / max(float(np.linalg.norm(mean)), 1e-6)
    return unit
