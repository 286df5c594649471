"""Other people's clients at the OpenAI door: only the base URL and the key are changed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from service.openai.notices import MARK, without_notices
from tests.fixtures.service import LiveService


@pytest.fixture
def user() -> str:
    return f"user-{uuid4()}"


@pytest.fixture
def client(shared_service: LiveService, user: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{shared_service.url}/v1", api_key=shared_service.token(user), max_retries=0
    ) as opened:
        yield opened


@pytest.fixture
def http(shared_service: LiveService, user: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{shared_service.url}/v1", headers=shared_service.headers(user), timeout=30) as opened:
        yield opened


def spoken(http: httpx.Client, conversation_id: str) -> list[tuple[str, str]]:
    items = http.get(f"/conversations/{conversation_id}/messages").json()["items"]
    return [(item["role"], item["content"]) for item in items]


def conversations(http: httpx.Client) -> list[str]:
    return [item["id"] for item in http.get("/conversations").json()["items"]]


def test_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list().data]
    assert names == ["rapport", "rapport-mature", "rapport/scripted", "rapport/slow"]
    assert client.models.retrieve("rapport/slow").id == "rapport/slow"


def test_a_whole_reply(client: openai.OpenAI, http: httpx.Client) -> None:
    reply = client.chat.completions.create(model="rapport", messages=[{"role": "user", "content": "Hello"}])
    assert reply.object == "chat.completion"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0
    [conversation_id] = conversations(http)
    said = reply.choices[0].message.content or ""
    assert said.startswith(MARK)
    assert spoken(http, conversation_id) == [("user", "Hello"), ("assistant", without_notices(said))]


def test_a_streamed_reply(client: openai.OpenAI, http: httpx.Client) -> None:
    stream = client.chat.completions.create(
        model="rapport/slow",
        messages=[{"role": "user", "content": "Count"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert spoken(http, conversations(http)[0])[1] == ("assistant", without_notices(text))


def test_a_stream_as_bytes(http: httpx.Client) -> None:
    body = {"model": "rapport", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    with http.stream("POST", "/chat/completions", json=body) as response:
        raw = response.read().decode()
    data = [line.removeprefix("data: ") for line in raw.splitlines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    assert all("usage" not in json.loads(item) for item in data[:-1])


def test_a_resent_history_is_stored_once(client: openai.OpenAI, http: httpx.Client) -> None:
    history: list[ChatCompletionMessageParam] = [{"role": "system", "content": "Be brief."}]
    for text in ("My name is Ana.", "I live in Lisbon.", "What do you know?"):
        history.append({"role": "user", "content": text})
        reply = client.chat.completions.create(model="rapport", messages=history).choices[0].message.content
        history.append({"role": "assistant", "content": reply})
    [conversation_id] = conversations(http)
    said = [(str(item["role"]), str(item["content"])) for item in history[1:]]
    assert [MARK in text for _, text in said] == [False, True, False, False, False, False]
    assert spoken(http, conversation_id) == [(role, without_notices(text)) for role, text in said]


def test_asking_again_gives_another_reply_to_the_same_message(client: openai.OpenAI, http: httpx.Client) -> None:
    history: list[ChatCompletionMessageParam] = [{"role": "user", "content": "One"}]
    first = client.chat.completions.create(model="rapport", messages=history).choices[0].message.content
    history += [{"role": "assistant", "content": first}, {"role": "user", "content": "Two"}]
    for _ in range(2):
        client.chat.completions.create(model="rapport", messages=history)
    [conversation_id] = conversations(http)
    assert [role for role, _ in spoken(http, conversation_id)] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "assistant",
    ]


def test_a_retried_request_joins_its_reply(http: httpx.Client) -> None:
    body = {"model": "rapport/slow", "messages": [{"role": "user", "content": "Count"}], "stream": True}
    with http.stream("POST", "/chat/completions", json=body) as response:
        next(response.iter_lines())
    again = http.post("/chat/completions", json={**body, "stream": False}, headers={"x-stainless-retry-count": "1"})
    assert again.json()["choices"][0]["message"]["content"].endswith(" 80")
    [conversation_id] = conversations(http)
    assert len(spoken(http, conversation_id)) == 2


CRISIS = "I want to kill myself"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("shown", ["text", "extension"])
def test_what_a_user_must_be_told_is_told_once(http: httpx.Client, stream: bool, shown: str) -> None:
    body = {"model": "rapport", "messages": [{"role": "user", "content": CRISIS}], "stream": stream}
    answer = http.post("/chat/completions", json=body, headers={"X-Rapport-Notices": shown})
    if stream:
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
        chunks = [json.loads(line) for line in lines]
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        notices = [notice for chunk in chunks for notice in chunk.get("rapport", {}).get("notices", [])]
    else:
        text, notices = answer.json()["choices"][0]["message"]["content"], answer.json()["rapport"]["notices"]
    assert [notice["kind"] for notice in notices] == ["crisis_referral", "ai_disclosure"]
    [conversation_id] = conversations(http)
    said = spoken(http, conversation_id)[1][1]
    told = "".join(f"{MARK}{' '.join(notice['text'].split())}\n\n" for notice in notices)
    assert text == (told + said if shown == "text" else said)
    history = [*body["messages"], {"role": "assistant", "content": text}, {"role": "user", "content": "Thanks."}]  # type: ignore[misc]
    again = http.post("/chat/completions", json={"model": "rapport", "messages": history}).json()
    assert again["rapport"]["notices"] == []
    assert conversations(http) == [again["conversation_id"]] == [conversation_id]


def test_a_history_of_one_route_is_not_gone_on_with_on_another(shared_service: LiveService, http: httpx.Client) -> None:
    """What was said on the general route doesn't lead a request for another one there, nor the other way round."""
    history = [{"role": "user", "content": "Hello"}]
    first = http.post("/chat/completions", json={"model": "rapport", "messages": history}).json()
    history += [first["choices"][0]["message"], {"role": "user", "content": "And now?"}]
    refused = http.post("/chat/completions", json={"model": "rapport-mature", "messages": history})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "age_assurance_required")
    assert len(spoken(http, first["conversation_id"])) == 2


