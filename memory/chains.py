"""Digests by which what was said before is recognised: a resent history, a repeated request.

A message's chain is a hash of its parent's chain and its own digest, made in the statement that writes it. Its digest is
keyed by the user's secret, so that who has the tables can't test whether something was said. Chains that began before,
or without a master key, go on as they were: 32 bytes long where keyed ones have 24, which tells them apart.
"""

import hashlib
from collections.abc import Iterable
from uuid import UUID

PLAIN, KEYED = 32, 24
"""Bytes of a digest that anybody can make, and of one that takes the user's secret."""


def said_digest(role: str, text: str) -> bytes:
    """Digest of one message. Clients trim white space at the ends of what they resend, and normalise line ends, so these
    don't count."""
    plain = text.strip().replace("\r\n", "\n")
    return hashlib.sha256(f"{role}:{plain}".encode("utf-8", "surrogatepass")).digest()


def keyed(index: bytes, user_id: UUID, digest: bytes) -> bytes | None:
    """The digest under the user's secret; None where there is none."""
    return None if index == user_id.bytes else hashlib.blake2b(digest, key=index, digest_size=KEYED).digest()


def follow(chain: bytes, digest: bytes) -> bytes:
    """The chain of a message behind `chain`, as the statements in memory/turns.py make it."""
    return hashlib.sha256(chain + digest).digest()[: PLAIN if len(digest) == PLAIN else KEYED]


def chains(said: Iterable[tuple[str, str]]) -> list[bytes]:
    """The plain chain after each message (role and text) of a history."""
    return _chained(said_digest(role, text) for role, text in said)


def keyed_chains(index: bytes, user_id: UUID, said: Iterable[tuple[str, str]]) -> list[bytes]:
    """The same under the user's secret; the plain one where there is none."""
    digests = [said_digest(role, text) for role, text in said]
    return _chained(keyed(index, user_id, digest) or digest for digest in digests)


def _chained(digests: Iterable[bytes]) -> list[bytes]:
    out: list[bytes] = []
    last = b""
    for digest in digests:
        last = follow(last, digest)
        out.append(last)
    return out
