"""Key sets: what is refused, how keys are exchanged without a gap, and the service's own keys."""

import asyncio
import json
import stat
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from memory.postgres import Database, PoolConfig
from service.auth import local_keys
from service.auth.authenticator import Authenticator
from service.auth.config import AuthConfig
from service.auth.errors import (
    AuthConfigurationError,
    KeysUnavailableError,
    TokenInvalidError,
    TokenRevokedError,
)
from service.auth.keys import KeyRing, parse_jwks
from service.auth.revocations import ALL
from tests.service.auth.conftest import AUDIENCE, ISSUER, IdentityProvider


def jwk(private: Any, algorithm: str, **changes: Any) -> dict[str, Any]:
    public = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key()))
    return {name: value for name, value in {**public, "kid": "k", **changes}.items() if value is not ...}


ED = ed25519.Ed25519PrivateKey.generate()
EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
WEAK_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)
GOOD = jwk(ED, "EdDSA", kid="good")


@pytest.mark.parametrize(
    ("entry", "algorithm"),
    [
        (jwk(ED, "EdDSA"), "EdDSA"),
        (jwk(ED, "EdDSA", alg="Ed25519"), "EdDSA"),
        (jwk(EC, "ES256"), "ES256"),
        (jwk(RSA, "RS256"), "RS256"),
        (jwk(RSA, "RS256", alg="PS512"), "PS512"),
        (jwk(RSA, "RS256", alg="HS256"), None),
        (jwk(RSA, "RS256", alg="none"), None),
        (jwk(RSA, "RS256", alg=["RS256"]), None),
        (jwk(EC, "ES256", alg="ES512"), None),
        (jwk(EC, "ES256", x="AA"), None),
        (jwk(ED, "EdDSA", use="enc"), None),
        (jwk(ED, "EdDSA", kid=...), None),
        (jwk(ED, "EdDSA", kid=7), None),
        (jwk(ED, "EdDSA", kty="unheard-of"), None),
        (jwk(ED, "EdDSA", crv="X25519"), None),
        ({"kid": "k"}, None),
    ],
)
def test_each_key_is_good_for_one_algorithm_or_none(entry: dict[str, Any], algorithm: str | None) -> None:
    keys = parse_jwks(json.dumps({"keys": [GOOD, entry, "no object", None]}).encode())
    assert "good" in keys
    assert (keys["k"].algorithm if "k" in keys else None) == algorithm


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (b"", "not a JWKS"),
        (b"[]", "not a JWKS"),
        (b'{"keys": {}}', "not a JWKS"),
        (json.dumps({"keys": [GOOD, {"kty": "oct", "kid": "s", "k": "c2VjcmV0"}]}).encode(), "shared secret"),
        (json.dumps({"keys": [GOOD, jwk(WEAK_RSA, "RS256")]}).encode(), "1024 bits"),
        (json.dumps({"keys": [GOOD, jwk(ED, "EdDSA", d="AAAA")]}).encode(), "private key"),
        (json.dumps({"keys": [GOOD, GOOD]}).encode(), "two keys"),
    ],
)
def test_a_dangerous_key_set_is_refused_whole(document: bytes, complaint: str) -> None:
    with pytest.raises(AuthConfigurationError, match=complaint):
        parse_jwks(document)


@pytest.mark.parametrize(
    "location", ["http://id.example/keys", "http://192.0.2.1/keys", "http://localhost.evil.example/"]
)
def test_keys_come_over_https_or_from_this_machine(location: str) -> None:
    with pytest.raises(AuthConfigurationError, match="https"):
        KeyRing(location)


