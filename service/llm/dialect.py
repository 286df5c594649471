"""How one model wants to be asked: what its family is known to refuse, and what its refusals teach."""

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from service.llm.failures import Complaint

SystemRole = Literal["system", "developer", "first", "fold"]
SchemaForm = Literal["json_schema", "loose_schema", "json_object", "text"]
# loose: the schema is told but not enforced; OpenAI's strict form refuses some of JSON Schema's words (maxLength)
Prefill = Literal["unknown", "none", "trailing", "vllm", "flag"]

# OpenAI's reasoning families: no max_tokens, no temperature but 1, `developer` instead of `system`
_REASONING_MODELS = re.compile(r"^(?:openai/)?(?:o\d|gpt-5)(?!.*chat)", re.IGNORECASE)
_NEWER_OPENAI = re.compile(r"^(?:openai/)?gpt-(?:[5-9]|\d\d)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Dialect:
    """The parameters, roles and forms that one model on one server takes."""

    max_tokens: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: bool = True
    stop: bool = True
    stream_usage: bool = True
    local_samplers: bool = True
    """top_k, min_p and repeat_penalty are known here."""
    repeat_penalty: Literal["repeat_penalty", "repetition_penalty"] = "repeat_penalty"
    system: SystemRole = "system"
    """`first`: one system message, at the start. `fold`: its text goes into the first user message."""
    alternate: bool = False
    """Consecutive messages of one role are joined."""
    structured: SchemaForm = "json_schema"
    prefill: Prefill = "unknown"
    opens_thinking: bool | None = None
    """The template opens <think> itself, so that the content begins inside it. None: not known yet."""
    dropped: frozenset[str] = frozenset()
    """Parameters this server refused by name."""


def dialect_for(model: str, *, openai: bool) -> Dialect:
    """Return what is known beforehand; the rest is learnt by `learn` and by probing."""
    reasoning = _REASONING_MODELS.match(model) is not None
    if openai:
        return Dialect(
            max_tokens="max_completion_tokens",
            temperature=not reasoning,
            stop=not reasoning,
            local_samplers=False,
            system="developer" if reasoning else "system",
            prefill="none",
        )
    if reasoning or _NEWER_OPENAI.match(model):
        return Dialect(
            max_tokens="max_completion_tokens",
            temperature=not reasoning,
            stop=not reasoning,
            local_samplers=False,
            prefill="none",
        )
    return Dialect()


def learn(dialect: Dialect, complaint: Complaint, sent: dict[str, Any]) -> Dialect | None:
    """Return a dialect that avoids what the server complained about, or None when the complaint teaches nothing."""
    text = complaint.text.lower()
    for lesson in (_about_roles, _about_format, _about_parameters):
        learnt = lesson(dialect, text, complaint, sent)
        if learnt is not None and learnt != dialect:
            return learnt
    return None


_NO_SYSTEM = re.compile(
    r"got ['\"]?system|system role (is )?not supported|does not support system|system messages? (is|are) not"
    r"|role:? ['\"]?system"
)
_ALTERNATE = re.compile(r"alternate|consecutive|2 or more assistant|must be followed by")
_REFUSED = re.compile(
    r"unsupported|not supported|does not support|unrecogni[sz]ed|unknown|not permitted|extra_forbidden|extra inputs"
    r"|deprecated"
)
_NEEDED = {"model", "messages", "stream", "max_tokens", "max_completion_tokens"}
"""Never left out: a reply without a limit may not end."""
_PREFILL = re.compile(
    r"prefill|assistant (message|role|response).{0,60}(last|final|end)|(last|final) message.{0,60}(assistant|user)"
    r"|must end with (a )?user|consecutive assistant|2 or more assistant",
    re.IGNORECASE,
)


def refuses_prefill(text: str) -> bool:
    """Tell whether a refusal is about the begun reply that the request ended with."""
    return _PREFILL.search(text) is not None


def _about_roles(dialect: Dialect, text: str, _complaint: Complaint, _sent: dict[str, Any]) -> Dialect | None:
    if "developer" in text and "role" in text and dialect.system == "developer":
        return replace(dialect, system="system")
    if "system message must be" in text or "system messages must be" in text or "only one system message" in text:
        return replace(dialect, system="first")
    if _NO_SYSTEM.search(text):
        return replace(dialect, system="fold")
    if _ALTERNATE.search(text) and ("role" in text or "assistant" in text):
        if not dialect.alternate:
            return replace(dialect, alternate=True)
        return replace(dialect, system="fold")
    return None


def _about_format(dialect: Dialect, text: str, _complaint: Complaint, sent: dict[str, Any]) -> Dialect | None:
    if "response_format" not in sent:
        return None
    if not re.search(r"response_format|json_schema|json_object|structured|grammar|schema", text):
        return None
    refused = dialect.structured
    if refused == "json_object" and "json_schema" in text:
        return replace(dialect, structured="json_schema")
    if refused == "json_schema" and re.search(r"invalid schema|not permitted|unsupported keyword|strict", text):
        return replace(dialect, structured="loose_schema")
    if refused in {"json_schema", "loose_schema"}:
        only_text = "must be 'text'" in text
        return replace(dialect, structured="text" if only_text else "json_object")
    return replace(dialect, structured="text")


def _about_parameters(dialect: Dialect, text: str, complaint: Complaint, sent: dict[str, Any]) -> Dialect | None:
    if not _REFUSED.search(text):
        return None
    if "max_tokens" in sent and "max_completion_tokens" in text:
        return replace(dialect, max_tokens="max_completion_tokens")
    if "max_completion_tokens" in sent and "max_completion_tokens" in text and "use 'max_comp" not in text:
        return replace(dialect, max_tokens="max_tokens")
    if "stream_options" in sent and ("stream_options" in text or "include_usage" in text):
        return replace(dialect, stream_usage=False)
    named = {
        name for name in sent.keys() - _NEEDED if name == complaint.param or re.search(rf"\b{re.escape(name)}\b", text)
    }
    return replace(dialect, dropped=dialect.dropped | named) if named else None