def test_an_unknown_history_is_remembered(client: openai.OpenAI, http: httpx.Client) -> None:
    history: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": "I have a cat."},
        {"role": "assistant", "content": "What is it called?"},
        {"role": "user", "content": "Totoro."},
    ]
    client.chat.completions.create(model="rapport", messages=history)
    [conversation_id] = conversations(http)
    assert [text for _, text in spoken(http, conversation_id)][:3] == ["I have a cat.", "What is it called?", "Totoro."]


def test_what_was_forgotten_is_not_taken_from_a_history(http: httpx.Client) -> None:
    """A client that goes on sending it, behind a beginning by which it is not recognised."""
    secret = "My secret place is Xanadu."

    def ask(*said: str) -> tuple[str, str]:
        sent = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
        answer = http.post("/chat/completions", json={"model": "rapport", "messages": sent}).json()
        return answer["conversation_id"], answer["choices"][0]["message"]["content"]

    conversation_id, reply = ask(secret)
    [said, _] = http.get(f"/conversations/{conversation_id}/messages").json()["items"]
    assert http.delete(f"/memories/{said['id']}").status_code == 200
    history = ["Another beginning", "Mm.", f" {secret}\n", reply, "And now?"]
    elsewhere, answered = ask(*history)
    assert elsewhere != conversation_id
    assert [text for _, text in spoken(http, elsewhere)] == [
        "Another beginning",
        "Mm.",
        "[forgotten]",
        without_notices(reply),
        "And now?",
        without_notices(answered),
    ]
    # it kept its place: the same history is recognised, and nothing of it is stored again
    assert ask(*history, answered, "And then?")[0] == elsewhere
    assert len(spoken(http, elsewhere)) == 8
    # said anew it is said
    again, _ = ask(secret)
    assert ("user", secret) in spoken(http, again)


@pytest.mark.parametrize("by", ["metadata", "header"])
def test_a_named_conversation(client: openai.OpenAI, http: httpx.Client, by: str) -> None:
    conversation_id = http.post("/conversations", json={}).json()["id"]
    named: dict[str, Any] = (
        {"metadata": {"conversation_id": conversation_id}}
        if by == "metadata"
        else {"extra_headers": {"X-Conversation-Id": conversation_id}}
    )
    for text in ("First", "Second"):
        client.chat.completions.create(model="rapport", messages=[{"role": "user", "content": text}], **named)
    assert [text for role, text in spoken(http, conversation_id) if role == "user"] == ["First", "Second"]


def test_200_000_tokens_of_history(http: httpx.Client) -> None:
    turn = [{"role": "user", "content": "word " * 2000}, {"role": "assistant", "content": "word " * 2000}]
    body = {"model": "rapport", "messages": [*(turn * 50), {"role": "user", "content": "And?"}]}
    answer = http.post("/chat/completions", json=body, timeout=60)
    assert answer.status_code in {200, 413}, answer.text[:300]
    if answer.status_code == 413:
        assert answer.json()["error"]["code"]
        assert conversations(http) == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "gpt-4", "messages": [{"role": "user", "content": "x"}]}, 404, "model_not_found"),
        ({"model": "rapport", "messages": []}, 422, "invalid_request"),
        ({"model": "rapport", "messages": [{"role": "assistant", "content": "x"}]}, 422, "last_message_not_user"),
        ({"model": "rapport", "messages": [{"role": "user", "content": "  "}]}, 422, "last_message_not_user"),
        ({"model": "rapport", "messages": [{"role": "user", "content": "a\x00b"}]}, 422, "invalid_request"),
        ({"model": "rapport", "messages": [{"role": "user", "content": "x"}], "n": 3}, 422, "invalid_request"),
        (
            {"model": "rapport", "messages": [{"role": "user", "content": "x"}], "metadata": {"conversation_id": 7}},
            422,
            "invalid_request",
        ),
        ({"model": "rapport-mature", "messages": [{"role": "user", "content": "x"}]}, 403, "age_assurance_required"),
    ],
)
def test_refusals_have_openais_shape(http: httpx.Client, body: dict[str, Any], status: int, code: str) -> None:
    answer = http.post("/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_errors_reach_the_client_as_its_own(client: openai.OpenAI, shared_service: LiveService) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "x"}])
    with (
        openai.OpenAI(base_url=f"{shared_service.url}/v1", api_key="nonsense", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_the_llm_command_line(shared_service: LiveService, user: str, tmp_path: Path) -> None:
    models = (
        f"- model_id: companion\n  model_name: rapport\n  api_base: {shared_service.url}/v1\n  api_key_name: rapport\n"
    )
    (tmp_path / "extra-openai-models.yaml").write_text(models)
    (tmp_path / "keys.json").write_text(json.dumps({"rapport": shared_service.token(user)}))
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path)}
    llm = Path(sys.executable).with_name("llm")
    for arguments in (["My name is Ana."], ["-c", "What is my name?"], ["-c", "--no-stream", "Bye"]):
        done = subprocess.run(
            [llm, "-m", "companion", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "scripted reply" in done.stdout
    with httpx.Client(base_url=f"{shared_service.url}/v1", headers=shared_service.headers(user)) as http:
        [conversation_id] = conversations(http)
        assert [text for role, text in spoken(http, conversation_id) if role == "user"] == [
            "My name is Ana.",
            "What is my name?",
            "Bye",
        ]
