"""What a model thinks is kept where somebody asks for it, beside the reply; and nothing is ever made of it."""

import json
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import httpx
import pytest
import redis

from service.chat.thoughts import MOST_CHARS, Thoughts, keeps
from tests.fixtures.service import LiveService
from tests.misbehaving.process import Misbehaving
from tests.misbehaving.script import REPLY, THOUGHT
from tests.service.chat.test_branches import stream
from tests.service.chat.test_continue import backend, stopped
from tests.service.chat.test_turns import conversation, messages, say
from tests.streams import Bubble, read

KEEP = {"reasoning": "keep"}
THOUGHT_BRIEFLY = "Let me think."
LONG = " ".join(f"number{number}" for number in range(80))
"""A reply of 4 s, in which there is time to kill somebody on a busy machine."""
SAY = f"say: {LONG}"

Serving = Callable[..., tuple[LiveService, httpx.Client]]


@pytest.fixture
def serving(service_factory: Callable[..., LiveService], misbehaving: Misbehaving) -> Serving:
    def make(*quirks: str, **environment: str) -> tuple[LiveService, httpx.Client]:
        backends = [backend(misbehaving, quirk, continues=quirk == "thinks-aloud") for quirk in quirks]
        service = service_factory(LLM_BACKENDS=json.dumps(backends), **environment)
        service.start()
        return service, httpx.Client(base_url=service.url, headers=service.headers("ana"), timeout=30)

    return make


def stored(client: httpx.Client, path: str) -> Any:
    """The last reply as the messages API shows it."""
    return messages(client, path)[-1]


@pytest.mark.parametrize("shape", ["reasoning-content", "reasoning-field", "think-tags", "think-tags-split"])
def test_it_is_streamed_and_kept_beside_the_reply(serving: Serving, shape: str) -> None:
    _, client = serving(shape)
    with client:
        path = conversation(client)
        bubble = say(client, path, "Hello", **KEEP)
        assert (bubble.text, bubble.reasoning) == (REPLY, THOUGHT_BRIEFLY)
        assert bubble.kinds.index("reply.reasoning") < bubble.kinds.index("reply.delta")
        reply = stored(client, path)
        assert (reply["content"], reply["reasoning"]) == (REPLY, THOUGHT_BRIEFLY)
        turn = client.get(f"{path}/turns/{reply['turn_id']}").json()
        assert (turn["text"], turn["reasoning"]) == (REPLY, THOUGHT_BRIEFLY)
        other = client.post(f"{path}/messages/{reply['id']}/alternatives", json={})
        assert "reply.reasoning" not in other.text
        assert stored(client, path)["reasoning"] is None


def test_a_thought_that_was_shown_as_the_reply_is_kept_as_what_it_was(serving: Serving) -> None:
    _, client = serving("muses-first")
    with client:
        path = conversation(client)
        bubble = say(client, path, "Hello", **KEEP)
        assert (bubble.text, stored(client, path)["content"]) == (REPLY, REPLY)
        assert bubble.reasoning == stored(client, path)["reasoning"]
        assert bubble.reasoning.strip() == ("Let me think. " * 8).strip()


def test_nothing_is_kept_that_nobody_asked_for(serving: Serving) -> None:
    _, client = serving("reasoning-content")
    with client:
        path = conversation(client)
        bubble = say(client, path, "Hello")
        assert "reply.reasoning" not in bubble.kinds
        assert stored(client, path)["reasoning"] is None
        door = {"model": "rapport", "messages": [{"role": "user", "content": "Hello there"}]}
        assert THOUGHT_BRIEFLY not in client.post("/v1/chat/completions", json=door).text


@pytest.mark.parametrize(
    ("policy", "wish", "kept"),
    [
        ("never", None, False),
        ("never", "drop", False),
        ("asked", None, False),
        ("asked", "keep", True),
        ("asked", "drop", False),
        ("always", None, True),
        ("always", "keep", True),
        ("always", "drop", False),
    ],
)
def test_what_the_deployment_allows_and_the_caller_wishes(policy: Any, wish: str | None, kept: bool) -> None:
    assert keeps(policy, wish) is kept


