"""/v1/age-assurance: whose word counts, for whom, how long, and on which instance."""

import json
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from service.auth.errors import AuthConfigurationError
from service.auth.local_keys import ensure_key, mint
from service.compliance.assertions import AgeAssertions, mint_assertion
from service.compliance.config import AGE_AUDIENCE, AgeConfig
from service.limits import Limits, LimitsConfig
from tests.service.compliance.conftest import MIXED, Instances

NOW = int(time.time())


def years_ago(years: int) -> str:
    today = date.today()  # noqa: DTZ011  only the year matters
    return date(today.year - years, 1, 1).isoformat()


async def test_verified_on_one_instance_is_verified_on_the_other_at_once(instances: Instances) -> None:
    first, second = (instances.person(instances.instance()) for _ in range(2))
    assert (await second.state())["routes"] == ["general"]
    answer = await first.hand_in(first.assertion())
    assert answer.status_code == 200
    assert answer.json()["level"] == "mature"
    state = await second.state()
    assert state["routes"] == ["general", "mature"]
    assert state["assurances"][0]["policy_version"] == "built-in-1"
    assert (await instances.person(instances.instance(), "mallory").state())["routes"] == ["general"]


async def test_an_operator_takes_it_back_for_every_instance(instances: Instances) -> None:
    first, second = (instances.person(instances.instance()) for _ in range(2))
    operator = instances.person(instances.instance(), "root", ("user", "operator"))
    await first.hand_in(first.assertion())
    body = {"issuer": "rapport", "subject": "alice", "level": "mature"}
    refused = await second.post("/v1/operator/age-assurances/revoke", body)
    assert (refused.status_code, refused.json()["code"]) == (403, "operator_only")
    assert (await operator.post("/v1/operator/age-assurances/revoke", body)).json() == {
        "revoked": 1,
        "conversations": 0,
    }
    assert (await second.state())["routes"] == ["general"]
    unknown = await operator.post("/v1/operator/age-assurances/revoke", {**body, "level": "x"})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_level")


async def test_an_operator_may_decide(instances: Instances) -> None:
    operator = instances.person(instances.instance(), "root", ("user", "operator"))
    alice = instances.person(instances.instance())
    body = {"issuer": "rapport", "subject": "alice", "level": "mature"}
    assert (await alice.post("/v1/operator/age-assurances", body)).status_code == 403
    answer = await operator.post("/v1/operator/age-assurances", body)
    assert answer.status_code == 201
    assert answer.json()["provider"] == "operator root"
    assert (await alice.state())["level"] == "mature"


async def test_an_assertion_is_taken_once(instances: Instances) -> None:
    alice = instances.person(instances.instance())
    elsewhere = instances.person(instances.instance())
    assertion = alice.assertion()
    assert (await alice.hand_in(assertion)).status_code == 200
    for person in (alice, elsewhere):
        again = await person.hand_in(assertion)
        assert (again.status_code, again.json()["code"]) == (409, "age_assertion_replayed")


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"sub": "bob"}, 403, "age_assertion_not_yours"),
        ({"sub_iss": "https://elsewhere.example"}, 403, "age_assertion_not_yours"),
        ({"now": NOW - 700}, 422, "age_assertion_stale"),
        ({"now": NOW - 7200, "days": 1 / 24}, 422, "age_assertion_stale"),
        ({"method": "client_flag"}, 403, "age_method_not_accepted"),
        ({"method": "self_declared"}, 403, "age_method_not_accepted"),
        ({"method": None}, 422, "age_assertion_invalid"),
        ({"method": ["document"]}, 422, "age_assertion_invalid"),
        ({"provider": "a\0b"}, 422, "age_assertion_invalid"),
        ({"level": "superuser"}, 422, "unknown_level"),
        ({"level": ["mature"]}, 422, "age_assertion_invalid"),
        ({"level": None}, 422, "age_assertion_invalid"),
        ({"birth_date": "yesterday"}, 422, "age_assertion_invalid"),
        ({"birth_date": 19900101}, 422, "age_assertion_invalid"),
        ({"birth_date": "2990-01-01"}, 422, "age_assertion_invalid"),
        ({"birth_date": years_ago(15)}, 403, "below_minimum_age"),
        ({"age_bracket": "13_15"}, 403, "below_minimum_age"),
        ({"age_bracket": "adult"}, 422, "age_assertion_invalid"),
        ({"aud": "rapport"}, 422, "age_assertion_invalid"),
        ({"iss": "mallory"}, 422, "age_assertion_invalid"),
        ({"jti": ""}, 422, "age_assertion_invalid"),
    ],
)
async def test_what_does_not_hold_up_opens_nothing(
    instances: Instances, options: dict[str, Any], status: int, code: str
) -> None:
    alice = instances.person(instances.instance())
    level = options.pop("level", "mature")
    answer = await alice.hand_in(alice.assertion(level, **options))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await alice.state())["routes"] == ["general"]


