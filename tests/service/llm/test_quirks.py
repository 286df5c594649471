"""One test for each way in which model servers are known to misbehave; tests/misbehaving does it by name."""

import asyncio
from dataclasses import replace

import pytest

from service.llm.errors import (
    BackendBusyError,
    BackendError,
    BackendInterruptedError,
    BackendRefusedError,
    BackendTimeoutError,
    BackendUnavailableError,
    CannotContinueError,
    ContextOverflowError,
    EmptyReplyError,
    FilteredError,
    KeyRefusedError,
    ModelNotFoundError,
    NoCreditError,
)
from service.llm.ports import ChatMessage, ChatRequest
from tests.misbehaving.process import Misbehaving
from tests.misbehaving.script import REPLY, THOUGHT
from tests.service.llm.conftest import QUICK, MakeBackend
from tests.service.llm.reading import HELLO, read, read_until_error

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}
CONVERSATION = ChatRequest(
    messages=(
        ChatMessage("system", "Be kind."),
        ChatMessage("user", "Hello"),
        ChatMessage("assistant", "Hi."),
        ChatMessage("assistant", "How are you?"),
        ChatMessage("assistant", ""),
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "Well."),
    ),
    max_tokens=50,
    temperature=0.2,
    user_ref="u1",
)


@pytest.mark.parametrize(
    "quirk",
    [
        "developer-role-refused",
        "system-role-refused",
        "system-must-be-first",
        "consecutive-assistant-refused",
        "empty-assistant-refused",
        "max-tokens-refused",
        "temperature-refused",
        "stream-options-refused",
        "user-refused",
        "everything-refused",
    ],
)
async def test_what_a_server_refuses_is_learnt_once(
    quirk: str, backend_for: MakeBackend, misbehaving: Misbehaving
) -> None:
    backend = backend_for(quirk)
    text, _, last = await read(backend.stream(CONVERSATION))
    assert text == REPLY
    assert last.finish_reason == "stop"
    asked = misbehaving.state()["counts"][quirk]
    await read(backend.stream(CONVERSATION))
    assert misbehaving.state()["counts"][quirk] == asked + 1


async def test_system_text_survives_a_template_that_refuses_the_role(
    backend_for: MakeBackend, misbehaving: Misbehaving
) -> None:
    await read(backend_for("system-role-refused").stream(CONVERSATION))
    sent = misbehaving.state()["requests"][-1]["body"]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert sent[0]["content"] == "Be kind.\n\nBe brief.\n\nHello"


@pytest.mark.parametrize("quirk", ["json-object-refused", "json-schema-refused", "structured-refused", "normal"])
async def test_structured_answers_come_in_the_form_a_server_takes(quirk: str, backend_for: MakeBackend) -> None:
    backend = backend_for(quirk)
    if quirk == "json-object-refused":
        backend.use_dialect(quirk, replace(backend.dialect(quirk), structured="json_object"))
    text, _, last = await read(backend.stream(replace(HELLO, schema=SCHEMA)))
    assert text
    assert last.finish_reason == "stop"


@pytest.mark.parametrize(
    ("quirk", "error", "limit"),
    [
        ("overflow-llamacpp", ContextOverflowError, 4096),
        ("overflow-lmstudio", ContextOverflowError, 4096),
        ("overflow-lmstudio-mlx", ContextOverflowError, 4096),
        ("overflow-openai", ContextOverflowError, 4096),
        ("overflow-openai-responses", ContextOverflowError, 4096),
        ("overflow-vllm", ContextOverflowError, 4096),
        ("overflow-in-stream", ContextOverflowError, 4096),
        ("model-not-found", ModelNotFoundError, None),
        ("model-not-found-ollama", ModelNotFoundError, None),
        ("no-models-loaded", ModelNotFoundError, None),
        ("wrong-endpoint", BackendRefusedError, None),
        ("key-refused", KeyRefusedError, None),
        ("no-credit", NoCreditError, None),
        ("moderated", FilteredError, None),
        ("prompt-filtered", FilteredError, None),
        ("429", BackendBusyError, None),
        ("500", BackendUnavailableError, None),
        ("502-html", BackendUnavailableError, None),
        ("503", BackendBusyError, None),
        ("529", BackendBusyError, None),
        ("html-200", BackendUnavailableError, None),
        ("redirect", BackendRefusedError, None),
        ("error-in-200", BackendInterruptedError, None),
        ("string-error-in-200", BackendInterruptedError, None),
        ("empty-body", BackendUnavailableError, None),
        ("died-before-first-token", BackendUnavailableError, None),
        ("all-reasoning", EmptyReplyError, None),
        ("think-never-closed", EmptyReplyError, None),
        ("empty-length", EmptyReplyError, None),
        ("empty-stop", EmptyReplyError, None),
        ("content-filter-empty", EmptyReplyError, None),
    ],
)
async def test_a_failure_before_the_first_token_has_its_own_error(
    quirk: str, error: type[BackendError], limit: int | None, backend_for: MakeBackend
) -> None:
    with pytest.raises(error) as raised:
        await read(backend_for(quirk).stream(HELLO))
    assert type(raised.value) is error
    assert raised.value.limit == limit
    assert raised.value.backend == "odd"
    assert "<" not in str(raised.value)
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize(
    ("quirk", "finish_reason"),
    [("empty-length", "length"), ("all-reasoning", "stop"), ("content-filter-empty", "content_filter")],
)
async def test_an_empty_reply_says_how_it_ended(quirk: str, finish_reason: str, backend_for: MakeBackend) -> None:
    with pytest.raises(EmptyReplyError) as raised:
        await read(backend_for(quirk).stream(HELLO))
    assert raised.value.finish_reason == finish_reason


