"""The part of a long message that answers: whole sentences, in their order, with what was left out marked."""

import re
from collections.abc import Mapping

from memory import lexical

LONGEST = 320
"""Characters of a message that are worth their place in a prompt; most messages are shorter."""
READ = 6_000
"""Characters of a message that are looked at."""
SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")
DATED = re.compile(r"\(\d{1,2} [A-Z]|\([A-Z][a-z]+ \d{4}\)|\(\d{4}\)")


def cut(text: str, telling: Mapping[str, float], *, asks_when: bool = False, longest: int = LONGEST) -> str:
    """The sentences that hold the most telling terms of the question, up to `longest` characters."""
    if len(text) <= longest:
        return text
    sentences = [sentence.strip() for sentence in SENTENCE.split(text[:READ]) if sentence.strip()]
    scores = [_score(sentence, telling, asks_when=asks_when) for sentence in sentences]
    # of equal ones the first: the head of a message says what it is about
    order = sorted(range(len(sentences)), key=lambda i: (-scores[i], i))
    kept: set[int] = set()
    left = longest
    for i in order:
        if kept and len(sentences[i]) > left:
            continue
        kept.add(i)
        left -= len(sentences[i]) + 1
        if left < 20:
            break
    pieces = []
    for i, sentence in enumerate(sentences):
        if i in kept:
            pieces.append(
                sentence if len(sentence) <= 2 * longest else sentence[: 2 * longest].rsplit(" ", 1)[0] + " …"
            )
        elif pieces and pieces[-1] != "…":
            pieces.append("…")
    return " ".join(pieces if 0 in kept else ["…", *pieces])


def _score(sentence: str, telling: Mapping[str, float], *, asks_when: bool) -> float:
    found = sum(weight for term in lexical.terms(sentence) if (weight := telling.get(term)))
    return found + (2.0 if asks_when and DATED.search(sentence) else 0.0)
