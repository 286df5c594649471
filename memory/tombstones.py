"""What was forgotten must not come back: digests by which a message, or words of it, are recognised but not read.

A message is known by its owner, role, time and words, so that an import of the same file is recognised although its
rows have new ids, while the same words said anew are new. Where a source doesn't know when something was said (a history
that a client sends along, a file without times) it is known by its role and words alone.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar
from uuid import UUID

from memory import facts, words
from memory.postgres import Connection
from memory.vault import index_key, under


class Spoken(Protocol):
    """A message, as learning and imports have it."""

    @property
    def role(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def said_at(self) -> datetime: ...


class Quoting(Protocol):
    """A fact that rests on words of a message."""

    @property
    def quote(self) -> str: ...
    @property
    def source(self) -> Spoken: ...


S = TypeVar("S", bound=Spoken)
Q = TypeVar("Q", bound=Quoting)


def message_digest(user_id: UUID, role: str, said_at: datetime, text: str) -> bytes:
    return _digest(user_id, b"message", role, str(round(said_at.timestamp() * 1000)), text)


LEAST_WORDS, LEAST_CHARACTERS, LEAST_UNSPACED = 2, 8, 3


def is_telling(text: str) -> bool:
    """Whether the words alone, whenever said, are enough to know a message by: "yes" and "ok" are everybody's."""
    return (
        len(words.tokens(text)) >= LEAST_WORDS
        or len(text.strip()) >= LEAST_CHARACTERS
        or sum(map(words.is_unspaced, text)) >= LEAST_UNSPACED
    )


def words_digest(user_id: UUID, role: str, text: str) -> bytes:
    """Of a message whenever it was said, however it is spaced."""
    return _digest(user_id, b"words", role, " ".join(text.lower().split()))


def quote_digest(user_id: UUID, role: str, said_at: datetime, quote: str) -> bytes:
    """The quote's words, however they are spaced, as said in messages of that moment."""
    return _digest(user_id, b"quote", role, str(round(said_at.timestamp() * 1000)), " ".join(quote.lower().split()))


def told_digests(user_id: UUID, origin: str, kind: str, text: str) -> tuple[bytes, ...]:
    """Of a statement of another program: of its id there, and of what it says, since exports hold copies."""
    said = " ".join(text.lower().split())
    return _digest(user_id, b"origin", origin), _digest(user_id, b"told", kind, said), fact_digest(user_id, kind, text)


def fact_digest(user_id: UUID, kind: str, text: str) -> bytes:
    """Of what a fact says, whoever said it: another program may know it too, and bring it in again."""
    return _digest(user_id, b"fact", facts.gist(kind, text))


def _digest(user_id: UUID, what: bytes, *parts: str) -> bytes:
    hashed = hashlib.blake2b(key=user_id.bytes, person=what, digest_size=16)
    for part in parts:
        encoded = part.encode()
        hashed.update(len(encoded).to_bytes(4) + encoded)
    return hashed.digest()


async def bury(connection: Connection, user_id: UUID, digests: Iterable[bytes]) -> int:
    """Lay tombstones; gives how many are new."""
    key = await index_key(connection, user_id)
    done = await connection.fetch(
        """INSERT INTO tombstones (user_id, digest) SELECT $1, unnest($2::bytea[])
        ON CONFLICT (user_id, digest) DO NOTHING RETURNING 1""",
        user_id,
        list({under(key, user_id, digest) for digest in digests}),
    )
    return len(done)


async def _buried(connection: Connection, user_id: UUID, digests: Sequence[bytes]) -> set[bytes]:
    key = await index_key(connection, user_id)
    # a process that still held the key as it was may have laid them by the user's id (memory.resealing)
    kept = {stored: digest for digest in digests for stored in (digest, under(key, user_id, digest))}
    rows = await connection.fetch(
        "SELECT digest FROM tombstones WHERE user_id = $1 AND digest = ANY ($2::bytea[])", user_id, list(kept)
    )
    return {kept[row["digest"]] for row in rows}


async def remembered(connection: Connection, user_id: UUID, messages: Sequence[S]) -> list[S]:
    """The messages that were not forgotten. Ask first in the transaction that writes: until its end nobody forgets."""
    await connection.execute("SELECT FROM users WHERE user_id = $1 FOR SHARE", user_id)
    digests = [message_digest(user_id, m.role, m.said_at, m.text) for m in messages]
    gone = await _buried(connection, user_id, digests)
    return [message for message, digest in zip(messages, digests, strict=True) if digest not in gone]


async def forgotten_words(connection: Connection, user_id: UUID, said: Sequence[tuple[str, str]]) -> set[int]:
    """Which of these (role, text), by their place, were forgotten, whenever they were said.

    Only for what has no time of its own: with one the same words are new. Ask first in the transaction that writes.
    """
    if not said:
        return set()
    await connection.execute("SELECT FROM users WHERE user_id = $1 FOR SHARE", user_id)
    digests = [words_digest(user_id, role, text) for role, text in said]
    gone = await _buried(connection, user_id, digests)
    return {number for number, digest in enumerate(digests) if digest in gone}


async def teachable(connection: Connection, user_id: UUID, learnt: Sequence[Q]) -> list[Q]:
    """The facts whose message, and whose words of it, were not forgotten or corrected.

    Ask in the transaction that writes them, behind a lock on the user's row.
    """
    if not learnt:
        return []
    digests = [
        (
            message_digest(user_id, fact.source.role, fact.source.said_at, fact.source.text),
            quote_digest(user_id, fact.source.role, fact.source.said_at, fact.quote),
        )
        for fact in learnt
    ]
    gone = await _buried(connection, user_id, [digest for pair in digests for digest in pair])
    return [fact for fact, pair in zip(learnt, digests, strict=True) if gone.isdisjoint(pair)]


async def untold(connection: Connection, user_id: UUID, told: Sequence[tuple[str, str, str]]) -> set[int]:
    """Which of other programs' statements (origin, kind, text), by their place, were forgotten or corrected here.

    Ask behind a lock on the user's row.
    """
    digests = [told_digests(user_id, *one) for one in told]
    gone = await _buried(connection, user_id, [digest for pair in digests for digest in pair])
    return {number for number, pair in enumerate(digests) if not gone.isdisjoint(pair)}


async def bury_told(connection: Connection, user_id: UUID, fact_ids: Sequence[UUID]) -> None:
    """What its owner has forgotten or corrected does not come in again with another program's file, which may tell what
    was said here. In a conversation it may be said anew: that is its owner's to decide.
    """
    rows = await connection.fetch(
        "SELECT origin, kind, text FROM facts WHERE user_id = $1 AND id = ANY ($2::uuid[])", user_id, list(fact_ids)
    )
    digests = [fact_digest(user_id, row["kind"], row["text"]) for row in rows]
    for row in rows:
        if row["origin"]:
            digests += told_digests(user_id, row["origin"], row["kind"], row["text"])
    await bury(connection, user_id, digests)
