"""Streams that go wrong on their way."""

import asyncio

from aiohttp import web

from tests.misbehaving.calls import Call, behave, quirk
from tests.misbehaving.script import DONE, THOUGHT, chunk, event, usage_of

FOREVER = 3600.0


@quirk("normal", "OpenAI")
async def normal(call: Call) -> web.StreamResponse:
    return await behave(call)


@quirk("fast", "every word in one write")
async def fast(call: Call) -> web.StreamResponse:
    response = await call.open()
    words = call.reply().split(" ")
    await response.write(
        b"".join(chunk(call.model, content=word + " " * (at < len(words) - 1)) for at, word in enumerate(words))
    )
    return await call.finish(response)


@quirk("slow", "a word each 50 ms")
async def slow(call: Call) -> web.StreamResponse:
    return await behave(call, pause=0.05)


@quirk("nul-characters", "poliloom#138, litellm#24310: NULs where half of a character was lost")
async def nul_characters(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.send(
        response, chunk(call.model, reasoning_content="Let me\x00 "), chunk(call.model, reasoning="\x00think.")
    )
    await call.send(response, chunk(call.model, content="\x00"))
    await call.words(response, call.reply().replace("w", "w\x00"), pause=0.1)
    return await call.finish(response)


@quirk("no-usage", "LM Studio before 0.3.18, Ollama")
async def no_usage(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, call.reply())
    return await call.finish(response, usage=False)


@quirk("zero-usage", "lmstudio#1602")
async def zero_usage(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, call.reply())
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    await response.write(chunk(call.model, finish="stop", usage=zero) + DONE)
    return response


@quirk("usage-with-finish", "llama.cpp, Groq: usage beside the finish reason")
async def usage_with_finish(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, call.reply())
    await response.write(chunk(call.model, finish="stop", usage=usage_of(call.messages, 20)) + DONE)
    return response


@quirk("reasoning-content", "LM Studio with separate reasoning, DeepSeek")
async def reasoning_content(call: Call) -> web.StreamResponse:
    response = await call.open()
    for word in ("Let me ", "think."):
        await call.send(response, chunk(call.model, reasoning_content=word))
    await call.words(response, call.reply())
    return await call.finish(response)


@quirk("thinks-aloud", "any reasoning model: seconds of thought before the first word")
async def thinks_aloud(call: Call) -> web.StreamResponse:
    response = await call.open()
    for word in () if call.prefix else THOUGHT.split(" "):
        await call.send(response, chunk(call.model, reasoning_content=f"{word} "), pause=0.03)
    await call.words(response, call.reply(), pause=0.05)
    return await call.finish(response)


@quirk("reasoning-field", "lmstudio#894: gpt-oss; OpenRouter")
async def reasoning_field(call: Call) -> web.StreamResponse:
    response = await call.open()
    for word in ("Let me ", "think."):
        await call.send(response, chunk(call.model, content="", reasoning=word))
    await call.words(response, call.reply())
    return await call.finish(response)


@quirk("think-tags", "lmstudio#1569")
async def think_tags(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, "<think>Let me think.</think>\n\n" + call.reply())
    return await call.finish(response)


@quirk("think-tags-split", "every tokeniser that has no token for the tag")
async def think_tags_split(call: Call) -> web.StreamResponse:
    response = await call.open()
    text = "<think>Let me think.</think>\n\n" + call.reply()
    for at in range(0, len(text), 3):
        await call.send(response, chunk(call.model, content=text[at : at + 3]))
    return await call.finish(response)


@quirk("think-never-opened", "DeepSeek-R1 templates: only the closing tag is ever sent")
async def think_never_opened(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, "Let me think.</think>\n\n" + call.reply())
    return await call.finish(response)


@quirk("muses-first", "the same from a model whose name doesn't tell")
async def muses_first(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, "Let me think. " * 8 + "</think>\n\n" + call.reply(), pause=0.02)
    return await call.finish(response)


@quirk("think-never-closed", "a length limit reached while thinking")
async def think_never_closed(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, "<think>Let me think about " + call.reply())
    return await call.finish(response, finish="length")


@quirk("all-reasoning", "lmstudio#378, #1602")
async def all_reasoning(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.send(response, chunk(call.model, reasoning_content=call.reply()))
    return await call.finish(response)


@quirk("empty-length", "reasoning models: the budget went into thinking")
async def empty_length(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.send(response, chunk(call.model, content=""))
    return await call.finish(response, finish="length")


@quirk("empty-stop", "lmstudio#1602: no text, finish reason stop, a usage of zeros")
async def empty_stop(call: Call) -> web.StreamResponse:
    response = await call.open()
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    await response.write(chunk(call.model, finish="stop", usage=zero) + DONE)
    return response


@quirk("content-filter-empty", "OpenAI, Azure: honeychat")
async def content_filter(call: Call) -> web.StreamResponse:
    return await call.finish(await call.open(), finish="content_filter")


@quirk("list-content", "Mistral: content as typed parts")
async def list_content(call: Call) -> web.StreamResponse:
    response = await call.open()
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Let me think."}]}
    await response.write(event({"choices": [{"index": 0, "delta": {"content": [thinking]}}]}))
    await response.write(
        event({"choices": [{"index": 0, "delta": {"content": [{"type": "text", "text": call.reply()}]}}]})
    )
    return await call.finish(response)


@quirk("not-streamed", "servers that ignore stream: true")
async def not_streamed(call: Call) -> web.StreamResponse:
    call.body["stream"] = False
    return await behave(call)


@quirk("slow-first-byte", "lmstudio#1143: minutes of prompt processing")
async def slow_first_byte(call: Call) -> web.StreamResponse:
    await asyncio.sleep(FOREVER)
    return await behave(call)


@quirk("slow-first-token", "headers at once, then nothing")
async def slow_first_token(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.send(response, chunk(call.model, content="", role="assistant"))
    await asyncio.sleep(FOREVER)
    return response


@quirk("pings-only", "OpenRouter: comments while it waits")
async def pings_only(call: Call) -> web.StreamResponse:
    response = await call.open()
    while True:
        await call.send(response, b": PROCESSING\n\n", pause=0.02)


@quirk("stall-mid-stream", "lmstudio#1143")
async def stall(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, "word1 word2")
    await asyncio.sleep(FOREVER)
    return response


@quirk("bytewise", "the smallest reads: inside characters, inside events")
async def bytewise(call: Call) -> web.StreamResponse:
    response = await call.open()
    stream = chunk(call.model, content="Grüße 👩‍👩‍👧 ") + chunk(call.model, content=call.reply())
    for at in range(len(stream)):
        await call.send(response, stream[at : at + 1])
    return await call.finish(response)


@quirk("crlf", "IIS-like proxies")
async def crlf(call: Call) -> web.StreamResponse:
    response = await call.open()
    for part in (b": hello\n\n", chunk(call.model, content=call.reply()), chunk(call.model, finish="stop"), DONE):
        await call.send(response, part.replace(b"\n", b"\r\n"))
    return response


@quirk("died-mid-character", "a crash between two bytes of an emoji")
async def died_mid_character(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, "word1 word2 ")
    await call.send(response, chunk(call.model, content="👩‍👩‍👧")[:-40], pause=0.05)
    call.cut()
    return response


@quirk("died-mid-event", "a crash inside an event")
async def died_mid_event(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, "word1 word2 ")
    await response.write(chunk(call.model, content="word3")[:30])
    await response.write_eof()
    return response


@quirk("died-before-first-token", "lmstudio#1620: the overflow that crashes the server")
async def died_at_once(call: Call) -> web.StreamResponse:
    call.cut()
    return web.Response()


@quirk("no-finish", "a proxy that gives up politely")
async def no_finish(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, "word1 word2")
    await call.send(response, DONE)
    return response


@quirk("no-done", "servers that end without [DONE]")
async def no_done(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, call.reply())
    await response.write(chunk(call.model, finish="stop").rstrip())
    return response


@quirk("never-closes", "a proxy that forgets to hang up")
async def never_closes(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, call.reply())
    await call.send(response, chunk(call.model, finish="stop"))
    await asyncio.sleep(FOREVER)
    return response


@quirk("unloaded-mid-reply", "lmstudio#671, #1796: auto-evict")
async def unloaded(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, "word1 word2 ")
    await response.write(event({"error": "The model has been unloaded or crashed. (Exit code: null)"}))
    return response


@quirk("compute-error", "goai#110")
async def compute_error(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, "word1 word2 ")
    await response.write(event({"error": {"message": "Compute error."}, "message": "Compute error."}))
    return response


@quirk("error-event", "LM Studio: `event: error`")
async def error_event(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, "word1 word2 ")
    await response.write(
        b"event: error\n" + event({"message": "The model has crashed without additional information."})
    )
    return response


@quirk("overflow-in-stream", "LM Studio: the overflow as an event")
async def overflow_in_stream(call: Call) -> web.StreamResponse:
    response = await call.open()
    message = "The initial prompt is greater than the context length (n_keep: 5000>= n_ctx: 4096)"
    await response.write(b"event: error\n" + event({"error": {"message": message}}))
    return response


@quirk("overflow-silent", "odysseus#3535: the oldest messages are dropped without a word")
async def overflow_silent(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, call.reply())
    kept = usage_of(call.messages, 20)
    kept["prompt_tokens"] = min(kept["prompt_tokens"], 64)
    await response.write(chunk(call.model, finish="stop", usage=kept) + DONE)
    return response


@quirk("aborted", "vLLM and SGLang when they stop: finish_reason abort")
async def aborted(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, "word1 word2 ")
    return await call.finish(response, finish="abort")


@quirk("garbage", "a chunk that is no JSON")
async def garbage(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, "word1 word2 ")
    await response.write(b'data: {"choices": [{"delta": {"content": NaN]}\n\n')
    return response


@quirk("endless-line", "a hostile server: one event without end")
async def endless_line(call: Call) -> web.StreamResponse:
    response = await call.open()
    await response.write(b"data: ")
    while True:
        await response.write(b"x" * 65536)


@quirk("doubled-prefill", "lmstudio#2041, #2058: the begun reply comes again")
async def doubled_prefill(call: Call) -> web.StreamResponse:
    response = await call.open()
    await call.words(response, call.prefix + call.reply())
    return await call.finish(response)


@quirk("restarted-prefill", "templates that close the begun reply and start another")
async def restarted_prefill(call: Call) -> web.StreamResponse:
    response = await call.open()
    start = "word1 word2 word3 word4 words that are others" if call.prefix else call.reply()
    await call.words(response, start)
    return await call.finish(response)


@quirk("thinks-too-long", "reasoning models with a small budget")
async def thinks_too_long(call: Call) -> web.StreamResponse:
    if int(call.body.get("max_tokens", 0)) > 500:
        return await behave(call)
    response = await call.open()
    await call.send(response, chunk(call.model, reasoning_content="Let me think about everything."))
    return await call.finish(response, finish="length")


@quirk("overflow-once", "a context smaller than it was taken for")
async def overflow_once(call: Call) -> web.StreamResponse:
    if call.state.counts[call.model] > 1:
        return await behave(call)
    message = "This model's maximum context length is 4096 tokens. However, you requested 9030 tokens."
    return call.error(400, {"error": {"message": message, "code": "context_length_exceeded"}})


@quirk("key-bad-refused", "one of several keys was revoked")
async def key_bad_refused(call: Call) -> web.StreamResponse:
    if call.request.headers.get("Authorization") == "Bearer bad":
        return call.error(401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}})
    return await behave(call)


@quirk("stale-connection", "llama.cpp: a connection it promised to keep is closed on the next request")
async def stale_connection(call: Call) -> web.StreamResponse:
    connection = str(call.request.transport.get_extra_info("peername")) if call.request.transport else ""
    if call.state.copies[connection]:
        call.cut()
        return web.Response()
    call.state.copies[connection] += 1
    return await behave(call)
