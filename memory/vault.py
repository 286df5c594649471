"""Text at rest: each user's words are sealed with a key of the user's own, which only the master key opens.

AES-256-GCM (NIST SP 800-38D) with a random nonce. Bound into every token are its owner, its table and its row, so that
a token moved to another user does not open. Destroying a user's key destroys the words in every backup too.

Reading needs no care: `Database.as_user` gives the connection its user's key, and text opens as it arrives (a column,
not an array, nor inside of JSON). Writing asks `sealed` for it, with the connection at hand. What a stolen database still shows: docs/decisions/sealed-text.md.
"""

import base64
import binascii
import hashlib
import hmac
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from uuid import UUID

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from memory.errors import KeyUnavailableError
from memory.metrics import UNOPENED

PREFIX: Final = "\x01s1."
PREFIX_OF_BYTES: Final = b"\x01s1."
PREFIX_OF_LIVE: Final = b"\x01l1."
"""Marks a sealed text. Text without it was written before sealing was turned on, and stays readable."""
NONCE = 12
PLACES: Final = ("messages", "episodes", "facts", "fact_sources", "conversations", "turns", "profiles")
"""Tables that hold sealed text; their position is written into the token, so only append."""
HEADER = 17
TAG = 16
HEADER_OF_BYTES: Final = len(PREFIX_OF_BYTES)
NONCE_OF_BYTES: Final = HEADER_OF_BYTES + HEADER
WORDS_OF_BYTES: Final = NONCE_OF_BYTES + NONCE
KEY_SECONDS = 60.0
"""How long an opened key is kept in memory: what an erased user's key outlives its row at most."""


@dataclass(frozen=True, slots=True)
class MasterKey:
    """Opens the users' keys; it never touches text."""

    secret: bytes
    name: str = ""
    """Tells the keys of a rotation apart; by default the beginning of the secret's digest."""

    @classmethod
    def parse(cls, text: str) -> "MasterKey":
        """Read 32 bytes in base64 or hex. Raises `ValueError`."""
        text = text.strip()
        try:
            secret = bytes.fromhex(text) if len(text) == 64 else base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error) as error:
            raise ValueError("a master key is 32 random bytes in base64 or hex: openssl rand -base64 32") from error
        if len(secret) != 32:
            raise ValueError(f"a master key has 32 bytes, not {len(secret)}: openssl rand -base64 32")
        return cls(secret, hashlib.sha256(b"rapport master key" + secret).hexdigest()[:16])


class Opened(str):
    """Words that came out of a token, and which row the token says it was written to."""

    __slots__ = ("header",)

    header: bytes


def misplaced(place: str, row: UUID | bytes, text: str) -> bool:
    """Whether these words were sealed for another row than the one they stand in: somebody has moved them. Counted."""
    if type(text) is not Opened:
        return False
    if text.header == bytes([PLACES.index(place)]) + (row if isinstance(row, bytes) else row.bytes):
        return False
    UNOPENED.inc()
    return True


class UserKey:
    """Seals and opens one user's text."""

    __slots__ = ("_aead", "_owner", "index", "user_id")

    def __init__(self, user_id: UUID, secret: bytes, *, keyed: bool = True) -> None:
        self.user_id = user_id
        self._owner = user_id.bytes  # made anew at each asking, which is for every text that opens
        self._aead = AESGCM(_derived(secret, b"text"))
        self.index = _derived(secret, b"index") if keyed else user_id.bytes
        """Keys the search terms and digests of this user. Not `keyed`: by the id alone, as releases before 0.2 did."""

    def seal(self, place: str, row: UUID, text: str) -> str:
        return PREFIX + base64.b64encode(self._seal(place, row, text.encode())).decode("ascii")

    def _seal(self, place: str, row: UUID, data: bytes) -> bytes:
        header = bytes([PLACES.index(place)]) + row.bytes
        nonce = os.urandom(NONCE)
        return header + nonce + self._aead.encrypt(nonce, data, self._owner + header)

    def _open(self, raw: bytes) -> bytes:
        words = HEADER + NONCE
        return self._aead.decrypt(raw[HEADER:words], raw[words:], self._owner + raw[:HEADER])

    def seal_bytes(self, place: str, row: UUID, data: bytes) -> bytes:
        return PREFIX_OF_BYTES + self._seal(place, row, data)

    def open_bytes(self, data: bytes) -> bytes:
        """As `open`."""
        if not data.startswith(PREFIX_OF_BYTES):
            return data
        try:  # as `_open`, in place: it is done for every memory that is looked at
            return self._aead.decrypt(data[NONCE_OF_BYTES:WORDS_OF_BYTES], data[WORDS_OF_BYTES:],
                                      self._owner + data[HEADER_OF_BYTES:NONCE_OF_BYTES])  # fmt: skip
        except (InvalidTag, ValueError):
            UNOPENED.inc()
            return data

    def open(self, text: str) -> str:
        """The words of a token; text that is no token of this user's comes back as it is, and is counted."""
        if not text.startswith(PREFIX):
            return text
        try:
            raw = base64.b64decode(text[len(PREFIX) :])
            words = Opened(self._open(raw), "utf-8")
        except (InvalidTag, ValueError, binascii.Error):
            UNOPENED.inc()
            return text
        words.header = raw[:HEADER]
        return words


