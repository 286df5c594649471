"""Which memories are chosen for a closer look: the same as by sorting all of them, whatever is quicker."""

import numpy as np
import numpy.typing as npt
import pytest

from memory import scores


def all_sorted(score: npt.NDArray[np.float32], seqs: npt.NDArray[np.int64], pool: int) -> list[int]:
    order = np.lexsort((seqs, -score))
    return [place for place in order.tolist() if score[place] > -np.inf][:pool]


@pytest.mark.parametrize("pool", [1, 7, 140, 1_000])
def test_the_best_are_those_of_the_whole_order(pool: int) -> None:
    random = np.random.default_rng(5)
    # few different scores: where the choice ends, many are equal
    score = random.integers(0, 6, 400).astype(np.float32)
    score[random.integers(0, 400, 40)] = -np.inf
    seqs = random.permutation(400)
    assert scores._best(score, seqs, pool).tolist() == all_sorted(score, seqs, pool)


def test_nothing_is_chosen_where_nothing_may_be() -> None:
    assert scores._best(np.full(3, -np.inf, np.float32), np.arange(3), 2).tolist() == []
    assert scores._best(np.zeros(0, np.float32), np.arange(0), 2).tolist() == []


@pytest.mark.parametrize("conversations", [1, 3])
def test_messages_stand_by_conversation_in_the_order_of_saying(conversations: int) -> None:
    random = np.random.default_rng(5)
    keys = random.integers(0, conversations, 50)
    seqs = random.permutation(50)
    order = scores._said_order(keys, seqs).tolist()
    assert order == sorted(range(50), key=lambda place: (keys[place], seqs[place]))


def test_a_memory_without_a_vector_is_alike_to_nothing_even_beside_an_opposite_one() -> None:
    scale = scores.Scale.of(np.zeros(2, np.float32), np.array([np.nan, -0.2], np.float32))
    assert scale.meaning(np.array([np.nan, -0.2], np.float32)).tolist() == [0, 0]