async def test_an_access_token_is_no_assertion_and_an_assertion_no_access_token(instances: Instances) -> None:
    alice = instances.person(instances.instance())
    token = mint(instances.auth, "alice", timedelta(hours=1))
    assert (await alice.hand_in(token)).json()["code"] == "age_assertion_invalid"
    answer = await alice.client.get("/v1/age-assurance", headers={"Authorization": f"Bearer {alice.assertion()}"})
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")


async def test_a_client_cannot_sign_its_own_assertion_nor_send_a_flag(instances: Instances) -> None:
    alice = instances.person(instances.instance())
    forged = jwt.encode(
        jwt.decode(alice.assertion(), options={"verify_signature": False}),
        ed25519.Ed25519PrivateKey.generate(),
        "EdDSA",
        {"kid": jwt.get_unverified_header(alice.assertion())["kid"]},
    )
    assert (await alice.hand_in(forged)).json()["code"] == "age_assertion_invalid"
    for body in ({"age_verified": True}, {"level": "mature"}, {"assertion": forged, "level": "mature"}, {}):
        assert (await alice.post("/v1/age-assurance", body)).status_code == 422
    assert (await alice.state())["level"] is None


async def test_a_proof_lasts_no_longer_than_the_policy_allows(instances: Instances) -> None:
    alice = instances.person(instances.instance())
    state = (await alice.hand_in(alice.assertion(days=3000))).json()
    lasts = (date.fromisoformat(state["expires_at"][:10]) - date.fromtimestamp(NOW)).days  # noqa: DTZ012
    assert 364 <= lasts <= 366


async def test_a_birth_date_cannot_be_edited_and_a_minor_loses_what_was_open(instances: Instances) -> None:
    alice = instances.person(instances.instance())
    assert (await alice.hand_in(alice.assertion())).json()["level"] == "mature"
    told = await alice.hand_in(alice.assertion(None, birth_date=years_ago(15)))
    assert told.json() == {"level": None, "expires_at": None, "assurances": [], "routes": ["general"], "minor": True}
    edited = await alice.hand_in(alice.assertion(birth_date=years_ago(30)))
    assert (edited.status_code, edited.json()["code"]) == (409, "birth_date_fixed")
    assert (await alice.hand_in(alice.assertion())).json()["code"] == "below_minimum_age"
    assert (await alice.state())["minor"] is True


async def test_who_is_known_to_be_too_young_finds_no_route_open(instances: Instances) -> None:
    child = instances.person(instances.instance())
    assert (await child.state())["routes"] == ["general"]
    told = await child.hand_in(child.assertion(None, age_bracket="under_13"))
    assert told.json()["routes"] == []
    # nobody makes themselves older than their phone's store knows
    await child.post("/v1/age-assurance/self-declaration", {"birth_date": years_ago(40)})
    assert (await child.state())["routes"] == []
    assert (await child.state())["minor"] is True
    assert (await child.hand_in(child.assertion(None, age_bracket="13_15"))).json()["routes"] == ["general"]


async def test_a_child_does_not_make_itself_an_adult_by_being_first(instances: Instances) -> None:
    child = instances.person(instances.instance())
    declared = await child.post("/v1/age-assurance/self-declaration", {"birth_date": years_ago(36)})
    assert declared.json()["minor"] is False
    told = await child.hand_in(child.assertion(None, birth_date=years_ago(11)))
    assert (told.status_code, told.json()["minor"], told.json()["routes"]) == (200, True, [])
    assert (await child.hand_in(child.assertion("mature", birth_date=years_ago(11)))).json()[
        "code"
    ] == "below_minimum_age"
    assert (await child.state())["minor"] is True


