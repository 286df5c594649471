"""OpenAI's Responses API in background mode: replies that their server goes on writing when their reader dies.

A response that was asked for with `background`, `stream` and `store` outlives its connection. Its events are numbered,
and GET /responses/{id}?stream=true&starting_after=N gives those after N, to anybody with the key, for some ten minutes:
whoever takes a reply over reads on in it, and nothing is lost, repeated or paid for twice. It has to be cancelled to
end. After https://platform.openai.com/docs/guides/background. What can't be done this way (a schema, a prefix, an answer
that nobody needs to outlive) goes to /chat/completions as for any other server.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
import orjson
import structlog

from service.llm.chunks import storable
from service.llm.dialect import Dialect
from service.llm.errors import (
    BackendError,
    BackendInterruptedError,
    BackendRefusedError,
    BackendTimeoutError,
    BackendUnavailableError,
    CannotContinueError,
    EmptyReplyError,
)
from service.llm.failures import from_chunk, from_response
from service.llm.openai_compatible import OpenAICompatibleBackend
from service.llm.ports import ChatRequest, Delta, Position, Resume, Usage
from service.llm.sse import EventStreamParser, EventStreamTooLongError, ServerSentEvent
from service.llm.transport import Watchdog, read_capped, reason_of
from service.llm.wire import body_for

log = structlog.get_logger(__name__)

CANCEL_SECONDS = 5.0
TEXT = frozenset({"response.output_text.delta", "response.refusal.delta"})
THOUGHT = frozenset({"response.reasoning_text.delta", "response.reasoning_summary_text.delta"})
ENDED = frozenset({"response.completed", "response.incomplete"})
BROKEN = frozenset({"response.failed", "response.cancelled", "error"})
INCOMPLETE = {"max_output_tokens": "length"}
SAME = ("model", "temperature", "top_p", "user")


class ResponsesBackend(OpenAICompatibleBackend):
    """As its parent, but replies that are to outlive their reader are background responses."""

    async def stream(self, request: ChatRequest, *, guarded: bool = True) -> AsyncGenerator[Delta]:
        if not self._in_background(request):
            async with aclosing(super().stream(request, guarded=guarded)) as plain:
                async for said in plain:
                    yield said
            return
        model = request.model or await self.resolve_model()
        timeouts = self.config.timeouts
        loop = asyncio.get_running_loop()
        started = loop.time()
        reader = ResponseReader(self.name, request.resume)
        parser = EventStreamParser()
        async with self._attached(request, model) as response:
            with Watchdog(response, started + timeouts.first_token) as watchdog:
                try:
                    while not reader.ended:
                        chunk = await response.content.readany()
                        named = reader.response_id
                        delta = reader.take(parser.feed(chunk) if chunk else parser.close())
                        if reader.response_id != named and request.on_begun is not None:
                            await request.on_begun(self.name, reader.response_id)
                        if delta is not None:
                            watchdog.move(min(loop.time() + timeouts.between_tokens, started + timeouts.total))
                            yield delta
                        if reader.failure is not None:
                            raise reader.failure
                        if not chunk:
                            break
                except (aiohttp.ClientError, OSError, EventStreamTooLongError) as error:
                    raise self._broke(error, reader, watchdog) from error
        if not reader.ended:
            raise BackendInterruptedError("the stream ended before the response did", backend=self.name)
        if not reader.spoke:
            raise EmptyReplyError(
                f"a reply without text ({reader.finish_reason})",
                backend=self.name,
                finish_reason=reader.finish_reason,
            )
        yield Delta(finish_reason=reader.finish_reason, usage=reader.usage, position=reader.position)

    async def cancel(self, response_id: str) -> bool:
        """End a background response; False when this key can't."""
        try:
            await self.post(f"/responses/{response_id}/cancel", {}, timeout=CANCEL_SECONDS)
        except BackendError as error:
            log.warning("response_not_cancelled", backend=self.name, code=error.code)
            return False
        return True

    def _in_background(self, request: ChatRequest) -> bool:
        return request.resume is not None or (request.outlives and not request.prefix and request.schema is None)

    def _path(self, request: ChatRequest) -> str:
        return "/responses" if self._in_background(request) else super()._path(request)

    def _body(self, request: ChatRequest, model: str, dialect: Dialect) -> dict[str, Any]:
        if not self._in_background(request):
            return super()._body(request, model, dialect)
        chat = body_for(request, model, dialect)
        body: dict[str, Any] = {name: chat[name] for name in SAME if name in chat}
        body |= {"input": chat["messages"], "stream": True, "background": True, "store": True}
        if request.max_tokens is not None:
            body["max_output_tokens"] = request.max_tokens
        body |= self.config.extra
        if effort := body.pop("reasoning_effort", None):
            body["reasoning"] = {"effort": effort}
        return {name: value for name, value in body.items() if name not in dialect.dropped}

    @asynccontextmanager
    async def _attached(self, request: ChatRequest, model: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """The event stream of a new response, or of the one that is being written."""
        if request.resume is None:
            async with self._asked(request, model) as response:
                yield response
            return
        response = await self._reattached(request.resume)
        try:
            yield response
        finally:
            response.close()

    async def _reattached(self, resume: Resume) -> aiohttp.ClientResponse:
        """Raises `CannotContinueError` when the server doesn't know the response any more."""
        query = {"stream": "true"} | ({} if resume.after is None else {"starting_after": str(resume.after)})
        timeouts = self.config.timeouts
        try:
            async with asyncio.timeout(timeouts.first_token):
                response = await self._client().get(
                    f"{self.config.url}/responses/{resume.response_id}",
                    params=query,
                    headers=self._headers,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect),
                    allow_redirects=False,
                )
        except TimeoutError as error:
            raise BackendTimeoutError(f"no answer within {timeouts.first_token:g} s", backend=self.name) from error
        except (aiohttp.ClientError, OSError) as error:
            raise BackendUnavailableError(reason_of(error), backend=self.name) from error
        if response.status < 300:
            return response
        answer = await read_capped(response)
        response.release()
        failure = from_response(response.status, response.headers, answer, backend=self.name)
        if response.status in {400, 404, 410} or isinstance(failure, BackendRefusedError):
            raise CannotContinueError(f"the response can't be read on in: {failure}", backend=self.name)
        raise failure

    def _broke(self, error: Exception, reader: "ResponseReader", watchdog: Watchdog) -> BackendError:
        if watchdog.expired:
            what = "silence in the middle of the reply" if reader.begun else "no first token in time"
            return BackendTimeoutError(what, backend=self.name)
        if not reader.begun and not isinstance(error, EventStreamTooLongError):
            return BackendUnavailableError(f"hung up before the first token: {type(error).__name__}", backend=self.name)
        return BackendInterruptedError(f"the stream broke: {error}", backend=self.name)


