"""OpenAI's wire format, as far as it is spoken here.

After the API reference of Chat Completions (platform.openai.com/docs/api-reference/chat). Unknown parameters are
accepted and ignored, as that API's clients expect of compatible servers.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.chat.schemas import Text


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
