"""Scores of all that may matter, as columns of numbers: which memories are worth a closer look, and how they stand."""

from dataclasses import dataclass
from uuid import UUID

import asyncpg
import numpy as np
import numpy.typing as npt

from memory.statements import FACTS, REACH, SCALE

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
LEAST_RANGE = 1e-6
AROUND = 0.5
"""What the best score around is worth beside a message's own, when those for a closer look are chosen. All weights of the
final order, as far as they can be known here, choose worse: REALTALK's recall in 1,000 tokens loses .003."""


def floats(packed: bytes | None) -> Floats:
    """Numbers as PostgreSQL sends them, one behind the other."""
    return np.frombuffer(packed or b"", ">f4").astype(np.float32)


def integers(packed: bytes | None, width: int = 8) -> Integers:
    return np.frombuffer(packed or b"", f">i{width}").astype(np.int64)


def conversation_keys(packed: bytes | None) -> Integers:
    """A number for each conversation's id; that two ids share one is as likely as a broken disk."""
    halves = np.frombuffer(packed or b"", np.int64).reshape(-1, 2)
    return halves[:, 0] ^ (halves[:, 1] * np.int64(0x9E3779B97F4A7C1))


@dataclass(frozen=True, slots=True)
class Chosen:
    """Memories for a closer look, best first, with their scores as shares of the best."""

    ids: list[bytes]
    conversations: list[bytes]
    """Their ids; as `seqs`, of messages only."""
    seqs: Integers
    dense: Floats
    """Cosines; below every cosine where there is no vector."""
    words: Floats
    meaning: Floats
    words_before: Floats
    meaning_after: Floats
    around: Floats


@dataclass(frozen=True, slots=True)
class Scale:
    lexical_best: float
    lexical_range: float
    dense_best: float
    dense_worst: float
    dense_range: float

    @classmethod
    def of(cls, lexical: Floats, dense: Floats) -> "Scale":
        known = dense[~np.isnan(dense)]
        best = float(known.max()) if known.size else 0.0
        worst = float(known.min()) if known.size > 1 else 0.0
        most = float(lexical.max()) if lexical.size else 0.0
        return cls(most, max(most, LEAST_RANGE), best, worst, max(best - worst, LEAST_RANGE))

    def words(self, lexical: Floats) -> Floats:
        return lexical / np.float32(self.lexical_range)

    def meaning(self, dense: Floats) -> Floats:
        shares: Floats = np.fmax((dense - np.float32(self.dense_worst)) / np.float32(self.dense_range), np.float32(0))
        return shares


def choose(row: asyncpg.Record, after: tuple[UUID, int] | None, pool: int) -> tuple[Scale, Chosen, Chosen]:
    """The scale of all scores; the messages, as many as `pool`, and the facts for a closer look.

    Messages of the conversation that `after` names, beyond its seq, count as neighbours but are not chosen.
    """
    lexical, dense = -floats(row["lexical"]), _cosines(row["dense"])
    fact_lexical, fact_dense = -floats(row["fact_lexical"]), _cosines(row["fact_dense"])
    scale = Scale.of(np.concatenate([lexical, fact_lexical]), np.concatenate([dense, fact_dense]))
    return scale, _messages(row, scale, (lexical, dense), after, pool), _facts(row, scale, fact_lexical, fact_dense)


def _cosines(packed: bytes | None) -> Floats:
    return floats(packed) * np.float32(-1 / SCALE)


def _messages(
    row: asyncpg.Record, scale: Scale, scores: tuple[Floats, Floats], after: tuple[UUID, int] | None, pool: int
) -> Chosen:
    lexical, dense = scores
    keys, seqs = conversation_keys(row["conversations"]), integers(row["seqs"])
    order = _said_order(keys, seqs)
    keys, seqs, dense = keys[order], seqs[order], dense[order]
    words, meaning = scale.words(lexical[order]), scale.meaning(dense)
    own = words + meaning
    around = _best_around(own, keys)
    score = own + np.float32(AROUND) * around
    if after is not None:
        score[(keys == conversation_keys(after[0].bytes)[0]) & (seqs > after[1])] = -np.inf
    best = _best(score, seqs, pool)
    return Chosen(
        _ids(row["ids"], order[best]),
        _ids(row["conversations"], order[best]),
        seqs[best],
        np.fmax(dense[best], np.float32(-1)),
        words[best],
        meaning[best],
        _mean_of_two(words, keys, -1)[best],
        _mean_of_two(meaning, keys, 1)[best],
        around[best],
    )


def _facts(row: asyncpg.Record, scale: Scale, lexical: Floats, dense: Floats) -> Chosen:
    words, meaning = scale.words(lexical), scale.meaning(dense)
    best = np.argsort(-(words + meaning), kind="stable")[:FACTS]
    none = np.zeros(len(best), np.float32)
    ids = _ids(row["fact_ids"], best)
    return Chosen(ids, [], best[:0], np.fmax(dense[best], np.float32(-1)), words[best], meaning[best], none, none, none)


def _said_order(keys: Integers, seqs: Integers) -> npt.NDArray[np.intp]:
    """Conversation by conversation, in the order of saying; most users have one, where sorting by it would say nothing."""
    return np.argsort(seqs) if (keys == keys[:1]).all() else np.lexsort((seqs, keys))


def _best(score: Floats, seqs: Integers, pool: int) -> npt.NDArray[np.intp]:
    """Places of the best scores, equal ones in the order of saying; what is not to be chosen scores minus infinity."""
    places = np.flatnonzero(score > -np.inf)
    if len(places) > pool:
        least = np.partition(score[places], -pool)[-pool]
        places = places[score[places] >= least]
    return places[np.lexsort((seqs[places], -score[places]))[:pool]]


def _ids(packed: bytes | None, places: npt.NDArray[np.intp]) -> list[bytes]:
    if packed is None:
        return []
    return [packed[16 * place : 16 * place + 16] for place in places.tolist()]


def _best_around(own: Floats, keys: Integers) -> Floats:
    """The best score within reach on either side, in the same conversation."""
    best = own.copy()
    for step in range(1, min(REACH, len(own) - 1) + 1):
        same = keys[step:] == keys[:-step]
        np.maximum(best[step:], own[:-step], out=best[step:], where=same)
        np.maximum(best[:-step], own[step:], out=best[:-step], where=same)
    return best


def _mean_of_two(values: Floats, keys: Integers, direction: int) -> Floats:
    """Mean over the two messages before (-1) or after (1), with nothing for those that aren't there."""
    total = np.zeros_like(values)
    for step in (1, 2):
        if step >= len(values):
            break
        same = keys[step:] == keys[:-step]
        if direction < 0:
            total[step:] += np.where(same, values[:-step], 0)
        else:
            total[:-step] += np.where(same, values[step:], 0)
    return total * np.float32(0.5)