def _derived(secret: bytes, purpose: bytes) -> bytes:
    """HKDF-Expand (RFC 5869) of a uniformly random secret, one block."""
    return hmac.digest(secret, b"rapport " + purpose + b"\x01", "sha256")


class Asking(Protocol):
    """What the vault needs of a connection."""

    async def fetchrow(self, query: str, *args: object) -> Any: ...
    async def execute(self, query: str, *args: object) -> Any: ...


# A user's first writer makes the key; whoever comes at the same time takes that one.
# What was indexed before there was a key stays keyed by the user's id until `memory.resealing` has been there.
MAKE = """
INSERT INTO user_keys (user_id, wrapped, master, keyed)
SELECT $1, $2, $3, NOT EXISTS (SELECT FROM episodes WHERE user_id = $1) AND NOT EXISTS (SELECT FROM facts WHERE user_id = $1)
    AND NOT EXISTS (SELECT FROM tombstones WHERE user_id = $1)
ON CONFLICT (user_id) DO NOTHING
"""
READ = "SELECT wrapped, master, keyed FROM user_keys WHERE user_id = $1"


class Vault:
    """Users' keys, opened when they are needed and kept for a few minutes."""

    def __init__(self, *masters: MasterKey, keep_seconds: float = KEY_SECONDS, capacity: int = 20_000) -> None:
        """The first master key wraps new keys; the others open those that were wrapped before a rotation."""
        self._masters = {master.name: master for master in masters}
        self._current = masters[0]
        self.live = LiveKeys(masters)
        self._keep_seconds = keep_seconds
        self._capacity = capacity
        self._kept: OrderedDict[UUID, tuple[float, UserKey]] = OrderedDict()

    @property
    def names(self) -> frozenset[str]:
        """Of the master keys that are here."""
        return frozenset(self._masters)

    def kept(self, user_id: UUID) -> UserKey | None:
        """The key, when it is at hand."""
        until, key = self._kept.get(user_id, (0.0, None))
        return key if until > time.monotonic() else None

    async def key(self, connection: Asking, user_id: UUID) -> UserKey:
        """The user's key; made on first use. Raises `KeyUnavailableError` when its master key isn't here."""
        kept = self.kept(user_id)
        if kept is not None:
            return kept
        row = await connection.fetchrow(READ, user_id)
        if row is not None:
            key = self._opened(user_id, row)
            self._keep(key)
            return key
        # not kept before its row is known to be committed
        await connection.execute(MAKE, user_id, self._wrap(user_id, os.urandom(32)), self._current.name)
        return await self.fresh(connection, user_id)

    async def fresh(self, connection: Asking, user_id: UUID) -> UserKey:
        """The key as this transaction sees it; not kept, since it may be rolled back."""
        return self._opened(user_id, await connection.fetchrow(READ, user_id))

    def _opened(self, user_id: UUID, row: Any) -> UserKey:
        return UserKey(user_id, self._unwrap(user_id, row["wrapped"], row["master"]), keyed=row["keyed"])

    def _keep(self, key: UserKey) -> None:
        self._kept[key.user_id] = (time.monotonic() + self._keep_seconds, key)
        self._kept.move_to_end(key.user_id)
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)

    def forget(self, user_id: UUID) -> None:
        self._kept.pop(user_id, None)

    def _wrap(self, user_id: UUID, secret: bytes) -> bytes:
        nonce = os.urandom(NONCE)
        return nonce + AESGCM(self._current.secret).encrypt(nonce, secret, b"user key" + user_id.bytes)

    def _unwrap(self, user_id: UUID, wrapped: bytes, master: str) -> bytes:
        found = self._masters.get(master)
        if found is None:
            raise KeyUnavailableError(
                f"The texts of this user are sealed under the master key {master}, which isn't set."
            )
        try:
            return AESGCM(found.secret).decrypt(wrapped[:NONCE], wrapped[NONCE:], b"user key" + user_id.bytes)
        except InvalidTag as error:
            raise KeyUnavailableError("A user's key does not open: its row was changed.") from error


