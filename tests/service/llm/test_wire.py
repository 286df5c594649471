"""What is sent: per family of models, and never what a server refused."""

from dataclasses import replace
from typing import Any

import pytest

from service.chat.sampling import sampled
from service.llm.dialect import Dialect, dialect_for, learn
from service.llm.errors import CannotContinueError
from service.llm.failures import Complaint
from service.llm.ports import ChatMessage, ChatRequest
from service.llm.wire import body_for

REQUEST = ChatRequest(
    messages=(ChatMessage("system", "Be kind."), ChatMessage("user", "Hello")),
    max_tokens=9,
    temperature=0.5,
    stop=("\n",),
)


@pytest.mark.parametrize(
    ("model", "openai", "limit", "temperature", "role"),
    [
        ("gpt-4o-mini", True, "max_completion_tokens", True, "system"),
        ("gpt-5-mini", True, "max_completion_tokens", False, "developer"),
        ("gpt-5-chat-latest", True, "max_completion_tokens", True, "system"),
        ("o3", True, "max_completion_tokens", False, "developer"),
        ("openai/gpt-5", False, "max_completion_tokens", False, "system"),
        ("gpt-oss-20b", False, "max_tokens", True, "system"),
        ("qwen2.5-7b-instruct", False, "max_tokens", True, "system"),
        ("olmo-2", False, "max_tokens", True, "system"),
    ],
)
def test_parameters_and_roles_follow_the_family(
    model: str, openai: bool, limit: str, temperature: bool, role: str
) -> None:
    body = body_for(REQUEST, model, dialect_for(model, openai=openai))
    assert body[limit] == 9
    assert len({"max_tokens", "max_completion_tokens"} & body.keys()) == 1
    assert ("temperature" in body) == temperature
    assert ("stop" in body) == temperature
    assert body["messages"][0]["role"] == role


def test_openai_is_never_asked_to_continue() -> None:
    begun = ChatRequest(messages=REQUEST.messages, prefix="Hi")
    with pytest.raises(CannotContinueError):
        body_for(begun, "gpt-4o", dialect_for("gpt-4o", openai=True))


@pytest.mark.parametrize(
    ("prefill", "last", "more"),
    [
        ("trailing", {"role": "assistant", "content": "Hi"}, {}),
        (
            "vllm",
            {"role": "assistant", "content": "Hi"},
            {"add_generation_prompt": False, "continue_final_message": True},
        ),
        ("flag", {"role": "assistant", "content": "Hi", "prefix": True}, {}),
    ],
)
def test_a_begun_reply_is_the_last_message(prefill: Any, last: dict[str, Any], more: dict[str, Any]) -> None:
    begun = ChatRequest(messages=REQUEST.messages, prefix="Hi ")
    body = body_for(begun, "m", Dialect(prefill=prefill))
    assert body["messages"][-1] == last
    assert more.items() <= body.items()


def test_what_the_operator_adds_is_sent_until_it_is_refused() -> None:
    extra = {"reasoning_effort": "low", "top_k": 5}
    body = body_for(REQUEST, "m", Dialect(), extra=extra)
    assert (body["reasoning_effort"], body["top_k"]) == ("low", 5)
    learnt = learn(Dialect(), Complaint("Unrecognized request argument supplied: top_k"), body)
    assert learnt is not None
    assert extra.keys() & body_for(REQUEST, "m", learnt, extra=extra).keys() == {"reasoning_effort"}


@pytest.mark.parametrize(
    "message",
    [
        "The server is on fire",
        "messages: content is required",
        "max_tokens must be positive",
        "You are not allowed to do that",
        "Unsupported value: 'model'",
    ],
)
def test_a_refusal_that_says_nothing_of_the_form_teaches_nothing(message: str) -> None:
    body = body_for(REQUEST, "m", Dialect())
    assert learn(Dialect(), Complaint(message), body) is None


def test_a_limit_is_never_left_out() -> None:
    body = body_for(REQUEST, "m", Dialect())
    assert learn(Dialect(), Complaint("Unknown parameter: 'max_tokens'"), body) is None


WISHES = {"top_p": 0.9, "seed": 7, "presence_penalty": 0.5, "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1}


@pytest.mark.parametrize(
    ("dialect", "sent"),
    [
        (dialect_for("qwen2.5-7b-instruct", openai=False), set(WISHES)),
        (dialect_for("gpt-4o-mini", openai=True), {"top_p", "seed", "presence_penalty"}),
        (dialect_for("gpt-5-mini", openai=True), {"seed"}),
        (dialect_for("openai/gpt-5", openai=False), {"seed"}),
        (Dialect(dropped=frozenset({"seed", "min_p"})), {"top_p", "presence_penalty", "top_k", "repeat_penalty"}),
    ],
)
def test_sampling_is_sent_where_the_family_takes_it(dialect: Dialect, sent: set[str]) -> None:
    body = body_for(replace(REQUEST, sampling=WISHES), "m", dialect)
    assert body.keys() & WISHES.keys() == sent


def test_vllm_has_another_word_for_the_repeat_penalty() -> None:
    dialect = Dialect(repeat_penalty="repetition_penalty")
    body = body_for(replace(REQUEST, sampling={"repeat_penalty": 1.1}), "m", dialect)
    assert (body.get("repetition_penalty"), "repeat_penalty" in body) == (1.1, False)


def test_wishes_shorten_a_reply_and_never_lengthen_it() -> None:
    assert sampled(REQUEST, {}, shown=0) is REQUEST
    assert sampled(REQUEST, {"max_tokens": 5}, shown=0).max_tokens == 5
    assert sampled(REQUEST, {"max_tokens": 500}, shown=0).max_tokens == 9
    assert sampled(REQUEST, {"max_tokens": 5}, shown=3).max_tokens == 2
    assert sampled(REQUEST, {"max_tokens": 5}, shown=30).max_tokens == 1
    wished = sampled(REQUEST, {"temperature": 0.0, "stop": ["."], "seed": 1}, shown=0)
    assert (wished.temperature, wished.stop, wished.sampling) == (0.0, (".",), {"seed": 1})
