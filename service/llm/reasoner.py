"""The model that learns: structured answers from the backends of a route, the small tier first."""

from collections.abc import Sequence
from typing import Any

from memory.errors import ReasonerRefusedError, ReasonerUnavailableError
from service.llm.config import Tier
from service.llm.errors import BackendError, BackendRefusedError, ContextOverflowError, EmptyReplyError, KeyRefusedError
from service.llm.pool import Backends
from service.llm.ports import ChatMessage, ChatRequest, Target

PATIENCE = 60.0
"""Seconds: nobody waits for what is learnt, and the queue tries again later."""
MAX_TOKENS = 1200

OF_THE_TEXT = (BackendRefusedError, ContextOverflowError, EmptyReplyError)
"""Failures that asking again later won't mend: too long for the model, or filtered."""


class BackendReasoner:
    """Asks for JSON of a schema: enforced by the server where it can be, described in words where not."""

    def __init__(
        self,
        backends: Backends,
        *,
        route: str = "general",
        tier: Tier = "small",
        max_tokens: int = MAX_TOKENS,
        patience: float = PATIENCE,
    ) -> None:
        self._backends = backends
        self._route = route
        self._tier = tier
        self._max_tokens = max_tokens
        self._patience = patience
        self.name = "none"
        """The backend and model that answered last, or would answer first."""
        try:
            first = backends.select(route, tier)[0]
            self.name = f"{first.name}/{first.model}"
        except BackendError:
            return

    def on(self, route: str) -> "BackendReasoner":
        """The same, from another route's backends: what was said there is read by no others."""
        return BackendReasoner(
            self._backends, route=route, tier=self._tier, max_tokens=self._max_tokens, patience=self._patience
        )

    async def structured(
        self, system: str, examples: Sequence[tuple[str, str]], prompt: str, schema: dict[str, Any]
    ) -> str:
        """See `memory.ports.Reasoner`."""

        def build(target: Target) -> ChatRequest:
            return ChatRequest(
                messages=_fitted(system, examples, prompt, target),
                max_tokens=min(self._max_tokens, max(256, target.reply_tokens)),
                temperature=0.0,
                schema=schema,
            )

        try:
            done = await self._backends.complete(build, route=self._route, tier=self._tier, patience=self._patience)
        except BackendError as error:
            where = f"{error.backend or 'no backend'}: {error.code}"
            if isinstance(error, OF_THE_TEXT) and not isinstance(error, KeyRefusedError):
                raise ReasonerRefusedError(where) from error
            raise ReasonerUnavailableError(where) from error
        self.name = f"{done.target.backend}/{done.target.model}"
        return done.text


def _fitted(system: str, examples: Sequence[tuple[str, str]], prompt: str, target: Target) -> tuple[ChatMessage, ...]:
    """Return the messages with as many examples as fit; the last ones, which the caller put nearest, stay longest."""
    left = target.longest_prompt - target.count(system) - target.count(prompt) - 32
    shown: list[ChatMessage] = []
    for asked, answered in reversed(examples):
        left -= target.count(asked) + target.count(answered) + 10
        if left < 0:
            break
        shown[:0] = [ChatMessage("user", asked), ChatMessage("assistant", answered)]
    return (ChatMessage("system", system), *shown, ChatMessage("user", prompt))