@pytest.mark.parametrize(
    ("quirk", "wait"), [("429-seconds", 7.0), ("429-date", 3600.0), ("429-ms", 1.5), ("429", None)]
)
async def test_retry_after_is_read_in_every_form(quirk: str, wait: float | None, backend_for: MakeBackend) -> None:
    with pytest.raises(BackendBusyError) as raised:
        await read(backend_for(quirk).stream(HELLO))
    assert raised.value.retry_after == wait


@pytest.mark.parametrize(
    ("quirk", "said"),
    [
        ("died-mid-character", "word1 word2 "),
        ("died-mid-event", "word1 word2 "),
        ("no-finish", "word1 word2"),
        ("unloaded-mid-reply", "word1 word2 "),
        ("compute-error", "word1 word2 "),
        ("error-event", "word1 word2 "),
        ("aborted", "word1 word2 "),
        ("garbage", "word1 word2 "),
    ],
)
async def test_a_reply_that_breaks_off_is_interrupted(quirk: str, said: str, backend_for: MakeBackend) -> None:
    heard, error = await read_until_error(backend_for(quirk).stream(HELLO))
    assert type(error) is BackendInterruptedError
    assert "".join(delta.text for delta in heard) == said
    assert all(delta.finish_reason is None for delta in heard)


@pytest.mark.parametrize(
    "quirk",
    [
        "normal",
        "fast",
        "no-usage",
        "zero-usage",
        "usage-with-finish",
        "not-streamed",
        "crlf",
        "no-done",
        "overflow-silent",
    ],
)
async def test_a_whole_reply_is_read_whatever_its_form(quirk: str, backend_for: MakeBackend) -> None:
    text, reasoning, last = await read(backend_for(quirk).stream(HELLO))
    assert text == REPLY
    assert reasoning == ""
    assert last.finish_reason == "stop"
    told = quirk in {"normal", "fast", "usage-with-finish", "not-streamed", "overflow-silent"}
    assert (last.usage is not None) == told


async def test_a_model_that_is_evicted_by_another_call_interrupts_its_reply(backend_for: MakeBackend) -> None:
    """lmstudio#671, #1796."""
    backend = backend_for("jit-evict")
    reading = asyncio.create_task(read_until_error(backend.stream(HELLO)))
    await asyncio.sleep(0.15)
    await backend.post("/embeddings", {"model": "text-embedding-asleep", "input": ["hello"]})
    heard, error = await reading
    assert type(error) is BackendInterruptedError
    assert heard


async def test_characters_cut_between_reads_are_whole(backend_for: MakeBackend) -> None:
    text, _, _ = await read(backend_for("bytewise").stream(HELLO))
    assert text == "Grüße 👩‍👩‍👧 " + REPLY


@pytest.mark.parametrize(
    ("quirk", "thought"),
    [
        ("reasoning-content", "Let me think."),
        ("reasoning-field", "Let me think."),
        ("think-tags", "Let me think."),
        ("think-tags-split", "Let me think."),
        ("list-content", "Let me think."),
        ("thinks-aloud", f"{THOUGHT} "),
    ],
)
async def test_reasoning_is_kept_apart_from_the_reply(quirk: str, thought: str, backend_for: MakeBackend) -> None:
    text, reasoning, last = await read(backend_for(quirk).stream(HELLO))
    assert text == REPLY
    assert reasoning == thought
    assert last.finish_reason == "stop"


async def test_a_nul_is_left_out_of_what_a_model_says(backend_for: MakeBackend) -> None:
    text, reasoning, last = await read(backend_for("nul-characters").stream(HELLO))
    assert (text, reasoning, last.finish_reason) == (REPLY, "Let me think.", "stop")


async def test_a_thought_that_nobody_opened_is_never_shown(backend_for: MakeBackend) -> None:
    """Of a model whose name says that it may think: its first text waits until that is known, the second doesn't."""
    backend = backend_for("think-never-opened")
    for _ in range(2):
        assert (await read(backend.stream(HELLO)))[:2] == (REPLY, "Let me think.")
        assert backend.dialect("think-never-opened").opens_thinking


