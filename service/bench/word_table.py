"""Make memory/data/minilm_words.npz from the tokenizer's vocabulary and the model: `python -m service.bench.word_table`."""

import json

import numpy as np
import numpy.typing as npt

from memory import lexical
from memory.associations import TABLE
from memory.embedders import TOKENIZER, EmbedderConfig, MiniLmModel

DIMENSIONS = 128
"""Half of them lose a third of what the table earns; all 384 earn nothing more."""


def known_words() -> list[str]:
    """Words that the tokenizer keeps whole, function words left out, and short numbers."""
    vocabulary = json.loads(TOKENIZER.read_text(encoding="utf-8"))["model"]["vocab"]
    letters = [
        word
        for word in vocabulary
        if len(word) > 1 and word.isascii() and word.isalpha() and word not in lexical.ENGLISH_STOP_WORDS
    ]
    return letters + [word for word in vocabulary if word.isascii() and word.isdigit() and len(word) <= 4]


def _packed(words: list[str]) -> npt.NDArray[np.uint8]:
    return np.frombuffer("\n".join(words).encode(), np.uint8)


def main() -> None:
    words = known_words()
    vectors = MiniLmModel(EmbedderConfig(batch=64), asked=False).encode(words)
    vectors -= vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(vectors, full_matrices=False)
    projected = vectors @ axes[:DIMENSIONS].T
    projected /= np.abs(projected).max(axis=1, keepdims=True)
    packed = np.round(projected * 127).astype(np.int8)
    stems = [lexical.stem(word, "en") for word in words]
    np.savez_compressed(TABLE, words=_packed(words), stems=_packed(stems), vectors=packed)
    print(f"{len(words)} words, {TABLE.stat().st_size} bytes")  # noqa: T201  a command's answer


if __name__ == "__main__":
    main()
