"""What the session routes take and give."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from service.auth.tokens import MAX_TOKEN

MAX_COOKIE = 3800
"""Bytes of a cookie's value that every browser keeps (4096 with its name and attributes)."""


class SessionRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_TOKEN,
        # what is longer is a token, and told why it can't be taken here
        json_schema_extra={"maxLength": MAX_COOKIE},
        description="A token of your identity provider; without it, an anonymous session",
    )


class Session(BaseModel):
    subject: str
    expires_at: datetime
    anonymous: bool
    roles: list[str]
