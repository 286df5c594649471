"""What an operator says about model servers: parsed and checked here; service/settings.py reads the environment."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

Tier = Literal["large", "small"]
Seconds = Annotated[float, Field(gt=0, le=3600)]

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_MODEL = "gpt-4o-mini"
LMSTUDIO_PREDICTIONS = 4
"""LM Studio answers this many at once by default and queues the rest out of our sight."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class BackendConfigError(ValueError):
    """LLM_BACKENDS can't be used as it is; the message names the entry and the field."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Timeouts(_Frozen):
    """Seconds of patience with one reply."""

    connect: Seconds = 5.0
    first_token: Seconds = 120.0
    between_tokens: Seconds = 60.0
    total: Seconds = 900.0


class Prices(_Frozen):
    """Money per million tokens; zero for a server of one's own."""

    prompt: Annotated[float, Field(ge=0)] = 0.0
    completion: Annotated[float, Field(ge=0)] = 0.0
    embedding: Annotated[float, Field(ge=0)] | None = None
    """Of texts that it makes vectors of; without it, what a prompt costs."""
    daily_budget: Annotated[float, Field(gt=0)] | None = None
    """Beyond it the backend is passed over until midnight UTC."""

    @property
    def of_embeddings(self) -> float:
        return self.prompt if self.embedding is None else self.embedding


class Script(_Frozen):
    """How the scripted backend behaves: `numbered` replies count their words, so that a test sees a lost one."""

    style: Literal["companion", "numbered"] = "companion"
    words: Annotated[int, Field(ge=0, le=100_000)] = 0
    first_delay: Annotated[float, Field(ge=0)] = 0.0
    word_delay: Annotated[float, Field(ge=0)] = 0.0
    words_per_delta: Annotated[int, Field(ge=1)] = 1


class BackendConfig(_Frozen):
    """One model server, or one account with it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    kind: Literal["openai_compatible", "scripted"] = "openai_compatible"
    url: str = ""
    api: Literal["chat", "responses"] = "chat"
    """`responses`: replies come from POST /responses in background mode, so that whoever takes over reads on in them."""
    api_keys: Annotated[tuple[str, ...], Field(repr=False)] = ()
    model: str = ""
    """Empty: the chat model that the server has loaded, else the first it lists."""
    context_length: Annotated[int, Field(ge=256)] | None = None
    """Tokens; None asks the server, and takes a careful default when it doesn't say."""
    max_prompt_tokens: Annotated[int, Field(ge=128)] | None = None
    """Shorter than the context where reading a long prompt would be slow (the embedded model)."""
    max_reply_tokens: Annotated[int, Field(ge=16)] = 1024
    tokenizer: Path | None = None
    """A tokenizer.json of the model, for exact counts; without one they are estimated and corrected."""
    continues: bool | None = None
    """Whether the model continues a reply that was begun; None finds out."""
    routes: Annotated[tuple[str, ...], Field(min_length=1)] = ("general", "mature")
    tier: Tier = "large"
    small_talk: bool = False
    """Of a small tier: it also answers messages that ask little (service/llm/router.py)."""
    max_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 16
    queue_patience: Annotated[float, Field(ge=0)] = 10.0
    """Seconds in this backend's queue before the route's next one is asked."""
    timeouts: Timeouts = Timeouts()
    prices: Prices = Prices()
    headers: Annotated[dict[str, str], Field(repr=False)] = {}
    extra: dict[str, Any] = {}
    """Sent with every request: `reasoning_effort`, `chat_template_kwargs`, …; left out again when the server refuses it."""
    embedding_model: str = ""
    script: Script = Script()

    @model_validator(mode="before")
    @classmethod
    def _one_key(cls, data: Any) -> Any:
        if isinstance(data, dict) and "api_key" in data:
            data = dict(data)
            key = data.pop("api_key")
            data.setdefault("api_keys", (key,) if key else ())
        return data

    @field_validator("api_keys")
    @classmethod
    def _visible(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        if any(not key or not key.isprintable() or " " in key for key in keys):
            raise ValueError("an API key is empty or holds a space or a control character")
        return keys

    @field_validator("url")
    @classmethod
    def _normal_url(cls, url: str) -> str:
        return base_url(url) if url else url

    @model_validator(mode="after")
    def _reachable(self) -> "BackendConfig":
        if self.kind == "openai_compatible" and not self.url:
            raise ValueError("url is required for kind openai_compatible")
        return self

    @property
    def is_openai(self) -> bool:
        return (urlsplit(self.url).hostname or "").endswith("api.openai.com")

    @property
    def is_local(self) -> bool:
        """A server on this machine or its network: one that loads models on demand, and may load them twice."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ip_address(host).is_private
        except ValueError:
            return "." not in host or host.endswith((".local", ".internal", ".lan"))


def base_url(url: str) -> str:
    """Return the address under which /chat/completions lies: a bare host gets /v1, a pasted full path loses its end."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"not an http(s) address: {url!r}")
    path = re.sub(r"/(chat/completions|completions|models|embeddings)/?$", "", parts.path).rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path or "/v1", "", ""))


