"""The service's own signing keys: an operator's PEM file, or a developer's pair in RAPPORT_HOME/keys."""

import base64
import hashlib
import os
import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.auth.config import OWN_ISSUER, AuthConfig
from service.auth.errors import AuthConfigurationError
from service.auth.keys import VerificationKey

DEVELOPMENT = b"Development key of `rapport up`, for one machine: refused everywhere else.\n"
SESSION, AGE = "session", "age"


@dataclass(frozen=True, slots=True)
class SigningKey:
    kid: str
    private: Ed25519PrivateKey

    @property
    def public(self) -> VerificationKey:
        return VerificationKey(self.kid, "EdDSA", self.private.public_key())

    def sign(self, claims: Mapping[str, Any]) -> str:
        return jwt.encode(dict(claims), self.private, algorithm="EdDSA", headers={"kid": self.kid, "typ": "JWT"})


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs with its first key; what any of the keys signed counts, so that they can be exchanged without a gap."""

    keys: tuple[SigningKey, ...]

    @property
    def public(self) -> dict[str, VerificationKey]:
        return {key.kid: key.public for key in self.keys}

    def mint(
        self,
        subject: str,
        ttl: timedelta,
        roles: Collection[str] = ("user",),
        *,
        anonymous: bool = False,
        now: float | None = None,
    ) -> str:
        issued = int(time.time() if now is None else now)
        claims: dict[str, Any] = {
            "iss": OWN_ISSUER,
            "aud": OWN_ISSUER,
            "sub": subject,
            "iat": issued,
            "exp": issued + int(ttl.total_seconds()),
            "jti": secrets.token_urlsafe(16),
            "roles": sorted(roles),
        }
        if anonymous:
            claims["anonymous"] = True
        return self.keys[0].sign(claims)


def _signing_key(private: Ed25519PrivateKey) -> SigningKey:
    """Its kid is the thumbprint of RFC 7638."""
    raw = private.public_key().public_bytes_raw()
    point = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    digest = hashlib.sha256(orjson.dumps({"crv": "Ed25519", "kty": "OKP", "x": point})).digest()
    return SigningKey(base64.urlsafe_b64encode(digest).rstrip(b"=").decode(), private)


def key_path(home: Path, name: str) -> Path:
    return home / "keys" / f"{name}.pem"


def ensure_key(home: Path, name: str) -> Signer:
    """The developer's key pair of this name, made when it isn't there. Only for `rapport up`."""
    path = key_path(home, name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        unfinished = path.with_suffix(f".{os.getpid()}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(DEVELOPMENT + pem)
        try:
            # unlike a rename this never replaces: of two processes that start together, both use the first one's key
            os.link(unfinished, path)
        except FileExistsError:
            pass
        finally:
            unfinished.unlink()
    return read_signer(path, development=True)


def read_signer(path: Path, *, development: bool = False) -> Signer:
    """Raises `AuthConfigurationError` for a missing, unsuited or, unless allowed, a developer's key."""
    try:
        content = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as error:
        raise AuthConfigurationError(f"the signing key {path} can't be read: {error.strerror}") from error
    if DEVELOPMENT.strip() in content and not development:
        raise AuthConfigurationError(f"{path} is a development key: make one of your own (docs/security.md says how)")
    if mode & 0o022:
        raise AuthConfigurationError(f"{path} can be written by others than its owner: chmod go-w it")
    end = b"-----END PRIVATE KEY-----"
    blocks = [block[block.index(b"-----BEGIN") :] + end for block in content.split(end) if b"-----BEGIN" in block]
    keys = tuple(_signing_key(_private(block, path)) for block in blocks)
    if not keys:
        raise AuthConfigurationError(f"{path} holds no private key in PEM form")
    return Signer(keys)


def _private(block: bytes, path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(block, password=None)
    except (ValueError, TypeError) as error:
        raise AuthConfigurationError(f"{path} holds a key that can't be read") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise AuthConfigurationError(f"{path} must hold Ed25519 keys: openssl genpkey -algorithm ed25519")
    return key


def session_signer(config: AuthConfig) -> Signer | None:
    """The service's own key, if it has one. Raises `AuthConfigurationError` when nobody could sign in at all."""
    if config.session_key_file is not None:
        return read_signer(config.session_key_file, development=config.embedded)
    if config.embedded:
        return ensure_key(config.home, SESSION)
    if not config.jwks:
        raise AuthConfigurationError(
            "nobody could sign in: set AUTH_JWKS to your identity provider's key set, or RAPPORT_SESSION_KEY_FILE to"
            " a key of the service's own (`rapport up` makes one for development)"
        )
    return None


def mint(
    config: AuthConfig, subject: str, ttl: timedelta, roles: Collection[str] = ("user",), *, anonymous: bool = False
) -> str:
    """A token of the service's own key, for `rapport token`. Raises `AuthConfigurationError` when there is none.

    The development key is read, never made: a token of a key that the running service doesn't know would be worthless.
    """
    if config.session_key_file is not None:
        signer = read_signer(config.session_key_file, development=config.embedded)
    else:
        path = key_path(config.home, SESSION)
        if not path.exists():
            raise AuthConfigurationError(f"there is no development key in {path.parent}: start `rapport up` once")
        signer = read_signer(path, development=True)
    return signer.mint(subject, ttl, roles, anonymous=anonymous)
