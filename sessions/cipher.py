"""What is written to Redis may be sealed on the way; this package knows no keys and says only what belongs where."""

from typing import Protocol
from uuid import UUID


class Cipher(Protocol):
    """Seals one owner's values; a value opens only for its owner and where it was written (`about`)."""

    def seal(self, owner: UUID, about: bytes, data: bytes) -> bytes: ...

    def open(self, owner: UUID, about: bytes, data: bytes) -> bytes:
        """Raises `ValueError` for what does not open here. What was never sealed comes back as it is."""
        ...


class Plain:
    """No sealing: what is written can be read by whoever reads Redis."""

    def seal(self, owner: UUID, about: bytes, data: bytes) -> bytes:
        _ = owner, about
        return data

    def open(self, owner: UUID, about: bytes, data: bytes) -> bytes:
        _ = owner, about
        return data
