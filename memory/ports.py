"""What memory asks of the outside: vectors for texts, and structured answers from a model."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


class Embedder(Protocol):
    """Turns texts into unit vectors without blocking the event loop."""

    @property
    def name(self) -> str:
        """Identifies the model; vectors of different names are never compared."""
        ...

    @property
    def dimensions(self) -> int: ...

    async def embed(self, texts: Sequence[str], *, question: bool = False) -> Vectors:
        """Return an array of shape (len(texts), dimensions), rows of length 1.

        A `question` is looked up with and never stored: somebody waits for it, so that an embedder may go about it more
        quickly, and cut it shorter.
        """
        ...

    async def aclose(self) -> None: ...


class Reasoner(Protocol):
    """A model asked for JSON of a given schema; used to learn facts, never on the path of a reply."""

    name: str

    async def structured(
        self, system: str, examples: Sequence[tuple[str, str]], prompt: str, schema: dict[str, Any]
    ) -> str:
        """Return the model's raw answer, which the caller parses and distrusts.

        `examples` are (user, assistant) pairs shown before `prompt`. Raises `ReasonerUnavailableError`
        when no model can answer now; the work is then tried again later.
        """
        ...
