"""What the session routes take and give."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from service.auth.tokens import MAX_TOKEN


class SessionRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_TOKEN,
        description="A token of your identity provider; without it, an anonymous session",
    )


class Session(BaseModel):
    subject: str
    expires_at: datetime
    anonymous: bool
    roles: list[str]