class ResponseReader:
    """Follows one response through its numbered events."""

    def __init__(self, backend: str, resume: Resume | None = None) -> None:
        self._backend = backend
        self._known = resume.known if resume else ""
        self.response_id = resume.response_id if resume else ""
        self._after = resume.after if resume and resume.after is not None else -1
        self.begun = False
        """A token of any sort has come."""
        self.spoke = resume is not None and (resume.after is not None or bool(resume.known))
        """The reply has visible text."""
        self.ended = False
        self.finish_reason = "stop"
        self.usage: Usage | None = None
        self.failure: BackendError | None = None
        """What ended the stream; what came before it in the same read still counts."""

    @property
    def position(self) -> Position | None:
        return Position(self.response_id, self._after) if self.response_id and self._after >= 0 else None

    def take(self, events: list[ServerSentEvent]) -> Delta | None:
        """Return what `events` said together, or None when they said nothing; an error among them goes to `failure`."""
        said: list[str] = []
        thought: list[str] = []
        for event in events:
            if event.data == b"[DONE]":
                continue
            try:
                self._event(event, said, thought)
            except BackendError as error:
                self.failure = error
                break
            except (AttributeError, KeyError, TypeError, ValueError):
                self.failure = BackendInterruptedError(
                    f"an event that is none of a response's ({len(event.data)} bytes)", backend=self._backend
                )
                break
        if not said and not thought:
            if self.ended and self._known:
                self.failure = CannotContinueError("the response is shorter than what was shown", backend=self._backend)
            return None
        self.begun = True
        try:
            text = self._fresh(storable("".join(said)))
        except CannotContinueError as error:
            self.failure = error
            return None
        self.spoke = self.spoke or bool(text.strip())
        # until it is past what was known, its reader has more than the position says
        return Delta(text=text, reasoning=storable("".join(thought)), position=None if self._known else self.position)

    def _event(self, event: ServerSentEvent, said: list[str], thought: list[str]) -> None:
        data = orjson.loads(event.data)
        kind = data.get("type") or event.event
        if kind in BROKEN:
            about = (data.get("response") or {}).get("error") or data.get("error") or data
            error = from_chunk({"error": about}, backend=self._backend, begun=self.begun or bool(said))
            raise error or BackendInterruptedError(f"the server ended the reply: {kind}", backend=self._backend)
        if not self.response_id and (response := data.get("response")):
            self.response_id = storable(str(response["id"]))
        if kind in TEXT:
            said.append(data["delta"])
        elif kind in THOUGHT:
            thought.append(data["delta"])
        elif kind in ENDED:
            self._end(kind, data["response"])
        number = data.get("sequence_number")
        if isinstance(number, int):
            self._after = number

    def _end(self, kind: str, response: dict[str, Any]) -> None:
        self.ended = True
        if kind == "response.incomplete":
            reason = str((response.get("incomplete_details") or {}).get("reason", "length"))
            self.finish_reason = INCOMPLETE.get(reason, storable(reason))
        usage = response.get("usage") or {}
        prompt, completion = usage.get("input_tokens"), usage.get("output_tokens")
        if isinstance(prompt, int) and isinstance(completion, int):
            self.usage = Usage(prompt, completion)

    def _fresh(self, text: str) -> str:
        """Leave out what whoever died had shown of it already."""
        if not self._known:
            return text
        common = min(len(text), len(self._known))
        if text[:common] != self._known[:common]:
            raise CannotContinueError("the response is another one than was shown", backend=self._backend)
        self._known = self._known[common:]
        return text[common:]
