"""What `rapport doctor` says: what a server can do, what Rapport does without it, and what to click or set."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from service.llm.capabilities import Capabilities
from service.llm.config import BackendConfig
from service.llm.dialect import Dialect
from service.llm.errors import (
    BackendBusyError,
    BackendError,
    BackendRefusedError,
    BackendTimeoutError,
    KeyRefusedError,
    ModelNotFoundError,
    NoCreditError,
)

Grade = Literal["ok", "note", "warn", "fail"]

SMALL_CONTEXT = 8192
SLOW_FIRST_TOKEN = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice` is empty when there is nothing to do."""

    topic: str
    grade: Grade
    text: str
    advice: str = ""


def unreachable(config: BackendConfig, error: BackendError) -> Finding:
    """Return what to do about a server that doesn't answer, or answers with a refusal."""
    if isinstance(error, KeyRefusedError):
        return Finding(
            "reachable", "fail", f"the API key was refused: {error}", "check api_key, and that the account has credit"
        )
    if isinstance(error, BackendRefusedError):
        return Finding(
            "reachable", "fail", str(error), f"check the url {config.url}: it should be the address that ends in /v1"
        )
    advice = "check the url, and that this machine may reach it"
    if config.is_local:
        advice = (
            f"start the server at {config.url}. LM Studio: Developer tab, switch the status to Running (or "
            "`lms server start`), and turn on “Serve on Local Network” when it runs on another machine. "
            "Ollama: `ollama serve`."
        )
    return Finding("reachable", "fail", str(error), advice)


def no_reply(config: BackendConfig, error: BackendError) -> Finding:
    """Return what to do about a server that lists its models and gives no reply."""
    if isinstance(error, NoCreditError):
        return Finding(
            "reply", "fail", f"no credit: {error}", "top up the account with the provider, or use another key"
        )
    if isinstance(error, KeyRefusedError):
        advice = "set api_key to a key of this server" if config.api_keys else "it asks for a key: set api_key"
        return Finding("reply", "fail", f"the API key was refused: {error}", advice)
    if isinstance(error, BackendTimeoutError):
        advice = f"a smaller model, more GPU layers, or a longer timeouts.first_token (now {config.timeouts.first_token:g} s)"
        return Finding("reply", "fail", f"no reply: {error}", advice)
    if isinstance(error, BackendBusyError):
        return Finding(
            "reply", "fail", f"no reply now: {error}", "wait until it has loaded its model or is free, and ask again"
        )
    return Finding("reply", "fail", f"no reply: {error}", "try the same model in the server's own chat window")


def found_servers(urls: Iterable[str]) -> str:
    """Return what to set when a server answers at one of the usual addresses."""
    lines = [f"A server answers at {url}: set LMSTUDIO_URL={url} to use it." for url in urls]
    return "\n".join(lines)


def dialect_finding(dialect: Dialect) -> Finding | None:
    """Return in which words the model has to be asked, when they are not the usual ones."""
    told = {
        "developer": "instructions as `developer`",
        "first": "all instructions in one message at the start",
        "fold": "instructions inside the first message, as it refuses the system role",
    }
    ways = [told[dialect.system]] if dialect.system in told else []
    if dialect.max_tokens != "max_tokens":
        ways.append("`max_completion_tokens` for the length")
    if not dialect.temperature:
        ways.append("no temperature")
    if dialect.alternate:
        ways.append("no two messages of one side in a row")
    if not dialect.stream_usage:
        ways.append("no `stream_options`")
    if dialect.dropped:
        ways.append(f"without {', '.join(sorted(dialect.dropped))}")
    return Finding("asked", "note", f"it wants {'; '.join(ways)}: done so from now on") if ways else None


def missing_model(error: ModelNotFoundError, listed: tuple[str, ...]) -> Finding:
    known = ", ".join(listed[:8]) + (" …" if len(listed) > 8 else "")
    return Finding(
        "model", "fail", str(error), f"set `model` to one of: {known}" if known else "load a model in the server"
    )


def model_findings(
    config: BackendConfig, model: str, listed: tuple[str, ...], record: Capabilities, loaded: tuple[str, ...]
) -> Iterator[Finding]:
    """Yield what the server's lists say about the model."""
    if listed and model not in listed:
        yield Finding(
            "model",
            "warn",
            f"{model} is not among the {len(listed)} listed models",
            f"listed are: {', '.join(listed[:8])}",
        )
    else:
        yield Finding("model", "ok", f"{model} ({len(listed)} listed)")
    if record.server == "lmstudio" and loaded and model not in loaded:
        yield Finding(
            "loaded",
            "warn",
            f"LM Studio has {', '.join(loaded)} in memory, not {model}",
            "load it there (or `lms load`); else the first message waits, and loading it may end replies of the other",
        )
    yield _context(config, record)


def eviction_findings(
    config: BackendConfig, record: Capabilities, embedder: str, rivals: tuple[str, ...]
) -> Iterator[Finding]:
    """Yield which models of one LM Studio end each other's replies. It takes the embedding model for an `embedder`;
    `rivals` are backends that ask it for other chat models."""
    if record.server != "lmstudio":
        return
    if rivals:
        yield Finding(
            "eviction",
            "warn",
            f"{', '.join(rivals)} asks the same LM Studio for another chat model: loading one may end replies of the other",
            "load both by hand (`lms load`), or switch “Auto-Evict” off (Developer, Server Settings)",
        )
    if not config.embedding_model:
        return
    if embedder == "embedding":
        yield Finding(
            "eviction", "ok", "when the embedding model isn't in memory it is loaded by name, which ends no reply"
        )
    elif embedder:
        yield Finding(
            "eviction",
            "warn",
            f"LM Studio takes {config.embedding_model} for a model of type {embedder}: asked for vectors it may load "
            "one copy more for each call, and unload the chat model",
            "use a model whose id begins with text-embedding-, or load both models by hand",
        )
    else:
        yield Finding(
            "eviction",
            "warn",
            "chat and embeddings come from one LM Studio",
            "update LM Studio to 0.4, or switch “Auto-Evict” off (Developer, Server Settings), or load both models by "
            "hand; otherwise an embedding may unload the chat model in the middle of a reply",
        )


