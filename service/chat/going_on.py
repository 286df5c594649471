"""Asking a model to go on with its reply in plain words, where it can't be given the beginning of one."""

from dataclasses import replace

from service.llm.continuation import PrefixGuard
from service.llm.ports import ChatMessage, ChatRequest

PLEASE = (
    "Your last message was cut off. Go on exactly where it stops, with the next word. "
    "Don't repeat or change any of it, and don't comment on this."
)


def plainly(request: ChatRequest, begun: str) -> ChatRequest:
    """The request with the begun reply as one that was given, and the wish to hear the rest of it."""
    messages = (*request.messages, ChatMessage("assistant", begun), ChatMessage("user", PLEASE))
    return replace(request, messages=messages, prefix="")


class Joint:
    """Joins what a model says, when it was asked to go on in plain words, to what it had said.

    A repeated beginning is cut away; another beginning is a `CannotContinueError`. Chat models begin a message without a
    space, whatever stood before it.
    """

    def __init__(self, begun: str) -> None:
        self._guard = PrefixGuard(begun)
        self._spaced = not begun[-1:].isspace()

    def feed(self, text: str) -> str:
        return self._joined(self._guard.feed(text))

    def close(self) -> str:
        return self._joined(self._guard.close())

    def _joined(self, text: str) -> str:
        if text and self._spaced:
            self._spaced = False
            if text[0].isalnum():
                return f" {text}"
        return text