def test_the_deployment_may_keep_all(serving: Serving) -> None:
    _, always = serving("reasoning-content", KEEP_REASONING="always")
    with always:
        path = conversation(always)
        assert say(always, path, "Hello").reasoning == THOUGHT_BRIEFLY
        assert say(always, path, "Hello again", reasoning="drop").reasoning == ""
        assert [message["reasoning"] for message in messages(always, path)[1::2]] == [THOUGHT_BRIEFLY, None]


def test_the_deployment_may_keep_none(serving: Serving) -> None:
    _, never = serving("reasoning-content", KEEP_REASONING="never")
    with never:
        path = conversation(never)
        refused = never.post(f"{path}/turns", json={"content": "Hello", **KEEP})
        assert (refused.status_code, refused.json()["code"]) == (422, "reasoning_not_kept")
        assert messages(never, path) == []


def test_it_comes_while_the_model_still_thinks(serving: Serving) -> None:
    _, client = serving("thinks-aloud")
    with client:
        for _ in range(5):  # a machine that is held up for a second hears all of a thought at once
            bubble = say(client, conversation(client), "Hello", **KEEP)
            assert bubble.reasoning.strip() == THOUGHT
            assert bubble.text == REPLY
            if bubble.kinds[: bubble.kinds.index("reply.delta")].count("reply.reasoning") > 1:
                return
    raise AssertionError("No thought was told before it was whole.")


def test_what_a_model_thought_before_it_failed_is_not_the_next_ones(serving: Serving) -> None:
    _, client = serving("all-reasoning", "reasoning-content")
    with client:
        path = conversation(client)
        bubble = say(client, path, "Hello", **KEEP)
        assert (bubble.text, bubble.reasoning) == (REPLY, THOUGHT_BRIEFLY)
        assert stored(client, path)["reasoning"] == THOUGHT_BRIEFLY


@pytest.mark.parametrize("moment", ["thinking", "speaking"])
def test_it_survives_its_writer(serving: Serving, moment: str) -> None:
    service, survivor = serving("thinks-aloud")
    writer = service.start()
    with survivor, httpx.Client(base_url=writer.url, headers=service.headers("ana"), timeout=30) as client:
        path = conversation(client)
        with client.stream("POST", f"{path}/turns", json={"content": SAY, **KEEP}) as response:
            bubble = read(response, until="reply.reasoning" if moment == "thinking" else "reply.delta")
            writer.kill()
        turn = f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}"
        deadline = time.monotonic() + 60
        while not bubble.ended and time.monotonic() < deadline:
            with survivor.stream("GET", f"{turn}/stream", headers={"Last-Event-ID": bubble.last or ""}) as response:
                read(response, bubble)
        assert "turn.taken_over" in bubble.kinds
        assert (bubble.text, stored(survivor, path)["content"]) == (LONG, LONG)
        assert bubble.reasoning == stored(survivor, path)["reasoning"]
        assert bubble.reasoning.strip() == THOUGHT


def test_a_wiped_log_takes_none_of_it(serving: Serving, redis_url: str) -> None:
    _, client = serving("thinks-aloud")
    with client:
        path = conversation(client)
        with client.stream("POST", f"{path}/turns", json={"content": SAY, **KEEP}) as response:
            lines = response.iter_lines()
            seen = next(line for line in lines if line == "event: reply.delta")
            redis.Redis.from_url(redis_url).flushdb()
            rest = "\n".join([seen, *lines])
        assert '"reason":"log_lost"' in rest
        turn = f"{path}/turns/{stored(client, path)['turn_id']}"
        logged = follow(client, turn)
        redis.Redis.from_url(redis_url).flushdb()
        told = follow(client, turn)
        for bubble in (logged, told):
            assert (bubble.text, bubble.reasoning.strip()) == (LONG, THOUGHT)
        assert stored(client, path)["reasoning"].strip() == THOUGHT


def test_a_stopped_reply_has_its_own_and_what_goes_on_with_it_too(serving: Serving) -> None:
    _, client = serving("thinks-aloud")
    with client:
        path = conversation(client)
        turn, begun = stopped(client, path, deltas=2, content=SAY, **KEEP)
        more = stream(client, f"{turn}/continue")
        assert more.text == LONG
        [_, first, second] = messages(client, path)
        assert str(first["reasoning"]).strip() == begun.reasoning.strip() == THOUGHT
        # whoever is given a beginning doesn't think again
        assert second["reasoning"] is None


