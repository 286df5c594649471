"""Which model a vector is of. Two models' vectors are never compared, and rows have room for two while one takes over.

`embedding_models` names the model of each of the two places (`slot`) that a row has for its vector. A vector carries the
name of its model to the database, which alone decides where it belongs, so that a process that has not heard of a switch
yet writes and reads the right place.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from memory.ports import Vectors
from memory.postgres import Connection


class ModelVectors(np.ndarray[Any, np.dtype[np.float32]]):
    """Vectors that know their model; rows taken out of them know it too."""

    model: str | None

    def __array_finalize__(self, source: object) -> None:
        self.model = getattr(source, "model", None)


def named(vectors: Vectors, model: str) -> Vectors:
    """The vectors, with the name of their model."""
    marked = vectors.view(ModelVectors)
    marked.model = model
    return marked


def model_of(vector: Vectors) -> str | None:
    """The name of a vector's model; None for one that was made by hand, and counts as the current model's."""
    name: str | None = getattr(vector, "model", None)
    return name


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    dimensions: int
    slot: int
    state: str
    """`current`: asked and written; `filling`: on its way; `previous`: kept for a way back."""
    source: str
    """The name by which a process opens it; empty for the one that it was started with."""


async def read_models(connection: Connection) -> dict[str, Model]:
    """By state."""
    rows = await connection.fetch("SELECT name, dimensions, slot, state, source FROM embedding_models")
    return {row["state"]: Model(**row) for row in rows}