async def test_a_thought_that_nobody_expected_is_taken_back(backend_for: MakeBackend) -> None:
    backend = backend_for("muses-first")
    deltas = [delta async for delta in backend.stream(HELLO)]
    at = next(number for number, delta in enumerate(deltas) if delta.retract)
    assert "think" in "".join(delta.text for delta in deltas[:at])
    assert "".join(delta.text for delta in deltas[at:]) == REPLY
    again = [delta async for delta in backend.stream(HELLO)]
    assert not any(delta.retract for delta in again)
    assert "".join(delta.text for delta in again) == REPLY


async def test_a_model_that_thinks_no_more_is_believed_at_once(backend_for: MakeBackend) -> None:
    backend = backend_for("normal")
    backend.use_dialect("normal", replace(backend.dialect("normal"), opens_thinking=True))
    for _ in range(2):
        assert (await read(backend.stream(HELLO)))[0] == REPLY
    assert backend.dialect("normal").opens_thinking is False


@pytest.mark.parametrize("quirk", ["slow-first-byte", "slow-first-token", "pings-only"])
async def test_no_first_token_in_time_is_a_timeout(quirk: str, backend_for: MakeBackend) -> None:
    started = asyncio.get_running_loop().time()
    with pytest.raises(BackendTimeoutError):
        await read(backend_for(quirk, timeouts=QUICK).stream(HELLO))
    assert 0.4 < asyncio.get_running_loop().time() - started < 3


async def test_silence_in_the_middle_of_a_reply_is_a_timeout(backend_for: MakeBackend) -> None:
    heard, error = await read_until_error(backend_for("stall-mid-stream", timeouts=QUICK).stream(HELLO))
    assert type(error) is BackendTimeoutError
    assert "".join(delta.text for delta in heard) == "word1 word2"


async def test_a_finished_stream_that_stays_open_is_not_waited_for(backend_for: MakeBackend) -> None:
    started = asyncio.get_running_loop().time()
    text, _, last = await read(backend_for("never-closes").stream(HELLO))
    assert (text, last.finish_reason) == (REPLY, "stop")
    assert asyncio.get_running_loop().time() - started < 5


async def test_an_endless_line_is_cut_off(backend_for: MakeBackend) -> None:
    with pytest.raises(BackendInterruptedError):
        await read(backend_for("endless-line").stream(HELLO))


async def test_closing_the_iterator_closes_the_upstream(backend_for: MakeBackend, misbehaving: Misbehaving) -> None:
    stream = backend_for("slow").stream(HELLO)
    async for delta in stream:
        if delta.text:
            break
    await stream.aclose()
    for _ in range(50):
        if misbehaving.state()["closed_early"].get("slow"):
            return
        await asyncio.sleep(0.02)
    pytest.fail("the server went on writing")


async def test_a_cancelled_reader_closes_the_upstream(backend_for: MakeBackend, misbehaving: Misbehaving) -> None:
    task = asyncio.create_task(read(backend_for("stall-mid-stream").stream(HELLO)))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(50):
        if misbehaving.state()["closed_early"].get("stall-mid-stream"):
            return
        await asyncio.sleep(0.02)
    pytest.fail("the server went on waiting")


BEGUN = replace(HELLO, prefix="word1 word2 word3 word4 word5 ")


async def test_a_begun_reply_is_continued(backend_for: MakeBackend) -> None:
    text, _, _ = await read(backend_for("normal").stream(BEGUN))
    assert BEGUN.prefix + text == REPLY


async def test_a_doubled_prefix_is_cut_away(backend_for: MakeBackend) -> None:
    """lmstudio#2041, #2058."""
    text, _, _ = await read(backend_for("doubled-prefill").stream(BEGUN))
    assert (BEGUN.prefix + text.lstrip()) == REPLY


@pytest.mark.parametrize("quirk", ["prefill-refused", "restarted-prefill"])
async def test_a_reply_that_cannot_be_continued_says_so_before_its_first_token(
    quirk: str, backend_for: MakeBackend
) -> None:
    heard, error = await read_until_error(backend_for(quirk).stream(BEGUN))
    assert type(error) is CannotContinueError
    assert heard == []


async def test_a_server_that_is_not_there_is_unavailable(backend_for: MakeBackend) -> None:
    with pytest.raises(BackendUnavailableError):
        await read(backend_for(url="http://127.0.0.1:9/v1").stream(HELLO))


async def test_without_a_model_the_loaded_one_answers(backend_for: MakeBackend, misbehaving: Misbehaving) -> None:
    backend = backend_for("")
    await read(backend.stream(HELLO))
    assert backend.model == "normal"
    assert misbehaving.state()["requests"][-1]["body"]["model"] == "normal"


async def test_a_kept_connection_that_died_is_no_failure(backend_for: MakeBackend, misbehaving: Misbehaving) -> None:
    backend = backend_for("stale-connection")
    for _ in range(3):
        assert (await read(backend.stream(HELLO)))[0] == REPLY
    assert misbehaving.state()["counts"]["stale-connection"] == 5
