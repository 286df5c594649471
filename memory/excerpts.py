"""The part of a long message that answers: whole sentences, in their order, with what was left out marked."""

import re
from collections.abc import Mapping

FIRST, ROOM, LONGEST = 5, 480, 200
"""Characters that the first few memories may take, which hold most answers, and those that any other may."""
BESIDE_BEFORE, BESIDE_AFTER = 0.5, 0.25
"""What the sentences before and after lend of their scores: a sentence goes on with the matter of the one before it."""
READ = 4_000
"""Characters of a message that are looked at."""
WHEN = 2.0
"""What a date in a sentence is worth when the question asks for one, in the unit of a term's IDF."""
SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")
WORD = re.compile(r"\w+")
DATED = re.compile(r"\(\d{1,2} [A-Z]|\([A-Z][a-z]+ \d{4}\)|\(\d{4}\)")


def room(rank: int) -> int:
    """Characters that are worth their place in a prompt, of the memory at this place of the order."""
    return ROOM if rank < FIRST else LONGEST


class Cutter:
    """Cuts messages for one question, whose terms are given with how telling each is."""

    def __init__(self, telling: Mapping[str, float], *, asks_when: bool = False) -> None:
        # a stem is nearly always how its words begin ("hobbi" but for its i); stemming every word would cost more than recall
        self._weights = {term.rstrip("i") or term: weight for term, weight in telling.items()}
        longest_first = sorted(self._weights, key=len, reverse=True)
        # no pattern of a question's own: making one costs more than recall's arithmetic
        self._begin_words = tuple(term for term in longest_first if term.isascii())
        self._anywhere = tuple(term for term in longest_first if not term.isascii())
        self._asks_when = asks_when

    def cut(self, text: str, *, longest: int = LONGEST) -> str:
        """The sentences with the most telling terms, up to `longest` characters; a short text as it is."""
        if len(text) <= longest:
            return text
        sentences = [sentence.strip() for sentence in SENTENCE.split(text[:READ]) if sentence.strip()]
        scores = self._scores(sentences)
        # of equal ones the first: the head of a message says what it is about
        order = sorted(range(len(sentences)), key=lambda i: (-scores[i], i))
        kept: set[int] = set()
        left = longest
        for i in order:
            if not kept or len(sentences[i]) <= left:
                kept.add(i)
                left -= len(sentences[i]) + 1
            if left < 20:
                break
        return _joined(sentences, kept, longest)

    def _scores(self, sentences: list[str]) -> list[float]:
        own = [self._score(sentence) for sentence in sentences]
        before, after = [0.0, *own[:-1]], [*own[1:], 0.0]
        return [
            mine + BESIDE_BEFORE * earlier + BESIDE_AFTER * later
            for mine, earlier, later in zip(own, before, after, strict=True)
        ]

    def _score(self, sentence: str) -> float:
        found = sum(self._weights[term] for term in self._said(sentence.lower()))
        return found + (WHEN if self._asks_when and DATED.search(sentence) else 0.0)

    def _said(self, sentence: str) -> set[str]:
        """The terms that the sentence holds; a word counts for the longest that it begins with."""
        begin = self._begin_words
        words = [word for word in WORD.findall(sentence) if word.startswith(begin)]
        said = {next(term for term in begin if word.startswith(term)) for word in words}
        return said.union(term for term in self._anywhere if term in sentence)


def _joined(sentences: list[str], kept: set[int], longest: int) -> str:
    pieces: list[str] = []
    for i, sentence in enumerate(sentences):
        if i in kept:
            whole = len(sentence) <= 2 * longest
            pieces.append(sentence if whole else sentence[: 2 * longest].rsplit(" ", 1)[0] + " …")
        elif not pieces or pieces[-1] != "…":
            pieces.append("…")
    return " ".join(pieces)