async def test_self_declaration_opens_only_what_the_policy_lets_it(instances: Instances) -> None:
    alice = instances.person(instances.instance(policies=MIXED))
    body = {"birth_date": years_ago(40)}
    state = (await alice.post("/v1/age-assurance/self-declaration", body)).json()
    assert state["routes"] == ["general", "teen"]
    edited = await alice.post("/v1/age-assurance/self-declaration", {"birth_date": years_ago(41)})
    assert (edited.status_code, edited.json()["code"]) == (409, "birth_date_fixed")
    child = instances.person(instances.instance(policies=MIXED), "child")
    refused = await child.post("/v1/age-assurance/self-declaration", {"birth_date": years_ago(9)})
    assert (refused.status_code, refused.json()["code"]) == (403, "below_minimum_age")
    retried = await child.post("/v1/age-assurance/self-declaration", {"birth_date": years_ago(19)})
    assert retried.json()["code"] == "birth_date_fixed"
    builtin = instances.person(instances.instance(), "builtin")
    assert (await builtin.post("/v1/age-assurance/self-declaration", body)).json()["routes"] == ["general"]


async def test_handing_in_is_limited_and_closed_while_the_limits_are_away(instances: Instances) -> None:
    alice = instances.person(instances.instance(limits=Limits(LimitsConfig(overrides="age=3/hour"))))
    answers = [(await alice.hand_in("x.y.z")).status_code for _ in range(5)]
    assert answers == [422, 422, 422, 429, 429]
    away = Limits(LimitsConfig(redis_url="redis://127.0.0.1:1/0"))
    closed = await instances.person(instances.instance(limits=away)).hand_in(alice.assertion())
    assert (closed.status_code, closed.json()["code"]) == (503, "limits_unavailable")
    await away.aclose()


async def test_without_a_key_nothing_is_taken(instances: Instances, tmp_path: Path) -> None:
    alice = instances.person(instances.instance(age=AgeConfig(home=tmp_path)))
    answer = await alice.hand_in(alice.assertion())
    assert (answer.status_code, answer.json()["code"]) == (403, "age_assurance_disabled")


async def test_the_keys_of_a_backend_come_from_its_key_set(instances: Instances, tmp_path: Path) -> None:
    signer = ensure_key(tmp_path / "backend", "age")
    public = jwt.get_algorithm_by_name("EdDSA").to_jwk(signer.keys[0].private.public_key(), as_dict=True)
    path = tmp_path / "age.json"
    path.write_text(json.dumps({"keys": [{**public, "kid": signer.keys[0].kid}]}))
    config = AgeConfig(home=tmp_path / "backend", jwks=str(path), issuer="https://app.example")
    client = instances.instance(age=config)
    assertions = client._transport.app.state.runtime.age_assertions  # type: ignore[attr-defined]
    await assertions.open()
    alice = instances.person(client)
    assert (await alice.hand_in(mint_assertion(config, "alice", "mature"))).json()["level"] == "mature"
    assert (await alice.hand_in(alice.assertion())).json()["code"] == "age_assertion_invalid"
    await assertions.aclose()
    with pytest.raises(AuthConfigurationError):
        AgeAssertions(AgeConfig(home=tmp_path, jwks=str(path), issuer=""))
    assert AGE_AUDIENCE != "rapport"


async def test_the_protocol_is_public_and_the_report_is_for_operators(instances: Instances) -> None:
    alice = instances.person(instances.instance())
    operator = instances.person(alice.client, "root", ("user", "operator"))
    published = (await alice.client.get("/v1/safety/protocol")).json()
    assert {protocol["language"] for protocol in published["protocols"]} >= {"en", "de", "es", "fr"}
    assert published["disclosure_hours"] == 3
    assert published["suitability"]
    path = "/v1/operator/reports/duty-of-care?year=2026"
    assert (await alice.client.get(path, headers=alice.headers)).status_code == 403
    report = await alice.client.get(path, headers=operator.headers)
    assert report.json() == {"year": 2026, "totals": {}, "months": []}
    assert (await alice.client.get(path.replace("2026", "x"), headers=operator.headers)).status_code == 422


@pytest.mark.parametrize("subject", ["a\0b", "a\x1bb", "", "x" * 256, 7, None, ["alice"]])
async def test_a_subject_that_is_no_name_is_refused_before_it_is_looked_for(instances: Instances, subject: Any) -> None:
    operator = instances.person(instances.instance(), "root", ("user", "operator"))
    body = json.dumps({"issuer": "rapport", "subject": subject, "level": "mature"})
    for path in ("/v1/operator/age-assurances", "/v1/operator/age-assurances/revoke"):
        answer = await operator.client.post(
            path, content=body, headers={**operator.headers, "Content-Type": "application/json"}
        )
        assert answer.status_code == 422