def reply_findings(record: Capabilities) -> Iterator[Finding]:
    """Yield what the probes found."""
    if record.streams is None:
        yield Finding("streaming", "note", "not seen: no text came")
    elif record.streams is False:
        yield Finding(
            "streaming", "warn", "the reply comes in one piece", "turn off buffering in the proxy before the server"
        )
    else:
        yield Finding("streaming", "ok", "tokens come as they are made")
    yield _structured(record)
    yield _prefill(record)
    yield _reasoning(record)
    if record.usage is None:
        yield Finding("usage", "note", "not seen: no text came")
    elif record.usage:
        yield Finding("usage", "ok", "tokens are counted by the server")
    else:
        yield Finding("usage", "note", "no token counts in streams: budgets and quotas use estimates")
    if record.first_token_seconds is not None:
        slow = record.first_token_seconds > SLOW_FIRST_TOKEN
        text = f"{record.first_token_seconds:.2f} s to the first token of a short prompt"
        advice = "a smaller model or more GPU layers; long prompts will take longer still" if slow else ""
        yield Finding("speed", "warn" if slow else "ok", text, advice)


def embedding_finding(config: BackendConfig, record: Capabilities, *, chosen: bool) -> Finding:
    """`chosen` says that EMBEDDINGS names this backend."""
    if not config.embedding_model:
        return Finding(
            "embeddings", "note", "not asked of this server: EMBEDDINGS names another model (built-in if unset)"
        )
    if record.embedding_width is None:
        return Finding(
            "embeddings",
            "fail",
            f"{config.embedding_model} gives no vectors",
            "name an embedding model that the server lists as one; LM Studio: its id begins with text-embedding-",
        )
    text = f"{config.embedding_model}, {record.embedding_width} numbers a text"
    if chosen:
        return Finding("embeddings", "ok", f"{text}: makes the memories' vectors")
    advice = (
        f"EMBEDDINGS={config.name} uses it; where memories have vectors already, `rapport memory reembed` changes them"
    )
    return Finding("embeddings", "note", f"{text}; not used", advice)


def _context(config: BackendConfig, record: Capabilities) -> Finding:
    told = [tokens for tokens in (config.context_length, record.context_length) if tokens]
    if not told:
        return Finding(
            "context",
            "warn",
            "the server doesn't say how long its context is; 4,096 tokens are assumed",
            "set context_length in LLM_BACKENDS",
        )
    tokens = min(told)
    if config.context_length and record.context_length and config.context_length > record.context_length:
        text = f"{record.context_length:,} tokens are loaded, not the {config.context_length:,} of the configuration"
        return Finding("context", "warn", text, "load the model with more, or lower context_length")
    if tokens < SMALL_CONTEXT:
        advice = {
            "lmstudio": "LM Studio: unload the model, then load it with a larger Context Length (gear beside the model)",
            "llamacpp": "start llama-server with a larger -c (its slots share it), if memory allows",
            "vllm": "start vLLM with a larger --max-model-len, if memory allows",
        }.get(record.server, "load the model with a longer context if memory allows")
        text = f"{tokens:,} tokens: prompts are cut to fit, oldest messages first"
        return Finding("context", "warn", text, advice)
    return Finding("context", "ok", f"{tokens:,} tokens")


def _structured(record: Capabilities) -> Finding:
    match record.structured:
        case "json_schema":
            return Finding("structured", "ok", "JSON schemas are enforced: facts are learnt reliably")
        case "loose_schema":
            return Finding("structured", "note", "JSON schemas are told but not enforced: most answers will do")
        case "json_object":
            return Finding(
                "structured",
                "note",
                "JSON without a schema: its shape is asked for in words, some answers will be dropped",
            )
        case "text":
            return Finding(
                "structured",
                "warn",
                "JSON only when the model feels like it: fewer facts are learnt",
                "use a larger model for extraction",
            )
        case _:
            advice = 'add a second backend with tier = "small" that can, for extraction'
            return Finding("structured", "warn", "no usable JSON: nothing will be learnt from conversations", advice)


def _prefill(record: Capabilities) -> Finding:
    match record.prefill:
        case "continues":
            return Finding("prefill", "ok", "an interrupted reply is continued where it stopped")
        case "doubles":
            return Finding(
                "prefill",
                "note",
                "it repeats the beginning when it continues (lmstudio#2041): the repetition is cut away",
            )
        case "refuses" | "restarts":
            return Finding(
                "prefill",
                "note",
                "a reply cannot be continued: an interrupted one begins again, and the reader is told",
            )
        case _:
            return Finding(
                "prefill", "note", "not known whether a reply can be continued: an interrupted one begins again"
            )


def _reasoning(record: Capabilities) -> Finding:
    match record.reasoning:
        case "always":
            return Finding(
                "reasoning",
                "warn",
                "1,000 tokens were all thinking, and no text came: replies will often be empty",
                "give replies more tokens, lower the reasoning effort, or use a model that does not think aloud",
            )
        case "tags":
            return Finding("reasoning", "ok", "thinking comes inside the text and is taken out of it")
        case "unopened":
            return Finding("reasoning", "ok", "thinking begins without a tag, and is taken out up to its closing tag")
        case "field":
            return Finding("reasoning", "ok", "thinking comes apart from the text and is not shown")
        case _:
            return Finding("reasoning", "ok", "none seen")
