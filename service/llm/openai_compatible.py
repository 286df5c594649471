"""LM Studio, OpenAI, llama.cpp, vLLM, Ollama: anything that answers POST /chat/completions with a stream."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from math import inf
from typing import Any, Literal

import aiohttp
import orjson

from service.llm.chunks import ReplyAssembler
from service.llm.config import BackendConfig
from service.llm.dialect import Dialect, dialect_for, learn, refuses_prefill
from service.llm.errors import (
    BackendError,
    BackendInterruptedError,
    BackendTimeoutError,
    BackendUnavailableError,
    CannotContinueError,
    EmptyReplyError,
)
from service.llm.failures import complaint_in, from_response
from service.llm.models import chat_model_of, listed_models, loaded_models
from service.llm.ports import ChatRequest, Delta
from service.llm.reasoning import may_open_thinking
from service.llm.sse import EventStreamParser, EventStreamTooLongError
from service.llm.transport import Watchdog, drain, held, open_session, read_capped, reason_of
from service.llm.wire import body_for

LESSONS = 6
"""How many refused parameters or roles one call may work around before it gives up."""
TAIL = 2.0
"""Seconds that a server may take between the finish reason and the end of its stream."""


class OpenAICompatibleBackend:
    """One server with one key. Learns the dialect of each model from what it refuses; several keys share `dialects`."""

    scripted = False

    def __init__(
        self,
        config: BackendConfig,
        *,
        session: aiohttp.ClientSession | None = None,
        api_key: str | None = None,
        dialects: dict[str, Dialect] | None = None,
    ) -> None:
        self.config = config
        self.name = config.name
        self._session = session
        self._owns_session = session is None
        key = api_key if api_key is not None else next(iter(config.api_keys), "")
        self._headers = {
            "Content-Type": "application/json",
            **({"Authorization": f"Bearer {key}"} if key else {}),
            **config.headers,
        }
        self.model = config.model
        self._dialects = dialects if dialects is not None else {}
        self.reasoning: dict[str, Literal["field", "tags"]] = {}
        """How each model's thinking came, where it showed any."""

    def dialect(self, model: str) -> Dialect:
        """How `model` is asked now."""
        return self._dialects.get(model) or dialect_for(model, openai=self.config.is_openai)

    def use_dialect(self, model: str, dialect: Dialect) -> None:
        """Ask `model` in this way from now on; what a probe found out."""
        self._dialects[model] = dialect

    async def stream(self, request: ChatRequest, *, guarded: bool = True) -> AsyncGenerator[Delta]:
        """As the port says; `guarded=False` lets a doubled prefix through, for a probe to see."""
        model = request.model or await self.resolve_model()
        timeouts = self.config.timeouts
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with self._asked(request, model) as response:
            known = self.dialect(model).opens_thinking
            opens_thinking = False if request.prefix else (known if known is not None else _suspicion(model))
            assembler = ReplyAssembler(
                self.name,
                prefix=request.prefix,
                opens_thinking=opens_thinking,
                guarded=guarded,
            )
            with Watchdog(response, started + timeouts.first_token) as watchdog:
                try:
                    async with aclosing(
                        self._deltas(response, assembler, watchdog, started + timeouts.total, request.gather)
                    ) as deltas:
                        async for delta in deltas:
                            yield delta
                except (aiohttp.ClientError, OSError, EventStreamTooLongError) as error:
                    raise self._broken(error, assembler, watchdog) from error
            if rest := assembler.rest():
                yield rest
            if assembler.reasoned:
                self.reasoning[model] = assembler.reasoned
            if not request.prefix and assembler.spoke:
                found = assembler.opens_thinking or bool(opens_thinking and assembler.thought_ended)
                if found != known:
                    self.use_dialect(model, replace(self.dialect(model), opens_thinking=found))
            if not assembler.spoke:
                why = assembler.finish_reason or "no finish reason"
                raise EmptyReplyError(
                    f"a reply without text ({why}{', only reasoning' if assembler.reasoned else ''})",
                    backend=self.name,
                    finish_reason=assembler.finish_reason,
                )
            yield Delta(finish_reason=assembler.finish_reason, usage=assembler.usage)

    async def models(self) -> Sequence[str]:
        return listed_models(await self.get("/models"))

    async def resolve_model(self) -> str:
        """Return the model of a request that names none: the configured one, else what the server has ready."""
        if not self.model:
            self.model = await self._loaded() or chat_model_of(await self.models(), backend=self.name)
        return self.model

    async def _loaded(self) -> str:
        """Ask LM Studio's native API what is in memory; another model would be loaded first, and may evict it."""
        if not self.config.is_local:
            return ""
        try:
            loaded = loaded_models(await self.get("/api/v1/models", root=True, timeout=3.0))
        except BackendError:
            return ""
        return loaded[0].key if loaded else ""

    async def get(self, path: str, *, root: bool = False, timeout: float = 10.0) -> Any:  # noqa: ASYNC109 - a whole call's patience
        """Return the JSON of a GET below the base url (or the server's root). Raises a `BackendError`."""
        return await self._call("GET", path, None, root=root, patience=timeout)

    async def post(self, path: str, body: dict[str, Any], *, root: bool = False, timeout: float = 60.0) -> Any:  # noqa: ASYNC109 - a whole call's patience
        """Return the JSON of a POST below the base url (or the server's root). Raises a `BackendError`."""
        return await self._call("POST", path, body, root=root, patience=timeout)

    async def aclose(self) -> None:
        if self._session is not None and self._owns_session:
            await self._session.close()

    async def _deltas(
        self,
        response: aiohttp.ClientResponse,
        assembler: ReplyAssembler,
        watchdog: Watchdog,
        end: float,
        gather: Callable[[], float] | None,
    ) -> AsyncGenerator[Delta]:
        """Yield one Delta for each read that brought text, until the reply is over."""
        loop = asyncio.get_running_loop()
        between = self.config.timeouts.between_tokens
        if "event-stream" not in response.headers.get("Content-Type", "event-stream"):
            if delta := await self._unstreamed(response, assembler):
                yield delta
            return
        parser, before = EventStreamParser(), inf
        while not assembler.done:
            try:
                chunk = await response.content.readany()
            except aiohttp.ClientError:
                if assembler.finish_reason is None:
                    raise
                break
            delta = assembler.take(parser.feed(chunk) if chunk else parser.close())
            if delta is not None:
                watchdog.move(min(loop.time() + between, end))
                yield delta
                before = await _let_gather(response, assembler, gather, before)
            if assembler.failure is not None:
                raise assembler.failure
            if not chunk:
                break
            if assembler.finish_reason is not None:
                watchdog.move(min(watchdog.deadline, loop.time() + TAIL))
        if assembler.finish_reason is None:
            raise BackendInterruptedError("the stream ended without a finish reason", backend=self.name)
        if not response.closed:
            await drain(response)

    async def _unstreamed(self, response: aiohttp.ClientResponse, assembler: ReplyAssembler) -> Delta | None:
        body = await read_capped(response)
        try:
            data = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise from_response(response.status, response.headers, body, backend=self.name) from None
        return assembler.whole(data)

    @asynccontextmanager
    async def _asked(self, request: ChatRequest, model: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send the request, learning the model's dialect on the way; leaving early closes the response at once."""
        response = None
        for _ in range(LESSONS):
            dialect = self.dialect(model)
            body = self._body(request, model, dialect)
            response = await self._send(body, self._path(request))
            if response.status < 300:
                break
            answer = await read_capped(response)
            response.release()
            error = from_response(response.status, response.headers, answer, backend=self.name)
            if request.prefix and refuses_prefill(str(error)):
                self.use_dialect(model, replace(dialect, prefill="none"))
                raise CannotContinueError(str(error), backend=self.name)
            learnt = _lesson(dialect, answer, body) if response.status in {400, 404, 422, 500} else None
            if learnt is None:
                raise error
            self.use_dialect(model, learnt)
        else:
            raise error
        try:
            yield response
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    def _body(self, request: ChatRequest, model: str, dialect: Dialect) -> dict[str, Any]:
        return body_for(request, model, dialect, extra=self.config.extra)

    def _path(self, _request: ChatRequest) -> str:
        return "/chat/completions"

    async def _send(self, body: dict[str, Any], path: str) -> aiohttp.ClientResponse:
        timeouts = self.config.timeouts
        patience = aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect)
        # copied, since it stays until the server answers: orjson's own buffer has up to twice its size and more
        data = bytes(memoryview(orjson.dumps(body)))
        try:
            async with asyncio.timeout(timeouts.first_token):
                while True:
                    told: dict[str, bool] = {}
                    try:
                        return await self._client().post(
                            self.config.url + path,
                            data=data,
                            headers=self._headers,
                            timeout=patience,
                            allow_redirects=False,
                            trace_request_ctx=told,
                        )
                    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                        if not told.get("reused"):
                            raise  # a kept connection that died meanwhile says nothing; a new one does
        except aiohttp.ConnectionTimeoutError as error:
            raise BackendUnavailableError(f"no connection within {timeouts.connect:g} s", backend=self.name) from error
        except TimeoutError as error:
            raise BackendTimeoutError(f"no answer within {timeouts.first_token:g} s", backend=self.name) from error
        except (aiohttp.ClientError, OSError) as error:
            raise BackendUnavailableError(reason_of(error), backend=self.name) from error

    async def _call(self, method: str, path: str, body: dict[str, Any] | None, *, root: bool, patience: float) -> Any:
        base = self.config.url.removesuffix("/v1") if root else self.config.url
        data = orjson.dumps(body) if body is not None else None
        try:
            async with (
                asyncio.timeout(patience),
                self._client().request(
                    method, base + path, data=data, headers=self._headers, allow_redirects=False
                ) as response,
            ):
                answer = await read_capped(response)
        except TimeoutError as error:
            raise BackendUnavailableError(f"no answer within {patience:g} s", backend=self.name) from error
        except (aiohttp.ClientError, OSError) as error:
            raise BackendUnavailableError(reason_of(error), backend=self.name) from error
        try:
            decoded = orjson.loads(answer)
        except orjson.JSONDecodeError:
            decoded = None
        if response.status >= 300 or decoded is None or complaint_in(decoded):
            raise from_response(response.status, response.headers, answer, backend=self.name)
        return decoded

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = open_session()
        return self._session

    def _broken(self, error: Exception, assembler: ReplyAssembler, watchdog: Watchdog) -> BackendError:
        if watchdog.expired:
            what = "silence in the middle of the reply" if assembler.begun else "no first token in time"
            return BackendTimeoutError(what, backend=self.name)
        if not assembler.begun and not isinstance(error, EventStreamTooLongError):
            return BackendUnavailableError(
                f"hung up before the first token: {error.__class__.__name__}", backend=self.name
            )
        return BackendInterruptedError(f"the stream broke: {error}", backend=self.name)


async def _let_gather(
    response: aiohttp.ClientResponse, assembler: ReplyAssembler, seconds: Callable[[], float] | None, before: float
) -> float:
    """Rest while tokens gather in the kernel, unless they come so slowly that none would. Returns the time of this read;
    `before` is that of the last one."""
    now = asyncio.get_running_loop().time()
    if seconds is not None and assembler.goes_on and now - before < 2 * (pause := seconds()):
        with held(response):
            await asyncio.sleep(pause)
    return now


def _suspicion(model: str) -> bool | None:
    """None, to wait and see, for models whose name says that they may begin inside a thought."""
    return None if may_open_thinking(model) else False


def _lesson(dialect: Dialect, answer: bytes, body: dict[str, Any]) -> Dialect | None:
    try:
        complaint = complaint_in(orjson.loads(answer))
    except orjson.JSONDecodeError:
        return None
    return learn(dialect, complaint, body) if complaint else None
