"""Reads what a model server says when it fails, in all the shapes that LM Studio, llama.cpp, vLLM and OpenAI use."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import orjson

from service.llm.errors import (
    BackendBusyError,
    BackendError,
    BackendInterruptedError,
    BackendRefusedError,
    BackendUnavailableError,
    ContextOverflowError,
    FilteredError,
    KeyRefusedError,
    ModelNotFoundError,
    NoCreditError,
)

MAX_MESSAGE = 400
MAX_RETRY_AFTER = 3600.0

_OVERFLOW = re.compile(
    r"context_length_exceeded|exceed_context_size|context ?window ?exceeded"
    r"|exceeds? the (available|model'?s?|maximum)? ?context|context (size|length|window)( has been)? exceeded"
    r"|maximum context length|maximum model length|greater than the context length|n_keep\D{0,12}\d*\s*>=\s*n_ctx"
    r"|loaded with context length|reached context length|context the overflows|input tokens exceed"
    r"|prompt is too long|input is too long|exceeds the maximum number of tokens|too many tokens in (the )?prompt"
    r"|not enough context|longer than the (maximum|context)|is too large to process",
    re.IGNORECASE,
)
_LIMITS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\"?n_ctx\"?'?:?\s*=?\s*(\d{3,})",
        r"available context size \((\d+)",
        r"maximum context length (?:is|of) (\d+)",
        r"maximum model length of (\d+)",
        r"context length(?: of)?(?: only)?:? \(?(\d+)",
        r"configured limit of (\d+)",
        r"tokens? > (\d+) maximum",
        r"maximum number of tokens allowed \((\d+)",
        r"context (?:window|size) (?:is|of) (\d+)",
    )
)
_NO_MODEL = re.compile(
    r"model_not_found|no models? loaded|model .{0,120}(not found|does not exist|is not available|not exist)"
    r"|(unknown|invalid|no such) model|failed to load model|could not find model",
    re.IGNORECASE | re.DOTALL,
)
_BUSY = re.compile(
    r"rate.?limit|too many requests|overloaded|server is busy|no slots? available|loading model|model is loading",
    re.IGNORECASE,
)
_NO_CREDIT = re.compile(
    r"insufficient_quota|exceeded your current quota|billing|credit balance|payment required", re.IGNORECASE
)
_FILTERED = re.compile(
    r"content_filter|content[ _]policy|content management policy|requires moderation|input was flagged"
    r"|moderation_blocked|data_inspection_failed|safety system",
    re.IGNORECASE,
)
_WRONG_ADDRESS = re.compile(r"unexpected endpoint or method", re.IGNORECASE)


class Complaint(NamedTuple):
    """One error as a server told it, whatever its shape."""

    message: str
    code: str = ""
    kind: str = ""
    param: str = ""
    limit: int | None = None

    @property
    def text(self) -> str:
        return " ".join(part for part in (self.code, self.kind, self.message) if part)


def complaint_in(data: Any) -> Complaint | None:
    """Return the error that a decoded body or chunk carries, or None when it carries none."""
    if not isinstance(data, dict):
        return None
    error = data.get("error")
    if isinstance(error, str) and error:
        return Complaint(error, code=str(data.get("code") or ""))
    if isinstance(error, dict):
        return _from_object(error)
    if data.get("object") == "error" or (error and not isinstance(error, bool)):
        return _from_object(data)
    if "choices" not in data and "data" not in data and (detail := data.get("detail") or data.get("message")):
        return Complaint(_detail(detail))
    return None


def from_response(
    status: int, headers: Mapping[str, str], body: bytes, *, backend: str, now: datetime | None = None
) -> BackendError:
    """Return the error for a response that is not a reply; the caller raises it."""
    try:
        complaint = complaint_in(orjson.loads(body))
    except orjson.JSONDecodeError:
        complaint = None
    if complaint is None:
        complaint = Complaint(_plain(body, headers.get("Content-Type", "")), kind="page")
    return _classify(status, complaint, backend, retry_after(headers, now or datetime.now(UTC)))


def from_chunk(data: Any, *, backend: str, begun: bool) -> BackendError | None:
    """Return the error inside a 200 answer or a stream, or None; after the first token it is an interruption."""
    complaint = complaint_in(data)
    if complaint is None:
        return None
    error = _classify(
        int(complaint.code) if complaint.code.isdigit() and len(complaint.code) == 3 else 200, complaint, backend, None
    )
    if begun and not isinstance(error, ContextOverflowError):
        return BackendInterruptedError(f"the reply broke off: {_short(complaint.message)}", backend=backend)
    return error


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds a server asks to wait, from `retry-after-ms`, seconds or an HTTP date; else None."""
    if (value := headers.get("retry-after-ms", "")).replace(".", "", 1).isdigit():
        return min(float(value) / 1000, MAX_RETRY_AFTER)
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - now).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if seconds == seconds else None  # noqa: PLR0124 - NaN


