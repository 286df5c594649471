"""Adds up what one read of a stream brought: all its chunks become one Delta."""

from typing import Any, Literal

import orjson

from service.llm.continuation import PrefixGuard
from service.llm.errors import BackendError, BackendInterruptedError
from service.llm.failures import from_chunk
from service.llm.ports import Delta, Usage
from service.llm.reasoning import ThoughtSplitter
from service.llm.sse import ServerSentEvent

_FINISH = {
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "eosFound": "stop",
    "max_tokens": "length",
    "maxPredictedTokensReached": "length",
    "contextLengthReached": "length",
    "model_length": "length",
    "safety": "content_filter",
    "SAFETY": "content_filter",
}
_BROKEN = frozenset({"abort", "error", "failed", "cancelled", "modelUnloaded", "userStopped"})


def storable(text: str) -> str:
    """The text without NULs, which no column of PostgreSQL takes. (Half a character can't come: it is no JSON.)"""
    return text.replace("\x00", "") if "\x00" in text else text


class ReplyAssembler:
    """Follows one reply through its chunks; keeps its text, reasoning, finish reason and usage apart."""

    def __init__(
        self, backend: str, *, prefix: str = "", opens_thinking: bool | None = False, guarded: bool = True
    ) -> None:
        self._backend = backend
        self._thoughts = ThoughtSplitter(thinking=opens_thinking, begun=bool(prefix))
        self._guard = PrefixGuard(prefix if guarded else "")
        self._let_out = False
        """Some of the text has gone to the reader."""
        self.begun = False
        """A token of any sort has come."""
        self.spoke = bool(prefix)
        """The reply has visible text."""
        self.done = False
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.model = ""
        self.reasoned: Literal["field", "tags"] | None = None
        """How the model's thinking came, if any did."""
        self.failure: BackendError | None = None
        """What ended the stream; what came before it in the same read still counts."""

    def take(self, events: list[ServerSentEvent]) -> Delta | None:
        """Return what `events` said together, or None when they said nothing; an error among them goes to `failure`."""
        content: list[str] = []
        reasoning: list[str] = []
        for event in events:
            if event.data == b"[DONE]":
                self.done = True
                break
            try:
                self._chunk(event, content, reasoning)
            except BackendError as error:
                self.failure = error
                break
            except (AttributeError, KeyError, IndexError, TypeError, ValueError):
                self.failure = self._garbled(event.data)  # a shape that nothing should have
                break
        return self._delta("".join(content), "".join(reasoning))

    def whole(self, data: Any) -> Delta | None:
        """Return the reply of a server that ignored `stream` and answered in one piece."""
        if error := from_chunk(data, backend=self._backend, begun=False):
            raise error
        content: list[str] = []
        reasoning: list[str] = []
        try:
            self._choice(data["choices"][0], content, reasoning)
            self.usage = _usage(data.get("usage"))
            delta = self._delta("".join(content), "".join(reasoning))
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise BackendInterruptedError("an answer without a reply", backend=self._backend) from error
        self.done = True
        return delta

    @property
    def goes_on(self) -> bool:
        """Visible text has come, and more may follow."""
        return self.spoke and self.finish_reason is None and self.failure is None

    @property
    def opens_thinking(self) -> bool:
        """The reply began inside a thought that nobody had opened."""
        return self._thoughts.unopened

    @property
    def thought_ended(self) -> bool:
        return self._thoughts.closed

    def rest(self) -> Delta | None:
        """Return what was held back until the reply's end was known."""
        said, thought = self._thoughts.close(finished=self.finish_reason == "stop")
        said = self._guard.feed(said) + self._guard.close() if said else self._guard.close()
        if not said and not thought:
            return None
        self.spoke = self.spoke or bool(said.strip())
        return Delta(text=said, reasoning=thought)

    def _chunk(self, event: ServerSentEvent, content: list[str], reasoning: list[str]) -> None:
        try:
            chunk = orjson.loads(event.data)
        except orjson.JSONDecodeError:
            if not event.data.strip():
                return
            raise self._garbled(event.data) from None
        if event.event != "error" and type(chunk) is dict and (choices := chunk.get("choices")):
            self._choice(choices[0], content, reasoning)
        else:
            self._without_choice(event.event, chunk, begun=self.begun or bool(content or reasoning))
        if usage := chunk.get("usage"):
            self.usage = _usage(usage) or self.usage

    def _delta(self, content: str, reasoning: str) -> Delta | None:
        retract = False
        content, reasoning = storable(content), storable(reasoning)
        if reasoning:  # the server keeps thoughts apart: what was kept back for fear of one is none
            content = self._thoughts.settle() + content
        if content:
            self.begun = True
            content, thought = self._thoughts.feed(content)
            retract, self._thoughts.took_back = self._thoughts.took_back and self._let_out, False
            if thought:
                self.reasoned = "tags"
                reasoning += thought
            if content:
                content = self._guard.feed(content)
        if reasoning:
            self.begun = True
            self.reasoned = self.reasoned or "field"
        if not content and not reasoning and not retract:
            return None
        if retract:
            self.spoke = False
        self._let_out = bool(content) or (self._let_out and not retract)
        if content and not self.spoke:
            self.spoke = not content.isspace()
        return Delta(text=content, reasoning=reasoning, retract=retract)

    def _choice(self, choice: Any, content: list[str], reasoning: list[str]) -> None:
        delta = choice.get("delta") or choice.get("message")
        if delta:
            if text := delta.get("content"):
                if type(text) is str:
                    content.append(text)
                else:
                    _parts(text, content, reasoning)
            if thought := delta.get("reasoning_content") or delta.get("reasoning"):
                reasoning.append(thought if type(thought) is str else orjson.dumps(thought).decode())
            if refusal := delta.get("refusal"):
                content.append(str(refusal))
        if finish := choice.get("finish_reason"):
            if finish in _BROKEN:
                raise BackendInterruptedError(f"the server ended the reply: {finish}", backend=self._backend)
            self.finish_reason = storable(_FINISH.get(finish, str(finish))) or "stop"

    def _without_choice(self, event: str, chunk: Any, *, begun: bool) -> None:
        if isinstance(chunk, str):
            chunk = {"error": chunk}
        elif not isinstance(chunk, dict):
            raise self._garbled(orjson.dumps(chunk))
        elif event == "error" and "error" not in chunk:
            chunk = {"error": chunk}
        if error := from_chunk(chunk, backend=self._backend, begun=begun):
            raise error

    def _garbled(self, data: bytes) -> BackendInterruptedError:
        return BackendInterruptedError(f"a chunk that is not a JSON object ({len(data)} bytes)", backend=self._backend)


def _parts(parts: Any, content: list[str], reasoning: list[str]) -> None:
    """Content as a list of typed parts (Mistral): thinking holds a list of its own."""
    for part in parts if isinstance(parts, list) else ():
        if not isinstance(part, dict):
            continue
        if part.get("type") == "thinking":
            inner = part.get("thinking")
            _parts(
                [{**item, "type": "thought"} for item in inner] if isinstance(inner, list) else [], reasoning, reasoning
            )
        elif isinstance(text := part.get("text"), str):
            content.append(text)


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int) or (prompt == 0 and completion == 0):
        return None
    return Usage(prompt, completion)
