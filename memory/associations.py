"""Which words go together: "city" with "Chicago", "dish" with "pasta", though they share no letter.

A table of the words that MiniLM's tokenizer knows whole, each with MiniLM's own vector of it, centred, projected to 128
dimensions and kept in 8 bits (`python -m service.bench.word_table` makes it). A message keeps the numbers of its words,
so that nothing is looked up or embedded when it is recalled. English, as the model is.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memory import lexical

TABLE = Path(__file__).parent / "data" / "minilm_words.npz"
LEAST = 0.1
"""Cosine under which two words have nothing to do with each other."""
ONE_THREAD = 200_000
"""Multiplications under which OpenBLAS stays in the calling thread (its threshold is 4 × 65,536)."""
MOST_WORDS = 200
"""Different words kept of one message."""
WORD = re.compile(r"[a-z0-9]+")

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.uint16]


class WordTable:
    """Numbers and vectors of known words. They stay in 8 bits: what is read at random should fit into the cache."""

    def __init__(self, words: Sequence[str], stems: Sequence[str], vectors: npt.NDArray[np.int8]) -> None:
        self.words = words
        self._vectors = vectors
        self._scales = 1 / np.linalg.norm(vectors.astype(np.float32), axis=1)
        self._numbers = {word: number for number, word in enumerate(words)}
        # the table begins with the most frequent words: they stand for their stems
        self._stems = {stem: number for number, stem in reversed(list(enumerate(stems)))}

    def vectors(self, numbers: npt.NDArray[Any]) -> Floats:
        """Unit vectors of the words with these numbers."""
        unit: Floats = self._vectors[numbers] * self._scales[numbers, None]
        return unit

    def number(self, word: str) -> int | None:
        """The number of a lower-case word, or of another form of its stem."""
        number = self._numbers.get(word)
        return self._stems.get(lexical.stem(word, "en")) if number is None else number

    def numbers(self, text: str) -> Numbers:
        """The different known words of a text, function words left out."""
        words = set(WORD.findall(text.lower())) - lexical.ENGLISH_STOP_WORDS
        found = sorted({number for word in words if (number := self.number(word)) is not None})
        return np.array(found[:MOST_WORDS], np.uint16)

    def closest(self, asked: Numbers, messages: Sequence[bytes]) -> Floats:
        """A row for each message: how close its closest word comes to each word of the question; 0 … 1.

        Together they are the late interaction of ColBERT (arXiv 2004.12832), over words without context. Messages are
        the bytes of their words' numbers.
        """
        found = np.zeros((len(messages), len(asked)), np.float32)
        lengths = np.fromiter(map(len, messages), np.int64, len(messages)) // 2
        filled = np.flatnonzero(lengths)
        if not filled.size or not len(asked):
            return found
        words = np.frombuffer(b"".join(messages), np.uint16)
        starts = np.concatenate([[0], np.cumsum(lengths[filled])[:-1]])
        # each word once; marking them in the whole table is quicker than sorting them
        marked = np.zeros(len(self.words), bool)
        marked[words] = True
        known = np.flatnonzero(marked)
        where = np.empty(len(self.words), np.int32)
        where[known] = np.arange(len(known), dtype=np.int32)
        alike = self._cosines(asked, known)
        best = np.maximum.reduceat(alike.take(where.take(words), axis=0), starts, axis=0)
        found[filled] = np.maximum(best - LEAST, 0)
        return found

    def _cosines(self, some: Numbers, others: npt.NDArray[np.intp]) -> Floats:
        """A row for each of the others.

        Products in portions that BLAS does in this thread: handing them to its pool costs more on a busy machine.
        """
        right, left = self.vectors(some).T, self._vectors.take(others, axis=0).astype(np.float32)
        height = max(1, ONE_THREAD // right.size)
        cosines = np.empty((len(others), len(some)), np.float32)
        for start in range(0, len(others), height):
            np.matmul(left[start : start + height], right, out=cosines[start : start + height])
        cosines *= self._scales.take(others)[:, None]
        return cosines


@lru_cache(maxsize=1)
def table() -> WordTable:
    """The shipped table, read on first use."""
    with np.load(TABLE, allow_pickle=False) as data:
        words, stems = (bytes(data[name]).decode().split("\n") for name in ("words", "stems"))
        vectors = data["vectors"]
    lexical.ENGLISH_STEMS.update(zip(words, stems, strict=True))
    return WordTable(words, stems, vectors)