def _classify(status: int, complaint: Complaint, backend: str, wait: float | None) -> BackendError:
    text, message = complaint.text, _short(complaint.message)
    if complaint.kind != "page" and (error := _of_the_request(status, complaint, backend)):
        return error
    no_credit = status == 402 or _NO_CREDIT.search(text)
    if no_credit or status in {401, 403}:
        return (NoCreditError if no_credit else KeyRefusedError)(message, backend=backend)
    if status == 429 or (status < 500 and _BUSY.search(text) and complaint.kind != "page"):
        return BackendBusyError(message, backend=backend, retry_after=wait)
    if complaint.kind != "page" and _NO_MODEL.search(text):
        return ModelNotFoundError(message, backend=backend)
    if status == 529 or status >= 500 or status in {408, 425}:
        busy = status in {503, 529} or _BUSY.search(text)
        failure = BackendBusyError if busy else BackendUnavailableError
        return failure(f"HTTP {status}: {message}", backend=backend, retry_after=wait)
    if complaint.kind == "page" and status == 200:
        return BackendUnavailableError(f"answered a page instead of JSON: {message}", backend=backend)
    if status == 404:
        return BackendRefusedError(
            f"no such address on that server: check the url, most want /v1 at its end ({message})", backend=backend
        )
    if 300 <= status < 400:
        return BackendRefusedError(
            f"HTTP {status}: redirects are not followed; set the url to the final address", backend=backend
        )
    if status == 200:
        return BackendInterruptedError(message, backend=backend)
    return BackendRefusedError(f"HTTP {status}: {message}", backend=backend)


def _of_the_request(status: int, complaint: Complaint, backend: str) -> BackendError | None:
    """Return the error when it is about what was asked, or where: another status would tell it as well."""
    text, message = complaint.text, _short(complaint.message)
    if _OVERFLOW.search(text) and status not in {401, 403, 429}:
        return ContextOverflowError(message, backend=backend, limit=complaint.limit or _limit_in(text))
    if _WRONG_ADDRESS.search(text):
        return BackendRefusedError(f"no such endpoint: the url should end in /v1 ({message})", backend=backend)
    if _FILTERED.search(text) and status in {200, 400, 403, 422, 451}:
        # not the key's fault, which would rest for everybody because of one message
        return FilteredError(message, backend=backend)
    return None


def _detail(detail: Any) -> str:
    """Return FastAPI's `detail` without the input that it repeats: that is the user's text."""
    if not isinstance(detail, list):
        return detail if isinstance(detail, str) else _dumped(detail)
    told = [item for item in detail if isinstance(item, dict)]
    return "; ".join(f"{item.get('type')} at {item.get('loc')}: {item.get('msg')}" for item in told)


def _from_object(error: Mapping[str, Any]) -> Complaint:
    message = error.get("message")
    limit = error.get("n_ctx")
    return Complaint(
        message if isinstance(message, str) and message else _dumped(error),
        code=str(error.get("code") or ""),
        kind=str(error.get("type") or ""),
        param=str(error.get("param") or ""),
        limit=limit if isinstance(limit, int) and limit > 0 else None,
    )


def _limit_in(text: str) -> int | None:
    flat = text.replace(",", "")
    for pattern in _LIMITS:
        if match := pattern.search(flat):
            return int(match[1])
    return None


def _plain(body: bytes, content_type: str) -> str:
    text = body[:4096].decode("utf-8", "replace")
    if "html" in content_type or text.lstrip()[:1] == "<":
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        text = f"a web page titled {title[1].strip()!r}" if title else "a web page"
    return text or "an empty answer"


def _dumped(value: Any) -> str:
    return orjson.dumps(value, default=str).decode()


def _short(message: str) -> str:
    message = " ".join(message.split())
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"