def test_nothing_is_made_of_it(serving: Serving, misbehaving: Misbehaving, redis_url: str, broker_url: str) -> None:
    service, client = serving("thinks-aloud", DRAMATIQ_BROKER_URL=broker_url)
    service.start("worker")
    with client:
        path = conversation(client)
        say(client, path, "My dog is called Biscuit.", **KEEP)
        say(client, path, "What is my dog called?", **KEEP)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(episodes(client)) < 4:
            time.sleep(0.3)
        assert len(episodes(client)) == 4
        asked = json.dumps(misbehaving.state()["requests"])
        assert "Biscuit" in asked
        assert "thought1" not in asked
        for found in ("/v1/memories?text=thought1", "/v1/memories?layer=fact", "/v1/memories?layer=episode"):
            assert "thought1" not in client.get(found).text
        search = client.post("/v1/memories/search", json={"query": "thought1 thought2"})
        assert "thought1" not in search.text
        exported = client.get("/v1/export").json()
        said = [message for item in exported["conversations"] for message in item["messages"]]
        assert [message["reasoning"].strip() for message in said] == ["", THOUGHT, "", THOUGHT]
        assert "Thought: thought1" in client.get("/v1/export?format=markdown").text
        assert readable(redis_url) == []
        fact = client.post("/v1/memories", json={"text": "My cat is called Tom"})
        assert fact.status_code == 201
        first = messages(client, path)[0]
        forgotten = client.delete(f"/v1/memories/{first['id']}")
        assert forgotten.status_code == 200, forgotten.text
        assert [message["reasoning"] for message in messages(client, path)] == [None] * 4


def episodes(client: httpx.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/v1/memories?layer=episode").json()["items"]
    return found


def follow(client: httpx.Client, turn: str) -> Bubble:
    with client.stream("GET", f"{turn}/stream") as response:
        return read(response)


def readable(redis_url: str) -> list[bytes]:
    cache = redis.Redis.from_url(redis_url)
    found: list[bytes] = []
    for key in cache.scan_iter():
        value = cache.xrange(key) if cache.type(key) == b"stream" else cache.dump(key)
        if "thought1" in repr(value):
            found.append(key)
    return found


async def test_it_is_sealed_as_the_reply_is(serving: Serving, superuser_url: str) -> None:
    _, client = serving("thinks-aloud")
    with client:
        path = conversation(client)
        say(client, path, "Hello", **KEEP)
    connection = await asyncpg.connect(superuser_url)
    try:
        rows = await connection.fetch("SELECT reasoning FROM messages WHERE role = 'assistant'")
        assert [row["reasoning"][:4] for row in rows] == ["\x01s1."]
    finally:
        await connection.close()


def test_the_openai_door_tells_it_by_its_usual_name(serving: Serving) -> None:
    _, client = serving("reasoning-content")
    with client:
        body = {"model": "rapport", "messages": [{"role": "user", "content": "Hello"}], "include_reasoning": True}
        headers = {"X-Rapport-Notices": "extension"}
        message = client.post("/v1/chat/completions", json=body, headers=headers).json()["choices"][0]["message"]
        assert (message["content"], message["reasoning_content"]) == (REPLY, THOUGHT_BRIEFLY)
        body["messages"] = [{"role": "user", "content": "Hello there"}]
        text = client.post("/v1/chat/completions", json={**body, "stream": True}, headers=headers).text
        deltas = [
            chunk["choices"][0]["delta"]
            for line in text.splitlines()
            if line.startswith("data: {") and (chunk := json.loads(line[6:]))["choices"]
        ]
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == THOUGHT_BRIEFLY
        assert "".join(delta.get("content", "") for delta in deltas) == REPLY


def test_it_is_bounded() -> None:
    thoughts = Thoughts(kept=True)
    shown = Bubble()
    for _ in range(100):
        thoughts.add("a thought " * 100)
        shown.reasoning += thoughts.told()
    assert len(thoughts.text) == len(shown.reasoning) == MOST_CHARS


def test_who_wants_none_keeps_none() -> None:
    thoughts = Thoughts(kept=False)
    thoughts.begin("from before")
    thoughts.add("something")
    assert not thoughts.pending
    assert thoughts.text == ""