class KeyServer:
    """An identity provider's key endpoint."""

    def __init__(self) -> None:
        self.document: Any = {"keys": [GOOD]}
        self.status, self.asked, self.delay = 200, 0, 0.0
        self.url = ""

    async def answer(self, _request: web.Request) -> web.Response:
        self.asked += 1
        await asyncio.sleep(self.delay)
        if self.status == 302:
            return web.Response(status=302, headers={"Location": self.url + "?elsewhere"})
        body = self.document if isinstance(self.document, bytes) else json.dumps(self.document).encode()
        return web.Response(status=self.status, body=body, content_type="application/json")


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    keys = KeyServer()
    app = web.Application()
    app.router.add_get("/keys", keys.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    keys.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
    yield keys
    await runner.cleanup()


async def test_an_unknown_kid_is_asked_for_once_however_many_wait_and_not_again_for_a_while(server: KeyServer) -> None:
    now = 0.0
    ring = KeyRing(server.url, clock=lambda: now)
    await ring.open()
    assert (await ring.find("good")) is not None
    assert server.asked == 1
    now = 31.0
    server.delay = 0.1
    server.document = {"keys": [GOOD, jwk(EC, "ES256", kid="new")]}
    found = await asyncio.gather(*(ring.find("new") for _ in range(50)))
    assert all(key is not None for key in found)
    assert server.asked == 2
    for number in range(100):  # who sends made-up kids makes us ask nobody
        assert await ring.find(f"made-up-{number}") is None
    assert server.asked == 2
    now = 62.0
    assert await ring.find("made-up") is None
    assert server.asked == 3
    await ring.aclose()


@pytest.mark.parametrize("trouble", ["down", "redirect", "garbage", "empty", "secret", "huge"])
async def test_a_key_set_that_cannot_be_read_leaves_the_old_keys(server: KeyServer, trouble: str) -> None:
    ring = KeyRing(server.url)
    await ring.open()
    bad: dict[str, Any] = {
        "garbage": b"<html>",
        "empty": {"keys": []},
        "secret": {"keys": [{"kty": "oct", "k": "AA"}]},
        "huge": b" " * 300_000,
    }
    server.status = {"down": 503, "redirect": 302}.get(trouble, 200)
    server.document = bad.get(trouble, server.document)
    await ring.refresh()
    assert (await ring.find("good")) is not None
    await ring.aclose()


async def test_a_provider_that_is_away_at_start_is_waited_for(
    server: KeyServer, database: Database, tmp_path: Path
) -> None:
    provider = IdentityProvider(tmp_path / "unused.json", {"good": (ED, "EdDSA")})
    server.status = 503
    config = AuthConfig(home=tmp_path, jwks=server.url, issuer=ISSUER, audience=AUDIENCE)
    authenticator = Authenticator(config, database)
    await authenticator.open()
    with pytest.raises(KeysUnavailableError):
        await authenticator.authenticate(provider.sign("good"))
    server.status = 200
    ring = authenticator._issuers[ISSUER].ring
    await ring.refresh()
    assert (await authenticator.authenticate(provider.sign("good"))).subject == "alice"
    await authenticator.aclose()


async def test_keys_rotate_under_traffic_without_one_false_refusal(
    provider: IdentityProvider, authenticator: Authenticator
) -> None:
    """Overlap as RFC 7517 means it: publish the new key, sign with it, then withdraw the old one."""
    ring = authenticator._issuers[ISSUER].ring
    ring._unknown_seconds = 0.0
    kid, accepted, running = "ed", 0, True

    async def traffic(number: int) -> None:
        nonlocal accepted
        while running:
            token = provider.sign(kid, jti=f"{number}-{accepted}")
            await authenticator.authenticate(token)
            accepted += 1
            await asyncio.sleep(0)

    users = [asyncio.create_task(traffic(number)) for number in range(8)]
    for generation in range(12):
        await asyncio.sleep(0.03)
        fresh = f"generation-{generation}"
        provider.add(fresh, ed25519.Ed25519PrivateKey.generate(), "EdDSA")
        old, kid = kid, fresh
        await asyncio.sleep(0.03)  # what the old key signed is on its way still
        withdrawn = provider.sign(old)
        await authenticator.authenticate(withdrawn)
        del provider.keys[old]
        provider.publish()
        await ring.refresh()
        with pytest.raises(TokenInvalidError):  # cached a moment ago, and worth nothing now
            await authenticator.authenticate(withdrawn)
    running = False
    await asyncio.gather(*users)
    assert accepted > 200


async def test_a_verified_token_costs_microseconds(provider: IdentityProvider, authenticator: Authenticator) -> None:
    token = provider.sign()
    await authenticator.authenticate(token)
    started = time.process_time()
    for _ in range(2000):
        await authenticator.authenticate(token)
    assert (time.process_time() - started) / 2000 < 100e-6


async def test_the_cache_of_tokens_has_an_end(
    auth_config: AuthConfig, database: Database, provider: IdentityProvider
) -> None:
    small = Authenticator(replace(auth_config, cached_tokens=20), database)
    await small.open()
    for number in range(100):
        await small.authenticate(provider.sign(jti=str(number)))
    assert len(small._known) <= 20
    await small.aclose()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  the other instance polls too
            await asyncio.sleep(0.02)


async def test_what_one_instance_revokes_the_others_refuse_within_seconds(
    auth_config: AuthConfig, database: Database, provider: IdentityProvider, authenticator: Authenticator
) -> None:
    other = Authenticator(auth_config, database)
    await other.open()
    one, two = provider.sign(jti="one"), provider.sign(jti="two", iat=int(time.time()) - 5)
    principal = await other.authenticate(one)
    await other.authenticate(two)
    await authenticator.revoke(principal)
    await until(lambda: other.revocations.covers(principal.user_id, "one", time.time()))
    with pytest.raises(TokenRevokedError):
        await other.authenticate(one)
    await other.authenticate(two)
    await authenticator.revocations.revoke_user(principal.user_id)
    await until(lambda: other.revocations.covers(principal.user_id, "two", time.time() - 5))
    with pytest.raises(TokenRevokedError):
        await other.authenticate(two)
    later = provider.sign(jti="three", iat=int(time.time()) + 2)
    assert (await other.authenticate(later)).subject == "alice"
    await other.aclose()
    fresh = Authenticator(auth_config, database)  # started later, it reads the whole list
    await fresh.open()
    with pytest.raises(TokenRevokedError):
        await fresh.authenticate(one)
    await fresh.aclose()
    assert ALL == ""


async def test_revocations_survive_a_database_that_is_away(auth_config: AuthConfig, provider: IdentityProvider) -> None:
    away = Database(PoolConfig("postgresql://nobody@127.0.0.1:1/none", acquire_timeout=0.2))
    authenticator = Authenticator(auth_config, away)
    await authenticator.open()
    assert (await authenticator.authenticate(provider.sign())).subject == "alice"
    await authenticator.aclose()


# --- the service's own keys


def test_a_development_key_is_private_and_made_once(tmp_path: Path) -> None:
    first = local_keys.ensure_key(tmp_path, "session")
    path = local_keys.key_path(tmp_path, "session")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert local_keys.ensure_key(tmp_path, "session").keys[0].kid == first.keys[0].kid
    assert [entry.name for entry in path.parent.iterdir()] == ["session.pem"]


async def test_processes_that_start_together_share_one_key(tmp_path: Path) -> None:
    made = await asyncio.gather(*(asyncio.to_thread(local_keys.ensure_key, tmp_path, "session") for _ in range(8)))
    assert len({signer.keys[0].kid for signer in made}) == 1


def pem(key: Any) -> bytes:
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    found: bytes = key.private_bytes(serialization.Encoding.PEM, form, none)
    return found


@pytest.mark.parametrize("trouble", ["absent", "development", "rsa", "empty", "garbage", "writable"])
def test_an_unfit_signing_key_stops_the_start(tmp_path: Path, database_stub: Database, trouble: str) -> None:
    path = tmp_path / "session.pem"
    content = {
        "rsa": pem(RSA),
        "empty": b"",
        "garbage": b"-----BEGIN PRIVATE KEY-----\nAA\n-----END PRIVATE KEY-----\n",
    }
    if trouble == "development":
        local_keys.ensure_key(tmp_path, "session")
        path.write_bytes(local_keys.key_path(tmp_path, "session").read_bytes())
    elif trouble != "absent":
        path.write_bytes(content.get(trouble, pem(ED)))
        path.chmod(0o666 if trouble == "writable" else 0o600)
    with pytest.raises(AuthConfigurationError):
        Authenticator(AuthConfig(home=tmp_path, session_key_file=path), database_stub)


@pytest.fixture
def database_stub() -> Database:
    return Database(PoolConfig("postgresql://nobody@127.0.0.1:1/none"))


def test_outside_development_somebody_must_be_able_to_sign_in(tmp_path: Path, database_stub: Database) -> None:
    local_keys.ensure_key(tmp_path, "session")  # left behind by `rapport up`, and not taken
    with pytest.raises(AuthConfigurationError, match="set AUTH_JWKS"):
        Authenticator(AuthConfig(home=tmp_path), database_stub)
    with pytest.raises(AuthConfigurationError, match="AUTH_ISSUER"):
        Authenticator(AuthConfig(home=tmp_path, jwks=str(tmp_path / "keys.json")), database_stub)


async def test_own_keys_are_exchanged_without_a_gap(tmp_path: Path, database: Database) -> None:
    path = tmp_path / "own.pem"
    old, new = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
    path.write_bytes(pem(old))
    path.chmod(0o600)
    config = AuthConfig(home=tmp_path, session_key_file=path)
    before = Authenticator(config, database).mint_anonymous()
    path.write_bytes(pem(new) + pem(old))
    authenticator = Authenticator(config, database)
    assert (await authenticator.authenticate(before)).anonymous
    assert (await authenticator.authenticate(authenticator.mint_anonymous())).anonymous
    path.write_bytes(pem(new))
    with pytest.raises(TokenInvalidError):
        await Authenticator(config, database).authenticate(before)
    token = local_keys.mint(config, "ops", timedelta(minutes=5), ["operator"])
    assert (await authenticator.authenticate(token)).is_operator


def test_minting_needs_a_key_that_the_service_has(tmp_path: Path) -> None:
    with pytest.raises(AuthConfigurationError, match="rapport up"):
        local_keys.mint(AuthConfig(home=tmp_path), "dev", timedelta(hours=1))
