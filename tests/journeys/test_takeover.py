"""A reply survives the death of the process that writes it."""

import os
import random
import time
from collections.abc import Callable

import httpx
import pytest

from tests.fixtures.service import LiveService, Process
from tests.streams import Bubble, read

WHOLE = " ".join(str(number) for number in range(1, 81))
KILLS = int(os.environ.get("TAKEOVER_KILLS", "3"))
"""Of writers, one after the other; `make faults-long` does it hundreds of times."""


def follow(service: LiveService, process: Process, turn: str, bubble: Bubble) -> None:
    headers = service.headers("ana")
    with (
        httpx.Client(base_url=process.url, headers=headers, timeout=30) as client,
        client.stream("GET", f"{turn}/stream", headers={"Last-Event-ID": bubble.last or ""}) as response,
    ):
        read(response, bubble)


@pytest.mark.faults
def test_a_killed_writer_loses_and_repeats_nothing(service_factory: Callable[..., LiveService]) -> None:
    service = service_factory()
    survivor = service.start(wait=False)
    writers = [service.start(wait=False) for _ in range(KILLS)]
    survivor.wait()
    chance = random.Random(7)
    gaps: list[float] = []
    taken_over = 0
    for kill, writer in enumerate(writers):
        writer.wait()
        with httpx.Client(base_url=writer.url, headers=service.headers("ana"), timeout=30) as client:
            conversation = client.post("/v1/conversations", json={}).json()["id"]
            path = f"/v1/conversations/{conversation}"
            with client.stream("POST", f"{path}/turns", json={"content": "Count", "backend": "slow"}) as response:
                bubble = read(response, deltas=chance.randint(1, 25))
                writer.kill()
                killed = time.monotonic()
        assert not bubble.ended
        turn = f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}"
        while not bubble.ended:
            follow(service, survivor, turn, bubble)
        gaps.append(time.monotonic() - killed)
        taken_over += "turn.taken_over" in bubble.kinds
        stored = httpx.get(f"{survivor.url}{path}/messages", headers=service.headers("ana")).json()["items"]
        assert [item["role"] for item in stored] == ["user", "assistant"]
        assert stored[1]["content"] == bubble.text == WHOLE, f"kill {kill}"
        assert (bubble.repeated, bubble.rebased) == (0, 0)
        assert bubble.data("turn.taken_over")["grade"] == "prefix"
    print(
        f"\n{KILLS} writers killed: {taken_over} replies taken over, 0 lost, 0 repeated; longest {max(gaps):.1f} s to the end"
    )
    assert taken_over == KILLS


def test_sigterm_cuts_no_reply(service_factory: Callable[..., LiveService]) -> None:
    service = service_factory()
    process = service.start()
    with httpx.Client(base_url=process.url, headers=service.headers("ana"), timeout=30) as client:
        path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
        with client.stream("POST", f"{path}/turns", json={"content": "Count", "backend": "slow"}) as response:
            lines = response.iter_lines()
            first = next(lines)
            process.kill(15)
            rest = "\n".join([first, *lines])
    assert "event: turn.completed" in rest
    assert process.end() == 0


def test_a_reply_is_handed_over_when_the_drain_is_too_short(service_factory: Callable[..., LiveService]) -> None:
    service = service_factory(DRAIN_SECONDS="0.2")
    survivor, writer = service.start(), service.start()
    with httpx.Client(base_url=writer.url, headers=service.headers("ana"), timeout=30) as client:
        path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
        with client.stream("POST", f"{path}/turns", json={"content": "Count", "backend": "slow"}) as response:
            bubble = read(response, deltas=3)
            writer.kill(15)
    turn = f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}"
    while not bubble.ended:
        follow(service, survivor, turn, bubble)
    assert bubble.text == WHOLE
    assert (bubble.repeated, bubble.rebased) == (0, 0)
    assert writer.end() == 0


def test_a_runner_of_its_own_writes_for_the_api(service_factory: Callable[..., LiveService]) -> None:
    service = service_factory(TURN_RUNNER="outside")
    runner = service.start("runner")
    api = service.start()
    with httpx.Client(base_url=api.url, headers=service.headers("ana"), timeout=30) as client:
        path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
        with client.stream("POST", f"{path}/turns", json={"content": "Count", "backend": "slow"}) as response:
            bubble = read(response, deltas=5)
            turn = f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}"
        api.kill()
    replacement = service.start()
    follow(service, replacement, turn, bubble)
    assert bubble.text == WHOLE
    assert (bubble.repeated, bubble.rebased) == (0, 0)
    assert "turn.taken_over" not in bubble.kinds
    assert runner.end() == 0
