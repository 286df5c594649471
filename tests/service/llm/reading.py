"""Reads replies to their end."""

from collections.abc import AsyncIterator

from service.llm.calls import BuildRequest
from service.llm.errors import BackendError
from service.llm.ports import ChatMessage, ChatRequest, Delta

HELLO = ChatRequest(
    messages=(ChatMessage("system", "Be kind."), ChatMessage("user", "Hello")), max_tokens=200, temperature=0.2
)


def fixed(request: ChatRequest) -> BuildRequest:
    """Return a builder for a request that does not depend on who answers."""
    return lambda _target: request


async def read(stream: AsyncIterator[Delta]) -> tuple[str, str, Delta]:
    """Return (text, reasoning, last delta)."""
    deltas = [delta async for delta in stream]
    return "".join(d.text for d in deltas), "".join(d.reasoning for d in deltas), deltas[-1]


async def read_until_error(stream: AsyncIterator[Delta]) -> tuple[list[Delta], BackendError | None]:
    """Return what came, and the error that ended it."""
    heard: list[Delta] = []
    try:
        async for delta in stream:
            heard.append(delta)  # noqa: PERF401 - kept when the error comes
    except BackendError as error:
        return heard, error
    return heard, None
