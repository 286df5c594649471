"""An age that was verified through one instance counts on every other at once, and so does its withdrawal."""

import json
from collections.abc import Callable

import httpx

from service.compliance.assertions import mint_assertion
from service.compliance.config import AgeConfig
from tests.fixtures.service import LiveService
from tests.streams import read

MATURE = '[{"name": "slow", "kind": "scripted", "script": {"style": "numbered", "words": 300, "word_delay": 0.02}}]'


def test_verified_here_is_verified_there(service_factory: Callable[..., LiveService]) -> None:
    service = service_factory(LLM_BACKENDS=MATURE)
    first, second = service.start(), service.start()
    headers = service.headers("ana")
    with (
        httpx.Client(base_url=first.url, headers=headers, timeout=30) as here,
        httpx.Client(base_url=second.url, headers=headers, timeout=30) as there,
    ):
        path = f"/v1/conversations/{here.post('/v1/conversations', json={'route': 'mature'}).json()['id']}"
        for client in (here, there):
            refused = client.post(f"{path}/turns", json={"content": "Hello"})
            assert (refused.status_code, refused.json()["code"]) == (403, "age_assurance_required")

        assertion = mint_assertion(AgeConfig(service.home, embedded=True), "ana", "mature")
        answer = here.post("/v1/age-assurance", json={"assertion": assertion})
        assert answer.status_code in {200, 201}, answer.text
        with there.stream("POST", f"{path}/turns", json={"content": "Hello"}) as response:
            assert response.status_code == 200
            bubble = read(response, deltas=2)

        operator = {"Authorization": f"Bearer {service.token('root', roles=('user', 'operator'))}"}
        revoked = here.post(
            "/v1/operator/age-assurances/revoke",
            headers=operator,
            json={"issuer": "rapport", "subject": "ana", "level": "mature"},
        )
        assert revoked.status_code == 200, revoked.text
        turn = f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}"
        with here.stream("GET", f"{turn}/stream", params={"after": bubble.last or ""}) as response:
            if response.status_code == 200:  # it had not ended yet when it was asked for, and ends now
                read(response, bubble)
                assert bubble.data("turn.failed")["code"] == "route_locked"
            else:
                assert (response.status_code, json.loads(response.read())["code"]) == (403, "age_assurance_required")
        assert len(bubble.text.split()) < 250
        for client in (here, there):
            assert client.post(f"{path}/turns", json={"content": "Hello?"}).json()["code"] == "age_assurance_required"