def parse_backends(text: str, variables: Mapping[str, str] | None = None) -> tuple[BackendConfig, ...]:
    """Read LLM_BACKENDS: a JSON list, TOML with [[backends]], or the path of a file with either.

    `${NAME}` in a string is replaced from `variables`, so that keys can stay out of the file. Raises
    `BackendConfigError`.
    """
    entries = _entries(text.strip())
    configs = tuple(_config(position, _substitute(entry, variables or {})) for position, entry in enumerate(entries, 1))
    names = [config.name for config in configs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise BackendConfigError(f"LLM_BACKENDS: two backends are named {repeated[0]!r}")
    if not configs:
        raise BackendConfigError("LLM_BACKENDS lists no backend")
    return configs


def backends_file(text: str) -> Path | None:
    """Return the file that LLM_BACKENDS names, or None when it holds the configuration itself."""
    text = text.strip()
    return None if not text or text[0] in "[{" or "\n" in text or "=" in text else Path(text).expanduser()


def simple_backends(
    *,
    openai_api_key: str = "",
    openai_model: str = "",
    openai_url: str = "",
    lmstudio_url: str = "",
    lmstudio_model: str = "",
) -> tuple[BackendConfig, ...]:
    """Return the backends for OPENAI_API_KEY or LMSTUDIO_URL alone; with both, LM Studio is asked first."""
    configs = []
    if lmstudio_url:
        entry = {
            "name": "lmstudio",
            "url": lmstudio_url,
            "model": lmstudio_model,
            "max_concurrency": LMSTUDIO_PREDICTIONS,
        }
        configs.append(_config(1, entry, source="LMSTUDIO_URL"))
    if openai_api_key:
        url = openai_url or OPENAI_URL
        entry = {"name": "openai", "url": url, "api_key": openai_api_key.strip(), "model": openai_model or OPENAI_MODEL}
        configs.append(_config(1, {**entry, "max_concurrency": 64}, source="OPENAI_API_KEY"))
    return tuple(configs)


def _entries(text: str) -> Sequence[Any]:
    if text.startswith("["):
        return _from_json(text) if not re.match(r"\[\[?\s*[A-Za-z_]", text) else _from_toml(text)
    if text.startswith("{") or "\n" in text or "=" in text:
        return _from_json(text) if text.startswith("{") else _from_toml(text)
    path = backends_file(text)
    if path is None:
        raise BackendConfigError("LLM_BACKENDS is empty")
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BackendConfigError(
            f"LLM_BACKENDS: can't read {path} ({error.__class__.__name__}); give a file, JSON or TOML"
        ) from error
    return _from_toml(content) if path.suffix == ".toml" else _from_json(content)


def _from_json(text: str) -> Sequence[Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise BackendConfigError(
            f"LLM_BACKENDS: not JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    return _listed(data)


def _from_toml(text: str) -> Sequence[Any]:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BackendConfigError(f"LLM_BACKENDS: not TOML: {error}") from error
    return _listed(data)


def _listed(data: Any) -> Sequence[Any]:
    if isinstance(data, dict):
        data = data.get("backends", [data] if "name" in data else None)
    if not isinstance(data, list):
        raise BackendConfigError("LLM_BACKENDS: expected a list of backends, or [[backends]] tables")
    return data


def _substitute(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _substitute(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> str:
        if match[1] not in variables:
            raise BackendConfigError(f"LLM_BACKENDS: ${{{match[1]}}} is not set")
        return variables[match[1]]

    return _VARIABLE.sub(replaced, value)


def _config(position: int, entry: Any, *, source: str = "LLM_BACKENDS") -> BackendConfig:
    label = f"{source} entry {position}"
    if isinstance(entry, dict) and isinstance(entry.get("name"), str):
        label += f" ({entry['name']})"
    try:
        return BackendConfig.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "entry"
        reason = first["msg"].removeprefix("Value error, ")
        raise BackendConfigError(f"{label}: {field}: {reason}") from None
