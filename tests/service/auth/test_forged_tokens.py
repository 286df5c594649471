"""A table of forged tokens: every row is a 401 with a stable code, and none a 500."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from service.auth.authenticator import Authenticator
from tests.service.auth.conftest import ISSUER, IdentityProvider, b64, bearer

Forge = Callable[[IdentityProvider], str]


def with_header(**changes: Any) -> Forge:
    """Signed by a good key over a header that it should not have."""

    def forge(provider: IdentityProvider) -> str:
        header = {"alg": "EdDSA", "kid": "ed", "typ": "at+jwt", **changes}
        header = {name: value for name, value in header.items() if value is not ...}
        signed = f"{b64(header)}.{b64(provider.claims())}"
        return f"{signed}.{b64(provider.keys['ed'][0].sign(signed.encode()))}"

    return forge


def with_claims(**changes: Any) -> Forge:
    return lambda provider: provider.sign(**changes)


def with_raw_claims(raw: bytes) -> Forge:
    def forge(provider: IdentityProvider) -> str:
        signed = f"{b64({'alg': 'EdDSA', 'kid': 'ed', 'typ': 'JWT'})}.{b64(raw)}"
        return f"{signed}.{b64(provider.keys['ed'][0].sign(signed.encode()))}"

    return forge


def with_exp(exp: str) -> Forge:
    raw = f'{{"iss":"{ISSUER}","aud":"rapport","sub":"a","jti":"j","iat":{int(time.time())},"exp":{exp}}}'
    return with_raw_claims(raw.encode())


def unsigned(alg: str, signature: str = "") -> Forge:
    return lambda provider: f"{b64({'alg': alg, 'kid': 'ed', 'typ': 'JWT'})}.{b64(provider.claims())}.{signature}"


def hmac_with_public_key(kid: str, form: serialization.Encoding) -> Forge:
    """The classic: the public key taken for a shared secret."""

    def forge(provider: IdentityProvider) -> str:
        public = provider.keys[kid][0].public_key()
        kind = serialization.PublicFormat
        secret = public.public_bytes(
            form, kind.Raw if form is serialization.Encoding.Raw else kind.SubjectPublicKeyInfo
        )
        signed = f"{b64({'alg': 'HS256', 'kid': kid, 'typ': 'JWT'})}.{b64(provider.claims())}"
        return f"{signed}.{b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"

    return forge


def by_stranger(private: Any, algorithm: str, kid: str, **headers: Any) -> Forge:
    return lambda provider: jwt.encode(
        provider.claims(), private, algorithm=algorithm, headers={"kid": kid, "typ": "JWT", **headers}
    )


def tampered(change: Callable[[list[str]], list[str]]) -> Forge:
    return lambda provider: ".".join(change(provider.sign().split(".")))


def with_other_subject(provider: IdentityProvider) -> str:
    header, _, signature = provider.sign().split(".")
    return f"{header}.{b64(provider.claims(sub='root'))}.{signature}"


def ecdsa_of_zeros(provider: IdentityProvider) -> str:
    """Psychic signature (CVE-2022-21449): r = s = 0."""
    return f"{b64({'alg': 'ES256', 'kid': 'ec', 'typ': 'JWT'})}.{b64(provider.claims())}.{b64(bytes(64))}"


def signature_of_other_claims(provider: IdentityProvider) -> str:
    header, claims, _ = provider.sign(sub="alice").split(".")
    return f"{header}.{claims}.{provider.sign(sub='bob').split('.')[2]}"


STRANGER_ED, STRANGER_EC = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
STRANGER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
STRANGER_JWK = {
    "kty": "OKP",
    "crv": "Ed25519",
    "x": base64.urlsafe_b64encode(STRANGER_ED.public_key().public_bytes_raw()).rstrip(b"=").decode(),
}
NOW = int(time.time())
INVALID, MALFORMED, EXPIRED = "token_invalid", "token_malformed", "token_expired"

FORGED: dict[str, tuple[Forge, str]] = {
    "alg none": (unsigned("none", "AA"), INVALID),
    "alg None": (unsigned("None", "AA"), INVALID),
    "alg NONE": (unsigned("NONE", "AA"), INVALID),
    "alg nOnE": (unsigned("nOnE", "AA"), INVALID),
    "alg none without signature": (unsigned("none"), MALFORMED),
    "alg EdDSA without signature": (unsigned("EdDSA"), MALFORMED),
    "signature of one byte": (unsigned("EdDSA", "AA"), INVALID),
    "signature of zeros": (unsigned("EdDSA", b64(bytes(64))), INVALID),
    "psychic ECDSA signature": (ecdsa_of_zeros, INVALID),
    "HS256 with the RSA public key": (hmac_with_public_key("rsa", serialization.Encoding.PEM), INVALID),
    "HS256 with the RSA public key in DER": (hmac_with_public_key("rsa", serialization.Encoding.DER), INVALID),
    "HS256 with the Ed25519 public key": (hmac_with_public_key("ed", serialization.Encoding.Raw), INVALID),
    "alg of another key": (with_header(alg="RS256"), INVALID),
    "alg in lower case": (with_header(alg="eddsa"), INVALID),
    "alg missing": (with_header(alg=...), INVALID),
    "alg a list": (with_header(alg=["EdDSA"]), INVALID),
    "RSA key with PS256": (lambda p: jwt.encode(p.claims(), p.keys["rsa"][0], "PS256", {"kid": "rsa"}), INVALID),
    "RSA key with RS512": (lambda p: jwt.encode(p.claims(), p.keys["rsa"][0], "RS512", {"kid": "rsa"}), INVALID),
    "a stranger's Ed25519 key under our kid": (by_stranger(STRANGER_ED, "EdDSA", "ed"), INVALID),
    "a stranger's RSA key under our kid": (by_stranger(STRANGER_RSA, "RS256", "rsa"), INVALID),
    "a stranger's EC key under our kid": (by_stranger(STRANGER_EC, "ES256", "ec"), INVALID),
    "a stranger's kid": (by_stranger(STRANGER_ED, "EdDSA", "stranger"), INVALID),
    "jwk brings the key along": (by_stranger(STRANGER_ED, "EdDSA", "ed", jwk=STRANGER_JWK), INVALID),
    "jku says where to fetch it": (by_stranger(STRANGER_ED, "EdDSA", "ed", jku="http://127.0.0.1:1/k"), INVALID),
    "x5u says where to fetch it": (by_stranger(STRANGER_ED, "EdDSA", "ed", x5u="http://127.0.0.1:1/c"), INVALID),
    "x5c brings a certificate": (by_stranger(STRANGER_ED, "EdDSA", "ed", x5c=["MIIB"]), INVALID),
    "good key with jku": (with_header(jku="https://id.example/keys"), INVALID),
    "good key with jwk": (with_header(jwk=STRANGER_JWK), INVALID),
    "crit asks for an unknown extension": (with_header(crit=["exp"], exp=1), INVALID),
    "crit empty": (with_header(crit=[]), INVALID),
    "b64 false": (with_header(b64=False, crit=["b64"]), INVALID),
    "compressed": (with_header(zip="DEF"), INVALID),
    "kid missing": (with_header(kid=...), INVALID),
    "kid empty": (with_header(kid=""), INVALID),
    "kid a path": (with_header(kid="../../../../dev/null"), INVALID),
    "kid an SQL injection": (with_header(kid="' UNION SELECT 'x' --"), INVALID),
    "kid a command": (with_header(kid="ed;sleep 5"), INVALID),
    "kid a number": (with_header(kid=1), INVALID),
    "kid a list": (with_header(kid=["ed"]), INVALID),
    "kid of 300 characters": (with_header(kid="x" * 300), INVALID),
    "kid of another case": (with_header(kid="ED"), INVALID),
    "typ missing": (with_header(typ=...), INVALID),
    "typ of a logout token": (with_header(typ="logout+jwt"), INVALID),
    "typ of an id token": (with_header(typ="id_token"), INVALID),
    "typ a list": (with_header(typ=["JWT"]), INVALID),
    "another audience": (with_claims(aud="another"), INVALID),
    "no audience": (with_claims(aud=...), INVALID),
    "audience null": (with_claims(aud=None), INVALID),
    "audience in part": (with_claims(aud="rapp"), INVALID),
    "audience a number": (with_claims(aud=7), INVALID),
    "audience an object": (with_raw_claims(json.dumps({"iss": ISSUER, "aud": {"rapport": 1}}).encode()), INVALID),
    "another issuer": (with_claims(iss="https://evil.example"), INVALID),
    "issuer with a slash more": (with_claims(iss=ISSUER + "/"), INVALID),
    "issuer in part": (with_claims(iss="https://id"), INVALID),
    "no issuer": (with_claims(iss=...), INVALID),
    "issuer a list": (with_raw_claims(json.dumps({"iss": [ISSUER]}).encode()), INVALID),
    "the provider's key for our own issuer": (with_claims(iss="rapport"), INVALID),
    "no subject": (with_claims(sub=...), INVALID),
    "subject empty": (with_claims(sub=""), INVALID),
    "subject a number": (with_raw_claims(json.dumps({"iss": ISSUER, "sub": 1}).encode()), INVALID),
    "subject with NUL": (with_claims(sub="alice\0bob"), INVALID),
    "subject with a line end": (with_claims(sub="alice\nbob"), INVALID),
    "subject of 256 characters": (with_claims(sub="x" * 256), INVALID),
    "no jti": (with_claims(jti=...), INVALID),
    "jti empty": (with_claims(jti=""), INVALID),
    "jti with NUL": (with_claims(jti="a\0"), INVALID),
    "no exp": (with_claims(exp=...), INVALID),
    "exp a minute ago": (with_claims(exp=NOW - 60, iat=NOW - 600), EXPIRED),
    "exp in 1970": (with_claims(exp=1, iat=0), EXPIRED),
    "exp zero": (with_exp("0"), EXPIRED),
    "exp negative": (with_exp("-1"), INVALID),
    "exp a text": (with_exp('"9999999999"'), INVALID),
    "exp true": (with_exp("true"), INVALID),
    "exp null": (with_exp("null"), INVALID),
    "exp a list": (with_exp("[9999999999]"), INVALID),
    "exp beyond all dates": (with_exp("99999999999999999"), INVALID),
    "exp 1e308": (with_exp("1e308"), INVALID),
    "exp infinite": (with_exp("Infinity"), MALFORMED),
    "exp not a number": (with_exp("NaN"), MALFORMED),
    "no iat": (with_claims(iat=...), INVALID),
    "iat in an hour": (with_claims(iat=NOW + 3600, exp=NOW + 7200), INVALID),
    "nbf in an hour": (with_claims(nbf=NOW + 3600), INVALID),
    "nbf a text": (with_claims(nbf="soon"), INVALID),
    "exp before iat": (with_claims(iat=NOW + 3600, exp=NOW + 3500), INVALID),
    "claims exchanged": (with_other_subject, INVALID),
    "signature of other claims": (signature_of_other_claims, INVALID),
    "signature cut": (tampered(lambda p: [p[0], p[1], p[2][:-4]]), INVALID),
    "signature too long": (tampered(lambda p: [p[0], p[1], p[2] + "AAAA"]), INVALID),
    "signature first byte": (tampered(lambda p: [p[0], p[1], ("A" if p[2][0] != "A" else "B") + p[2][1:]]), INVALID),
    "signature not base64url": (tampered(lambda p: [p[0], p[1], "+/" + p[2][2:]]), MALFORMED),
    "signature with junk inside": (tampered(lambda p: [p[0], p[1], p[2][:9] + "!" + p[2][9:]]), MALFORMED),
    "two parts": (tampered(lambda p: p[:2]), MALFORMED),
    "four parts": (tampered(lambda p: [*p, "AA"]), MALFORMED),
    "five parts, as encrypted": (tampered(lambda p: [*p, "AA", "AA"]), MALFORMED),
    "header not JSON": (tampered(lambda p: [b64(b"{"), *p[1:]]), MALFORMED),
    "header a list": (tampered(lambda p: [b64(b"[]"), *p[1:]]), MALFORMED),
    "header not UTF-8": (tampered(lambda p: [b64(b"\xff\xfe"), *p[1:]]), MALFORMED),
    "claims a text": (with_raw_claims(b'"alice"'), MALFORMED),
    "claims 50,000 deep": (with_raw_claims(b'{"a":' * 1100 + b"1" + b"}" * 1100), MALFORMED),
    "claims with half a character": (with_raw_claims(b'{"iss":"\\ud800"}'), MALFORMED),
    "longer than a token is": (with_claims(x="y" * 9000), MALFORMED),
    "one character": (lambda _: "x", MALFORMED),
    "dots": (lambda _: "..", MALFORMED),
    "half an API key": (lambda _: "rk_0123456789abcdef", MALFORMED),
    "an API key nobody has": (lambda _: "rk_0123456789abcdef_" + "A" * 43, INVALID),
    "an API key with SQL": (lambda _: "rk_' OR 1=1 --_" + "A" * 43, MALFORMED),
}


def test_the_table_is_long_enough() -> None:
    assert len(FORGED) >= 40


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_token_lets_nobody_in(client: httpx.AsyncClient, provider: IdentityProvider, name: str) -> None:
    forge, code = FORGED[name]
    token = forge(provider)
    for headers in (bearer(token), {"Cookie": f"rapport_session={token}"}):
        answer = await client.get("/me", headers=headers)
        assert answer.status_code == 401, answer.text
        assert answer.headers["www-authenticate"].startswith("Bearer")
        expected = MALFORMED if "Cookie" in headers and token.startswith("rk_") else code
        assert answer.json()["code"] == expected


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"", MALFORMED),
        (b"Bearer", MALFORMED),
        (b"Bearer ", MALFORMED),
        (b"Basic YWxpY2U6cGFzcw==", MALFORMED),
        (b"Token abc", MALFORMED),
        (b"Bearer \xff\xfe", MALFORMED),
        ("Bearer ünïcode".encode(), MALFORMED),
        (b"Bearer a b c", MALFORMED),
    ],
)
async def test_a_strange_header_is_no_crash(client: httpx.AsyncClient, header: bytes, code: str) -> None:
    answer = await client.get("/me", headers=[(b"Authorization", header)])
    assert (answer.status_code, answer.json()["code"]) == (401, code)


@pytest.mark.parametrize("kid", ["ed", "rsa", "ec"])
async def test_the_honest_token_passes(client: httpx.AsyncClient, provider: IdentityProvider, kid: str) -> None:
    for typ in ("JWT", "at+jwt", "AT+JWT", "application/at+jwt"):
        answer = await client.get("/me", headers=bearer(provider.sign(kid, headers={"typ": typ})))
        assert answer.status_code == 200, answer.text
    now = int(time.time())
    for claims in ({"aud": ["other", "rapport"]}, {"exp": now + 600.5}, {"sub": "ålice 👩‍🚀"}, {"nbf": now + 20}):
        assert (await client.get("/me", headers=bearer(provider.sign(kid, **claims)))).status_code == 200


async def test_the_edges_of_time_are_thirty_seconds_wide(
    provider: IdentityProvider, authenticator: Authenticator
) -> None:
    """On a clock of our own, second by second, cached or not."""
    token = provider.sign(iat=1_700_000_000, exp=1_700_000_600)
    found = []
    for second in (-31, -30, 0, 599, 600, 629, 630, 629, 631):
        authenticator._clock = lambda second=second: 1_700_000_000 + second  # type: ignore[misc]
        try:
            await authenticator.authenticate(token)
            found.append("in")
        except Exception as error:
            found.append(getattr(error, "code", repr(error)))
    assert found == [INVALID, "in", "in", "in", "in", "in", EXPIRED, "in", EXPIRED]
