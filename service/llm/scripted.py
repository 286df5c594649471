"""A backend without a model, for tests, demos and a first look: the same request always brings the same reply."""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence

import orjson

from service.llm.config import BackendConfig, Script
from service.llm.errors import CannotContinueError
from service.llm.ports import ChatRequest, Delta, Usage
from service.llm.rules import extract

MODEL = "scripted"
MAX_FACTS = 3

_MEMORY = re.compile(r"<memory>.*?</memory>\s*", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]{3,}")
_PIECES = re.compile(r"\S+\s*|\s+")
_EVERYDAY = frozenset(
    re.findall(
        r"\w+",
        "the and you your that this what when where who how are was were did does have has had for with from about "
        "tell remember know mine our not but can could would will user companion name",
    )
)


class ScriptedBackend:
    """Answers by rule: it repeats what it was told that bears on the question, and says that it is scripted."""

    scripted = True

    def __init__(self, config: BackendConfig | None = None) -> None:
        config = config or BackendConfig(name="scripted", kind="scripted")
        self.config = config
        self.name = config.name
        self.model = config.model or MODEL

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta]:
        reply = reply_to(request, self.config.script)
        if not reply.startswith(request.prefix):
            raise CannotContinueError("the scripted reply to this request begins otherwise", backend=self.name)
        script = self.config.script
        if script.first_delay:
            await asyncio.sleep(script.first_delay)
        pieces = _PIECES.findall(reply[len(request.prefix) :])
        limit = request.max_tokens if request.max_tokens is not None else len(pieces)
        said = pieces[:limit]
        for at in range(0, len(said), script.words_per_delta):
            if at and script.word_delay:
                await asyncio.sleep(script.word_delay * script.words_per_delta)
            yield Delta(text="".join(said[at : at + script.words_per_delta]))
        prompt = sum(len(_PIECES.findall(message.content)) for message in request.messages)
        yield Delta(finish_reason="stop" if len(said) == len(pieces) else "length", usage=Usage(prompt, len(said)))

    async def resolve_model(self) -> str:
        return self.model

    async def models(self) -> Sequence[str]:
        return (self.model,)

    async def aclose(self) -> None:
        """Nothing is held."""


def reply_to(request: ChatRequest, script: Script) -> str:
    """Return the whole reply, without regard to its prefix or length limit."""
    if request.schema is not None:
        return orjson.dumps(extract(request)).decode()
    if script.style == "numbered":
        return " ".join(str(number) for number in range(1, (script.words or 50) + 1))
    last = next((message.content for message in reversed(request.messages) if message.role == "user"), "")
    asked = _MEMORY.sub("", last)
    parts = [f"You said: “{_shortened(asked)}”"] if asked.strip() else ["You said nothing yet."]
    told = [message.content for message in request.messages if message.role == "system"] + _MEMORY.findall(last)
    facts = _facts_about(asked, told)
    if facts:
        parts.append("I remember: " + " ".join(facts))
    parts.append("(This is a scripted reply; no model is connected.)")
    words = " ".join(parts)
    missing = script.words - len(words.split())
    return words + "".join(f" {number}" for number in range(1, missing + 1))


def _facts_about(asked: str, context: Sequence[str]) -> list[str]:
    """Return the listed lines of the prompt that share the most words with the question, best first."""
    wanted = _words(asked)
    lines = [
        line.strip()[2:].strip() for text in context for line in text.splitlines() if line.strip()[:2] in {"- ", "* "}
    ]
    scored = [(len(wanted & _words(line)), -at, line) for at, line in enumerate(lines)]
    best = sorted((item for item in scored if item[0]), reverse=True)[:MAX_FACTS]
    return [line if line.endswith((".", "!", "?")) else line + "." for _, _, line in best]


def _words(text: str) -> set[str]:
    return {word.rstrip("s") for word in _WORD.findall(text.lower())} - _EVERYDAY


def _shortened(text: str, limit: int = 160) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip() + "…"
