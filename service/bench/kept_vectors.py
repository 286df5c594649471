"""Vectors of earlier runs, so that measuring again takes seconds: embedding is most of a run's time."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memory.models import named
from memory.ports import Embedder, Vectors


class KeptVectors:
    """An `Embedder` that remembers on disk what it was asked; `aclose` writes the file."""

    def __init__(self, embedder: Embedder, path: Path) -> None:
        self._embedder = embedder
        self._path = path
        self.name = embedder.name
        self.dimensions = embedder.dimensions
        self._kept: dict[bytes, Vectors] = {}
        self._fresh = False
        if path.exists():
            with np.load(path, allow_pickle=False) as file:
                self._kept = dict(zip((bytes(key) for key in file["keys"]), file["vectors"], strict=True))

    async def embed(self, texts: Sequence[str], *, question: bool = False) -> Vectors:
        kind = f"{self.name}?" if question else self.name
        keys = [hashlib.blake2b(f"{kind}\0{text}".encode(), digest_size=16).digest() for text in texts]
        unknown = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._kept}
        if unknown:
            self._fresh = True
            self._kept.update(
                zip(unknown, await self._embedder.embed(list(unknown.values()), question=question), strict=True)
            )
        rows = np.stack([self._kept[key] for key in keys]) if keys else np.zeros((0, self.dimensions), np.float32)
        return named(rows, self.name)

    async def aclose(self) -> None:
        await self._embedder.aclose()
        if self._fresh:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            keys = np.array([np.frombuffer(key, np.uint8) for key in self._kept])
            np.savez(self._path, keys=keys, vectors=np.stack(list(self._kept.values())))
