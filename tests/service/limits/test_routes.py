"""Every route that a user can call over and over has an end."""

from collections.abc import Callable

import httpx

from tests.fixtures.service import LiveService


def test_looking_and_changing_have_an_end_and_say_when_to_come_back(
    service_factory: Callable[..., LiveService],
) -> None:
    service = service_factory(RATE_LIMITS="read=5/hour, write=3/hour, search=2/hour, import=2/hour")
    service.start()
    with httpx.Client(base_url=service.url, headers=service.headers("ana"), timeout=30) as client:
        made = [client.post("/v1/conversations", json={}) for _ in range(4)]
        assert [answer.status_code for answer in made] == [201, 201, 201, 429]
        assert made[-1].json()["code"] == "rate_limited"
        assert 0 < int(made[-1].headers["retry-after"]) <= 7200
        path = f"/v1/conversations/{made[0].json()['id']}"
        for change in (
            client.patch(path, json={"title": "x"}),
            client.post(f"{path}/lock", json={}),
            client.delete(path),
        ):
            assert change.status_code == 429
        seen = [client.get(where).status_code for where in ("/v1/conversations", path, f"{path}/messages") * 2]
        assert seen == [200] * 5 + [429]
        found = [client.post("/v1/memories/search", json={"query": "x"}).status_code for _ in range(3)]
        assert found == [200, 200, 429]
    with httpx.Client(base_url=service.url, headers=service.headers("bob"), timeout=30) as other:
        assert other.get("/v1/conversations").status_code == 200
