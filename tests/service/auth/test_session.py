"""/v1/session, cookies, roles and other sites."""

from datetime import timedelta

import httpx
import pytest

from service.auth.authenticator import Authenticator
from service.auth.config import AuthConfig
from service.auth.dependencies import COOKIE
from service.auth.local_keys import mint
from service.principal import derive_user_id
from tests.service.auth.conftest import ISSUER, IdentityProvider, bearer

SAME_SITE = {"Sec-Fetch-Site": "same-origin"}


async def test_nobody_is_told_so(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/session")
    assert answer.status_code == 401
    assert answer.json()["code"] == "token_missing"
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_an_anonymous_session_is_kept_in_a_cookie_that_scripts_cannot_read(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/session", json={})
    assert answer.status_code == 200
    assert answer.json()["anonymous"] is True
    assert answer.json()["roles"] == ["user"]
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert {"httponly", "secure", "samesite=strict", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}
    assert answer.headers["cache-control"] == "no-store"
    again = await client.post("/v1/session")
    assert again.json()["subject"] == answer.json()["subject"]  # nobody gets a new id for reloading the page
    assert (await client.get("/v1/session")).json() == answer.json()


async def test_a_token_of_the_identity_provider_signs_the_page_in(
    client: httpx.AsyncClient, provider: IdentityProvider
) -> None:
    answer = await client.post("/v1/session", json={"token": provider.sign()})
    assert answer.json()["subject"] == "alice"
    assert answer.json()["anonymous"] is False
    who = (await client.get("/me")).json()
    assert who == {"subject": "alice", "issuer": ISSUER, "user_id": str(derive_user_id(ISSUER, "alice"))}


async def test_signing_out_takes_the_token_back_everywhere(
    client: httpx.AsyncClient, provider: IdentityProvider, authenticator: Authenticator
) -> None:
    token = provider.sign()
    await client.post("/v1/session", json={"token": token})
    answer = await client.delete("/v1/session", headers=SAME_SITE)
    assert answer.status_code == 204
    assert 'rapport_session=""' in answer.headers["set-cookie"]
    for _ in range(2):
        refused = await client.get("/me", headers=bearer(token))
        assert (refused.status_code, refused.json()["code"]) == (401, "token_revoked")
    assert (await client.delete("/v1/session")).status_code == 204


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "https://testserver"}, 200),
        ({"Origin": "https://testserver.evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://testserver"}, 403),
        ({}, 403),
    ],
)
async def test_another_site_cannot_use_the_cookie(
    client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    await client.post("/v1/session")
    answer = await client.post("/me", headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["code"] == "cross_site_request"
    assert (await client.get("/me", headers=headers)).status_code == 200  # reading is safe: its answer stays unread


async def test_another_site_cannot_sign_a_visitor_in(client: httpx.AsyncClient, provider: IdentityProvider) -> None:
    answer = await client.post(
        "/v1/session", json={"token": provider.sign()}, headers={"Origin": "https://evil.example"}
    )
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_a_bearer_token_needs_no_origin_and_wins_over_the_cookie(
    client: httpx.AsyncClient, provider: IdentityProvider
) -> None:
    await client.post("/v1/session")
    answer = await client.post("/me", headers=bearer(provider.sign()))
    assert answer.json() == {"subject": "alice"}


async def test_operators_only(client: httpx.AsyncClient, provider: IdentityProvider) -> None:
    assert (await client.get("/operators", headers=bearer(provider.sign(roles=["operator"])))).status_code == 200
    for roles in (["admin"], "operator", {"operator": True}, None, [["operator"]]):
        answer = await client.get("/operators", headers=bearer(provider.sign(roles=roles)))
        assert (answer.status_code, answer.json()["code"]) == (403, "operator_only")
    assert (await client.get("/operators")).status_code == 401


async def test_a_developer_token_works_and_an_anonymous_one_is_never_an_operator(
    client: httpx.AsyncClient, auth_config: AuthConfig
) -> None:
    token = mint(auth_config, "dev", timedelta(hours=1), ["user", "operator"])
    assert (await client.get("/operators", headers=bearer(token))).json() == {"subject": "dev"}
    sly = mint(auth_config, "dev", timedelta(hours=1), ["user", "operator"], anonymous=True)
    assert (await client.get("/operators", headers=bearer(sly))).status_code == 403


async def test_making_anonymous_ids_is_limited_by_address(client: httpx.AsyncClient) -> None:
    made = 0
    for number in range(30):
        client.cookies.clear()
        answer = await client.post(
            "/v1/session", headers={"X-Forwarded-For": f"198.51.100.{number}", "Forwarded": "for=1"}
        )
        made += answer.status_code == 200
    assert made == 10
    assert answer.status_code == 429
    assert answer.json()["code"] == "rate_limited"
    assert 0 < int(answer.headers["retry-after"]) <= 120


async def test_a_token_too_large_for_a_cookie_is_refused_rather_than_lost(
    client: httpx.AsyncClient, provider: IdentityProvider
) -> None:
    answer = await client.post("/v1/session", json={"token": provider.sign(groups=["x" * 40] * 80)})
    assert (answer.status_code, answer.json()["code"]) == (413, "token_too_large")


async def test_who_is_refused_too_often_is_told_to_wait_and_others_at_the_address_are_not(
    client: httpx.AsyncClient, provider: IdentityProvider
) -> None:
    answers = [await client.get("/me", headers=bearer(f"guess-{n}")) for n in range(130)]
    assert [answer.status_code for answer in answers] == [401] * 120 + [429] * 10
    assert answers[-1].json()["code"] == "rate_limited"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 120
    assert (await client.get("/me", headers=bearer(provider.sign()))).status_code == 200
