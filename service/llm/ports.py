"""What a turn asks of a model server: one interface, streaming first."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Position:
    """How far a reply has come that its server writes whether or not anybody reads it."""

    response_id: str
    after: int
    """The number of the last event that was read."""


@dataclass(frozen=True, slots=True)
class Resume:
    """A reply that its server is writing already, and where to read on in it."""

    response_id: str
    after: int | None
    """None reads it from its beginning."""
    known: str = ""
    """What comes first and is known already: it is left out, and anything else in its place is a `CannotContinueError`."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A prompt for one reply.

    `prefix` is text of the reply that has already been shown: the backend continues it, or refuses
    with `CannotContinueError` before its first token. `schema` asks for JSON of that shape.
    `outlives` asks for a reply that goes on without its reader where a server can do that: `on_begun` hears its id
    before the first token, each delta tells its position, and `resume` reads on in it instead of asking anew.
    """

    messages: tuple[ChatMessage, ...]
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    prefix: str = ""
    schema: dict[str, Any] | None = None
    user_ref: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    """`top_p`, `seed` and the like, by OpenAI's names or local servers'; sent where the model's family takes them."""
    extra: dict[str, Any] = field(default_factory=dict)
    outlives: bool = False
    on_begun: Callable[[str, str], Awaitable[None]] | None = None
    """Called with the backend's name and the reply's id there."""
    resume: Resume | None = None
    gather: Callable[[], float] | None = None
    """Tells for how many seconds what follows the first words may gather before it is read."""
    on_thought: Callable[[str], None] | None = None
    """Hears what the model thinks before its first word, as it comes: the deltas that tell it wait for that word."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one read of the upstream brought: never one object per token when several arrived together."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    position: Position | None = None
    retract: bool = False
    """All text of this stream before this delta was the model's thinking: take it back."""


class ChatBackend(Protocol):
    """A model server. Every implementation passes tests/contracts/."""

    name: str
    model: str
    """The model that answers when the request names none."""
    scripted: bool
    """True for the backend of tests and demos, whose replies are not a model's."""

    def stream(self, request: ChatRequest) -> AsyncIterator[Delta]:
        """Yield the reply as it comes; the last Delta carries finish_reason (and usage when the server tells it).

        Raises a `BackendError` (service/llm/errors.py) before or between deltas. Closing the iterator closes the
        upstream connection.
        """
        ...

    async def models(self) -> Sequence[str]:
        """The model ids the server lists, or raises `BackendUnavailableError`."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Target:
    """Who is about to answer, as the prompt's builder needs to know it."""

    backend: str
    model: str
    scripted: bool
    prompt_tokens: int
    """How long a prompt may be: the context less the reply, or less where a long prompt would be slow."""
    reply_tokens: int
    count: Callable[[str], int]
    """Tokens of a text: exact where a tokenizer is at hand, else a careful estimate."""
    longest_prompt: int = 0
    """How long a prompt may be when nobody waits for its answer: the context less the reply."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A reply that has begun (its first token may still be on its way, its backend is decided)."""

    target: Target
    deltas: AsyncGenerator[Delta, None]
