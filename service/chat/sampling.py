"""How the reply to one message is to be drawn: what a caller may choose, and how it becomes part of a request.

The names are those of OpenAI's API and, from `top_k` on, of local servers; each server is sent those that its family
takes, in its words (service/llm/wire.py). Others are not accepted here and not sent there.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from service.chat.texts import Text
from service.chat.thoughts import Kept
from service.errors import InvalidRequestError
from service.llm.ports import ChatRequest

Stop = Annotated[Text, Field(min_length=1, max_length=64)]
OWN = ("max_tokens", "temperature", "stop")


class Sampling(BaseModel):
    """Wishes for one reply; what is left out is the server's own choice."""

    model_config = ConfigDict(extra="forbid")

    max_tokens: int | None = Field(None, ge=1, le=1_000_000, description="Shorter than REPLY_MAX_TOKENS, never longer")
    temperature: float | None = Field(None, ge=0, le=2, examples=[0.8])
    top_p: float | None = Field(None, gt=0, le=1)
    stop: list[Stop] | None = Field(None, max_length=4, description="The reply ends before any of these")
    seed: int | None = Field(None, ge=-(2**31), lt=2**31)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    top_k: int | None = Field(None, ge=0, le=100_000, description="Local servers only, like those below")
    min_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(None, ge=0, le=4)


FIELDS = tuple(Sampling.model_fields)


def chosen(body: BaseModel) -> dict[str, Any]:
    """What a request's body says of these, as a turn keeps it: for a reply that is taken over, too."""
    return {name: value for name in FIELDS if (value := getattr(body, name, None)) is not None}


def options(body: BaseModel, reasoning: Kept) -> dict[str, Any]:
    """What a turn keeps of a request's body: which backend was named, how the reply is to be drawn, and whether the
    model's reasoning is kept. Raises `InvalidRequestError` when nobody's is."""
    kept: dict[str, Any] = {}
    if wish := getattr(body, "reasoning", None):
        if wish == "keep" and reasoning == "never":
            raise InvalidRequestError("No reasoning is kept here.", code="reasoning_not_kept")
        kept["reasoning"] = wish
    if backend := getattr(body, "backend", None):
        kept["backend"] = backend
    if sampling := chosen(body):
        kept["sampling"] = sampling
    return kept


def sampled(request: ChatRequest, wishes: Mapping[str, Any], *, shown: int) -> ChatRequest:
    """The request as its caller wishes it; `shown` tokens of the reply are there already."""
    if not wishes:
        return request
    limit, longest = wishes.get("max_tokens"), request.max_tokens
    if limit is not None:
        left = max(1, limit - shown)
        longest = left if longest is None else min(longest, left)
    return replace(
        request,
        max_tokens=longest,
        temperature=wishes.get("temperature"),
        stop=tuple(wishes.get("stop", ())),
        sampling={name: value for name, value in wishes.items() if name not in OWN},
    )
