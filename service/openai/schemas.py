"""OpenAI's wire format, as far as it is spoken here.

After the API reference of Chat Completions (platform.openai.com/docs/api-reference/chat). Unknown parameters are
accepted and ignored, as that API's clients expect of compatible servers.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.chat.sampling import FIELDS, Sampling
from service.chat.texts import Text
from service.errors import InvalidRequestError


class ContentPart(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: str
    text: Text | None = None


class ChatMessageIn(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[ContentPart] | None = None
    name: Text | None = Field(None, max_length=80)

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(
                part.text or "" for part in self.content if part.type in {"text", "input_text", "output_text"}
            )
        return self.content or ""


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = False


class CompletionRequest(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str = Field(
        max_length=200,
        description="`rapport` (or `rapport-mature` …): the route; or `rapport/<backend>` to name a backend",
    )
    messages: list[ChatMessageIn] = Field(min_length=1, max_length=10_000)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    n: int | None = Field(None, ge=1, le=1, description="One reply at a time")
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    max_completion_tokens: int | None = Field(None, ge=1, le=1_000_000, description="The newer name of max_tokens")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    top_k: int | None = Field(None, ge=0, description="Local servers only, like the two below")
    min_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(None, ge=0, le=4)
    include_reasoning: bool | None = Field(
        None,
        description="Keep what the model thinks beside the reply, and give it as `reasoning_content`; as KEEP_REASONING says "
        "without it",
    )

    def sampling(self) -> Sampling:
        """What of it is passed on. Raises `InvalidRequestError` for what no server takes."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        wishes = {name: getattr(self, name) for name in FIELDS if name not in {"stop", "max_tokens", "top_p"}}
        try:
            return Sampling(
                **wishes,
                stop=[text for text in stop if text] if stop else None,
                max_tokens=self.max_tokens or self.max_completion_tokens,
                top_p=self.top_p or None,
            )
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            field = str(first["loc"][0])
            raise InvalidRequestError(f"{field}: {first['msg']}", param=field) from None


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Completion(BaseModel):
    """A whole reply; `conversation_id`, `turn_id` and `rapport` are Rapport's own."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, int]
    conversation_id: str
    turn_id: str
    rapport: dict[str, Any] = Field(description="`notices`: what the service itself tells the user, before the reply")
