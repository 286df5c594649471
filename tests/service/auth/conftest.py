"""An identity provider of our own, a database, and a service that trusts both."""

import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from memory.postgres import Database, PoolConfig
from service.auth import routes
from service.auth.authenticator import Authenticator
from service.auth.config import AuthConfig
from service.auth.dependencies import Caller, Operator
from service.errors import RapportError
from service.limits import Limits, LimitsConfig

ISSUER, AUDIENCE = "https://id.example", "rapport"


@dataclass
class IdentityProvider:
    """Signs tokens with keys that it publishes in a file."""

    path: Path
    keys: dict[str, tuple[Any, str]] = field(default_factory=dict)

    def add(self, kid: str, private: Any, algorithm: str) -> None:
        self.keys[kid] = (private, algorithm)
        self.publish()

    def publish(self) -> None:
        self.path.write_text(json.dumps({"keys": [self.public_jwk(kid) for kid in self.keys]}))

    def public_jwk(self, kid: str) -> dict[str, Any]:
        private, algorithm = self.keys[kid]
        maker = jwt.get_algorithm_by_name(algorithm)
        return {**json.loads(maker.to_jwk(private.public_key())), "kid": kid, "use": "sig", "alg": algorithm}

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 600, "jti": "t-1", **changes}
        return {name: value for name, value in claims.items() if value is not ...}

    def sign(self, kid: str = "ed", *, headers: Mapping[str, Any] | None = None, **changes: Any) -> str:
        private, algorithm = self.keys[kid]
        told = {"kid": kid, "typ": "at+jwt", **(headers or {})}
        return jwt.encode(self.claims(**changes), private, algorithm=algorithm, headers=told)


def b64(value: bytes | Mapping[str, Any]) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.fixture(scope="session")
def key_pairs() -> dict[str, tuple[Any, str]]:
    return {
        "ed": (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
        "rsa": (rsa.generate_private_key(public_exponent=65537, key_size=2048), "RS256"),
        "ec": (ec.generate_private_key(ec.SECP256R1()), "ES256"),
    }


@pytest.fixture
def provider(tmp_path: Path, key_pairs: dict[str, tuple[Any, str]]) -> IdentityProvider:
    provider = IdentityProvider(tmp_path / "jwks.json", dict(key_pairs))
    provider.publish()
    return provider


@pytest.fixture
def auth_config(tmp_path: Path, provider: IdentityProvider) -> AuthConfig:
    return AuthConfig(
        home=tmp_path / "home",
        embedded=True,
        jwks=str(provider.path),
        issuer=ISSUER,
        audience=AUDIENCE,
        revocation_seconds=0.05,
        api_key_seconds=0.1,
    )


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(PoolConfig(database_url, size=2, overflow=2))
    yield database
    await database.close()


@pytest.fixture
async def authenticator(auth_config: AuthConfig, database: Database) -> AsyncIterator[Authenticator]:
    authenticator = Authenticator(auth_config, database)
    await authenticator.open()
    yield authenticator
    await authenticator.aclose()


def make_app(authenticator: Authenticator, limits: Limits, database: Database) -> FastAPI:
    """The pieces under test as a service puts them together."""
    app = FastAPI()
    app.state.runtime = SimpleNamespace(authenticator=authenticator, limits=limits, database=database)
    app.include_router(routes.router)

    @app.exception_handler(RapportError)
    async def problem(_request: Request, error: RapportError) -> JSONResponse:
        return JSONResponse(error.problem(), error.status, error.headers, media_type="application/problem+json")

    @app.get("/me")
    async def me(caller: Caller) -> dict[str, Any]:
        return {"subject": caller.subject, "user_id": str(caller.user_id), "issuer": caller.issuer}

    @app.post("/me")
    async def change(caller: Caller) -> dict[str, Any]:
        return {"subject": caller.subject}

    @app.get("/operators")
    async def operators(caller: Operator) -> dict[str, Any]:
        return {"subject": caller.subject}

    return app


@pytest.fixture
async def client(authenticator: Authenticator, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    app = make_app(authenticator, Limits(LimitsConfig()), database)
    transport = httpx.ASGITransport(app, client=("192.0.2.7", 1234))
    async with httpx.AsyncClient(transport=transport, base_url="https://testserver") as client:
        yield client


def bearer(token: str, **headers: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **headers}
