"""A whole answer of a model, and how it is written where other instances find it."""

from dataclasses import dataclass

import orjson

from service.llm.ports import Target, Usage


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer."""

    text: str
    target: Target
    finish_reason: str
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class CompletionCodec:
    """Of answers that `target` gave, or would have."""

    target: Target

    def encode(self, answer: Completion) -> bytes:
        usage = answer.usage and [answer.usage.prompt_tokens, answer.usage.completion_tokens]
        return orjson.dumps([answer.text, answer.finish_reason, usage])

    def decode(self, data: bytes) -> Completion:
        """Raises `ValueError`."""
        match orjson.loads(data):
            case [str() as text, str() as finish, None]:
                return Completion(text, self.target, finish, None)
            case [str() as text, str() as finish, [int() as prompt, int() as completion]]:
                return Completion(text, self.target, finish, Usage(prompt, completion))
        raise ValueError("an answer of another form")
