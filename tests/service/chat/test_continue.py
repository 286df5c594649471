"""Going on with a reply that ended before its end, and asking for things once however often the button is pressed."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.fixtures.service import LiveService
from tests.misbehaving.process import Misbehaving
from tests.misbehaving.script import REPLY
from tests.service.chat.test_branches import stream
from tests.service.chat.test_turns import conversation, messages, say
from tests.streams import Bubble, read


@pytest.fixture
def client(shared_service: LiveService) -> Iterator[httpx.Client]:
    headers = shared_service.headers(f"user-{uuid4()}")
    with httpx.Client(base_url=shared_service.url, headers=headers, timeout=30) as opened:
        yield opened


def stopped(client: httpx.Client, path: str, *, deltas: int = 5, **body: object) -> tuple[str, Bubble]:
    """The turn of a reply that its reader stopped after some words, and what was said."""
    with client.stream("POST", f"{path}/turns", json={"content": "Count", **body}) as response:
        bubble = read(response, deltas=deltas)
        turn = f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}"
        assert client.post(f"{turn}/stop").json()["status"] == "stopped"
    with client.stream("GET", f"{turn}/stream", headers={"Last-Event-ID": bubble.last or ""}) as response:
        read(response, bubble)
    assert bubble.ended
    return turn, bubble


def test_a_stopped_reply_goes_on_behind_its_words(client: httpx.Client) -> None:
    path = conversation(client)
    turn, begun = stopped(client, path, backend="slow")
    more = stream(client, f"{turn}/continue")
    [_, first, second] = messages(client, path)
    assert first["content"] == begun.text
    assert (first["status"], second["status"]) == ("stopped", "complete")
    assert second["content"] == more.text == " ".join(str(number) for number in range(1, 81))
    assert (second["continues"], second["parent_id"]) == (first["id"], first["parent_id"])
    assert client.get(path).json()["head_id"] == second["id"]
    shown = [data for _, kind, data in more.events if kind == "turn.rebased"]
    assert shown == [{"text": begun.text, "reason": "continued"}]


def test_what_came_to_its_end_is_not_gone_on_with(client: httpx.Client, shared_service: LiveService) -> None:
    path = conversation(client)
    turn = f"{path}/turns/{say(client, path, 'Hello').data('turn.accepted')['turn_id']}"
    answer = client.post(f"{turn}/continue")
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_continue")
    assert client.post(f"{path}/turns/{uuid4()}/continue").json()["code"] == "conversation_not_found"
    other = client.post(f"{turn}/continue", headers=shared_service.headers("stranger"))
    assert (other.status_code, other.json()["code"]) == (404, "conversation_not_found")


def test_a_running_reply_and_a_locked_conversation_are_not_gone_on_with(client: httpx.Client) -> None:
    path = conversation(client)
    with client.stream("POST", f"{path}/turns", json={"content": "Count", "backend": "slow"}) as response:
        bubble = read(response, deltas=2)
        turn = f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}"
        assert client.post(f"{turn}/continue").json()["code"] == "turn_in_progress"
        client.post(f"{turn}/stop")
    assert client.post(f"{path}/lock", json={}).status_code == 200
    answer = client.post(f"{turn}/continue")
    assert (answer.status_code, answer.json()["code"]) == (403, "route_locked")
    client.delete(f"{path}/lock")
    assert len(messages(client, path)) == 2


def times(number: int, work: Callable[[], httpx.Response]) -> list[httpx.Response]:
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(lambda _: work(), range(number)))


def turns_of(answers: list[httpx.Response]) -> set[str]:
    assert {answer.status_code for answer in answers} == {200}, [answer.text[:200] for answer in answers]
    return {json.loads(answer.text.partition("data: ")[2].partition("\n")[0])["turn_id"] for answer in answers}


@pytest.mark.parametrize("how", ["header", "body"])
@pytest.mark.parametrize("what", ["alternatives", "edits", "continue"])
def test_a_double_tap_is_one_turn(client: httpx.Client, what: str, how: str) -> None:
    path = conversation(client)
    turn, _ = stopped(client, path, backend="slow", deltas=2)
    user = messages(client, path)[0]["id"]
    place = f"{turn}/continue" if what == "continue" else f"{path}/messages/{user}/{what}"
    body: dict[str, Any] = {"content": "Count on"} if what == "edits" else {}
    key = f"tap-{uuid4()}"
    headers = {"Idempotency-Key": key} if how == "header" else {}
    body |= {"client_message_id": key} if how == "body" else {}
    found = turns_of(times(3, lambda: client.post(place, json=body, headers=headers)))
    found |= turns_of([client.post(place, json=body, headers=headers)])
    assert len(found) == 1
    assert len(messages(client, path)) == (4 if what == "edits" else 3)
    other = client.post(
        place, json=body | {"backend": "slow"} if what != "edits" else body | {"content": "No"}, headers=headers
    )
    if what != "continue":
        assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


def backend(misbehaving: Misbehaving, quirk: str, **fields: Any) -> dict[str, Any]:
    return {"name": quirk, "url": misbehaving.url, "model": quirk, "context_length": 8192, **fields}


@pytest.fixture
def serving(service_factory: Callable[..., LiveService]) -> Callable[..., httpx.Client]:
    def make(*backends: dict[str, Any], **environment: str) -> httpx.Client:
        service = service_factory(LLM_BACKENDS=json.dumps(backends), **environment)
        service.start()
        return httpx.Client(base_url=service.url, headers=service.headers("ana"), timeout=30)

    return make


def test_a_model_that_can_not_be_given_a_beginning_is_asked_in_words(
    serving: Callable[..., httpx.Client], misbehaving: Misbehaving
) -> None:
    with serving(backend(misbehaving, "slow", continues=False)) as client:
        path = conversation(client)
        turn, begun = stopped(client, path, deltas=3)
        more = stream(client, f"{turn}/continue")
        asked = misbehaving.state()["requests"][-1]["body"]["messages"]
        assert [message["role"] for message in asked[-2:]] == ["assistant", "user"]
        assert asked[-2]["content"] == begun.text
        # this server says its whole reply again, and the beginning that stood there is not said twice
        assert more.text == REPLY
        assert more.rebased == 1
        assert messages(client, path)[2]["content"] == REPLY


def test_an_interrupted_reply_keeps_its_words_and_goes_on(
    serving: Callable[..., httpx.Client], misbehaving: Misbehaving
) -> None:
    with serving(backend(misbehaving, "unloaded-mid-reply", continues=True)) as client:
        path = conversation(client)
        failed = say(client, path, "Hello")
        assert failed.kinds[-1] == "turn.failed"
        assert failed.text.startswith("word1 word2")
        turn = f"{path}/turns/{failed.data('turn.accepted')['turn_id']}"
        assert client.get(turn).json()["text"] == failed.text
        misbehaving.override("normal")
        more = stream(client, f"{turn}/continue")
        misbehaving.override("")
        assert more.kinds[-1] == "turn.completed"
        assert more.text.startswith(failed.text)
        [user, reply] = messages(client, path)
        assert (reply["content"], reply["continues"], reply["parent_id"]) == (more.text, None, user["id"])


def test_a_reply_cut_at_its_length_says_so(serving: Callable[..., httpx.Client], misbehaving: Misbehaving) -> None:
    with serving(backend(misbehaving, "normal", api="responses"), REPLY_MAX_TOKENS="16") as client:
        path = conversation(client)
        cut = say(client, path, "Hello")
        assert cut.data("turn.completed")["finish_reason"] == "length"
        assert messages(client, path)[1]["status"] == "cut"
        turn = f"{path}/turns/{cut.data('turn.accepted')['turn_id']}"
        assert stream(client, f"{turn}/continue").text == REPLY


def test_a_writer_that_was_held_up_goes_on_as_if_nothing_had_been(
    service_factory: Callable[..., LiveService], misbehaving: Misbehaving
) -> None:
    """Its lease ran out, but nobody else has the turn and it still reads from upstream: nothing is asked for twice."""
    service = service_factory(LLM_BACKENDS=json.dumps([backend(misbehaving, "slow", continues=False)]))
    process = service.start()
    with httpx.Client(base_url=service.url, headers=service.headers("ana"), timeout=30) as client:
        path = conversation(client)
        with (
            ThreadPoolExecutor(1) as pool,
            client.stream("POST", f"{path}/turns", json={"content": "Hello"}) as response,
        ):
            reading = pool.submit(read, response)
            while not misbehaving.state()["counts"]:
                time.sleep(0.02)
            time.sleep(0.2)
            process.kill(signal.SIGSTOP)
            time.sleep(3.2)  # two leases
            process.kill(signal.SIGCONT)
            bubble = reading.result()
        turn = client.get(f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}").json()
    assert bubble.text == REPLY
    assert bubble.rebased == 0
    assert "turn.taken_over" not in bubble.kinds
    assert turn["epoch"] == 1
    assert misbehaving.state()["counts"]["slow"] == 1