class LiveKeys:
    """Seals what is kept for a while outside of PostgreSQL: keys follow from the master key and the owner alone.

    Nothing has to be asked for them, so that a reply's log stays as fast as it is. Erasure does not rest on them: what
    they seal is deleted, and expires by itself.
    """

    def __init__(self, masters: Sequence[MasterKey], capacity: int = 20_000) -> None:
        self._masters = {hashlib.sha256(b"live" + master.secret).digest()[:4]: master for master in masters}
        self._current = next(iter(self._masters))
        self._kept: OrderedDict[tuple[bytes, UUID], AESGCM] = OrderedDict()
        self._capacity = capacity

    def _key(self, master: bytes, owner: UUID) -> AESGCM:
        kept = self._kept.get((master, owner))
        if kept is None:
            kept = AESGCM(_derived(self._masters[master].secret, b"live " + owner.bytes))
            self._kept[master, owner] = kept
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        return kept

    def seal(self, owner: UUID, about: bytes, data: bytes) -> bytes:
        """`about` says what it is and where it stands: elsewhere it does not open."""
        nonce = os.urandom(NONCE)
        sealed_data = self._key(self._current, owner).encrypt(nonce, data, owner.bytes + about)
        return b"".join((PREFIX_OF_LIVE, self._current, nonce, sealed_data))

    def open(self, owner: UUID, about: bytes, data: bytes) -> bytes:
        """Raises `ValueError` for what was sealed for somebody or somewhere else, or by another key."""
        start = len(PREFIX_OF_LIVE)
        if not data.startswith(PREFIX_OF_LIVE):
            return data  # written before it was sealed
        master, nonce = data[start : start + 4], data[start + 4 : start + 4 + NONCE]
        try:
            return self._key(master, owner).decrypt(nonce, data[start + 4 + NONCE :], owner.bytes + about)
        except (InvalidTag, KeyError) as error:
            UNOPENED.inc()
            raise ValueError("a sealed value does not open here") from error


class KeyRing:
    """The vault as one connection has it: which user's text opens now."""

    __slots__ = ("current", "vault")

    def __init__(self, vault: Vault | None) -> None:
        self.vault = vault
        self.current: UserKey | None = None

    def decode(self, text: str) -> str:
        return text if self.current is None else self.current.open(text)

    def decode_bytes(self, raw: bytes) -> bytes:
        return raw if self.current is None else self.current.open_bytes(raw)


def ring_of(connection: object) -> KeyRing:
    """What opens the texts that come over this connection inside of an array, and are left closed until they are shown."""
    ring: KeyRing | None = getattr(connection, "keyring", None)
    return KeyRing(None) if ring is None else ring


def plain_sizes(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """How many bytes of words each text has, without opening it."""
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    closed = np.array([text.startswith(PREFIX[0]) for text in texts], bool)
    return np.where(closed, np.maximum((sizes - len(PREFIX)) * 3 // 4 - HEADER - NONCE - TAG, 0), sizes)


def encode(text: str) -> str:
    """As the driver does it, and as strict."""
    if not isinstance(text, str):
        raise TypeError(f"expected str, got {type(text).__name__}")
    return text


def encode_bytes(data: bytes) -> bytes:
    """As `encode`; `bytes(7)` would be seven zeros."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"expected bytes, got {type(data).__name__}")
    return bytes(data)


async def sealed(connection: Asking, user_id: UUID, place: str, row: UUID, text: str) -> str:
    """The text as it is to be written to `row` of the table `place`. Empty text stays empty: statements ask for it."""
    key = await _key(connection, user_id)
    return key.seal(place, row, text) if key is not None and text else text


async def sealed_bytes(connection: Asking, user_id: UUID, place: str, row: UUID, data: bytes) -> bytes:
    key = await _key(connection, user_id)
    return key.seal_bytes(place, row, data) if key is not None and data else data


async def sealed_in(
    connection: Asking, user_id: UUID, place: str, row: UUID, values: dict[str, Any], names: Sequence[str]
) -> dict[str, Any]:
    """The values with the texts of these names sealed: for JSON, of which the rest has to be readable in SQL."""
    texts = {name: values[name] for name in names if isinstance(values.get(name), str)}
    return {**values, **{name: await sealed(connection, user_id, place, row, text) for name, text in texts.items()}}


async def opened_in(connection: Asking, user_id: UUID, values: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    texts = {name: values[name] for name in names if isinstance(values.get(name), str)}
    return {**values, **{name: await opened(connection, user_id, text) for name, text in texts.items()}}


def under(index: bytes, user_id: UUID, digest: bytes) -> bytes:
    """A digest that is keyed by the user's id, keyed by the index key as well: so old ones are brought under it."""
    return digest if index == user_id.bytes else hashlib.blake2b(digest, key=index, digest_size=len(digest)).digest()


async def index_key(connection: Asking, user_id: UUID) -> bytes:
    """What keys this user's search terms and digests: a secret, or without a vault the user's id."""
    key = await _key(connection, user_id)
    return user_id.bytes if key is None else key.index


async def opened(connection: Asking, user_id: UUID, text: str) -> str:
    """A text that came over a connection that is nobody's (`Database.system`)."""
    key = await _key(connection, user_id)
    return text if key is None else key.open(text)


async def _key(connection: Asking, user_id: UUID) -> UserKey | None:
    ring: KeyRing | None = getattr(connection, "keyring", None)
    if ring is None or ring.vault is None:
        return None
    if ring.current is not None and ring.current.user_id == user_id:
        return ring.current
    return await ring.vault.key(connection, user_id)
