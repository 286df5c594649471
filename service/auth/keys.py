"""Public keys of those whose signatures count, from a JWKS file or URL (RFC 7517), each good for one algorithm."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from service.auth.errors import AuthConfigurationError
from service.auth.metrics import KEY_REFRESHES

log = logging.getLogger(__name__)

MAX_DOCUMENT = 262_144
MIN_RSA_BITS = 2048
RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
CURVE_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


@dataclass(frozen=True, slots=True)
class VerificationKey:
    kid: str
    algorithm: str
    key: Any


def parse_jwks(document: bytes) -> dict[str, VerificationKey]:
    """The usable signing keys by `kid`. A key of an unknown kind is passed over, a dangerous one refuses the whole set.

    Raises `AuthConfigurationError`.
    """
    try:
        entries = orjson.loads(document)["keys"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise AuthConfigurationError("the key set is not a JWKS document") from error
    if not isinstance(entries, list):
        raise AuthConfigurationError("the key set is not a JWKS document")
    keys: dict[str, VerificationKey] = {}
    for entry in entries:
        key = _parse(entry) if isinstance(entry, dict) else None
        if key is None:
            continue
        if key.kid in keys:
            raise AuthConfigurationError(f"the key set has two keys with the kid {key.kid!r}")
        keys[key.kid] = key
    return keys


def _parse(entry: dict[str, Any]) -> VerificationKey | None:
    kid = entry.get("kid")
    if entry.get("kty") == "oct":
        raise AuthConfigurationError("the key set holds a shared secret; only asymmetric keys are accepted")
    if "d" in entry:
        raise AuthConfigurationError("the key set holds a private key; publish the public part only")
    if entry.get("use", "sig") != "sig" or not isinstance(kid, str) or not 0 < len(kid) <= 256:
        return None
    try:
        # without its `alg`: what the key is decides, and the library would make a key for `none` or HS256 as well
        key = jwt.PyJWK.from_dict({name: value for name, value in entry.items() if name != "alg"}).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    wanted = entry.get("alg")
    if wanted is not None and not isinstance(wanted, str):
        return None
    algorithm = algorithm_of(key, wanted)
    return None if algorithm is None else VerificationKey(kid, algorithm, key)


def algorithm_of(key: object, wanted: str | None = None) -> str | None:
    """The one algorithm under which this key counts; None when there is none, or not the one wanted."""
    if isinstance(key, RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise AuthConfigurationError(f"the key set holds an RSA key of {key.key_size} bits; use {MIN_RSA_BITS}")
        chosen = wanted or "RS256"
        return chosen if chosen in RSA_ALGORITHMS else None
    if isinstance(key, EllipticCurvePublicKey):
        own = CURVE_ALGORITHMS.get(key.curve.name)
    elif isinstance(key, Ed25519PublicKey):
        # RFC 9864 renames EdDSA with this curve to Ed25519; tokens still say EdDSA
        own = "EdDSA"
        wanted = "EdDSA" if wanted == "Ed25519" else wanted
    else:
        own = None
    return own if wanted in {None, own} else None


class KeyRing:
    """One issuer's keys: kept in memory, read again in the background and, at most every 30 s, for an unknown `kid`."""

    def __init__(
        self,
        location: str = "",
        keys: Mapping[str, VerificationKey] | None = None,
        *,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        refresh_seconds: float = 300.0,
        unknown_seconds: float = 30.0,
    ) -> None:
        self._location = location
        self._keys = dict(keys or {})
        self._on_change = on_change
        self._clock = clock
        self._refresh_seconds = refresh_seconds
        self._unknown_seconds = unknown_seconds
        self._asked_at = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        if urlsplit(location).scheme == "http" and urlsplit(location).hostname not in {"127.0.0.1", "::1", "localhost"}:
            raise AuthConfigurationError(
                f"{location} must be https: whoever could change the keys could sign as anybody"
            )

    @property
    def is_remote(self) -> bool:
        return urlsplit(self._location).scheme in {"http", "https"}

    @property
    def ready(self) -> bool:
        return bool(self._keys)

    async def open(self) -> None:
        """Read the keys. A file must be good; a URL that doesn't answer is tried again in the background."""
        if not self._location:
            return
        if self.is_remote:
            await self.refresh()
        else:
            self._replace(parse_jwks(await self._read()))
            if not self._keys:
                raise AuthConfigurationError(f"{self._location} holds no usable signing key")
        self._keeper = asyncio.create_task(self._keep_fresh())

    async def aclose(self) -> None:
        for task in (self._keeper, self._refreshing):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def find(self, kid: str) -> VerificationKey | None:
        key = self._keys.get(kid)
        if key is not None or not self._location:
            return key
        if self._refreshing is None and self._clock() - self._asked_at < self._unknown_seconds:
            return None
        # one reading serves all who wait, and a caller that goes away doesn't take it along
        await asyncio.shield(self._refresh_once())
        return self._keys.get(kid)

    async def refresh(self) -> None:
        """Read the keys now; on failure the old ones stay, since a short absence must not sign everybody out."""
        await asyncio.shield(self._refresh_once())

    def _refresh_once(self) -> asyncio.Task[None]:
        if self._refreshing is None:
            self._asked_at = self._clock()
            self._refreshing = asyncio.create_task(self._refresh())
            self._refreshing.add_done_callback(self._forget_refresh)
        return self._refreshing

    def _forget_refresh(self, _task: asyncio.Task[None]) -> None:
        self._refreshing = None

    async def _refresh(self) -> None:
        try:
            self._replace(parse_jwks(await self._read()))
        except (AuthConfigurationError, aiohttp.ClientError, OSError, TimeoutError) as error:
            KEY_REFRESHES.labels("failed").inc()
            log.warning("key set %s could not be read: %s", self._location, type(error).__name__)
        else:
            KEY_REFRESHES.labels("read").inc()

    def _replace(self, keys: dict[str, VerificationKey]) -> None:
        if not keys and self._keys:
            raise AuthConfigurationError("the key set is empty")
        # what a withdrawn or changed key has signed counts no longer, cached or not
        changed = any(kid not in keys or _material(keys[kid]) != _material(old) for kid, old in self._keys.items())
        self._keys = keys
        if changed:
            self._on_change()

    async def _read(self) -> bytes:
        if not self.is_remote:
            try:
                return await asyncio.to_thread(Path(self._location).read_bytes)
            except OSError as error:
                raise AuthConfigurationError(f"the key set {self._location} can't be read: {error.strerror}") from error
        timeout = aiohttp.ClientTimeout(total=5)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            # a redirect could lead to another's keys
            session.get(self._location, allow_redirects=False, headers={"Accept": "application/json"}) as answer,
        ):
            if answer.status != 200:
                raise AuthConfigurationError(f"the key set answers {answer.status}")
            document = b""
            async for piece in answer.content.iter_chunked(16_384):
                document += piece
                if len(document) > MAX_DOCUMENT:
                    raise AuthConfigurationError("the key set is too large")
            return document

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_seconds if self._keys else min(5.0, self._refresh_seconds))
            await self.refresh()


def _material(key: VerificationKey) -> tuple[str, Any]:
    public = key.key
    if isinstance(public, Ed25519PublicKey):
        return key.algorithm, public.public_bytes_raw()
    return key.algorithm, public.public_numbers()
