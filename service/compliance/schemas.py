"""What the age routes take and give."""

from datetime import date, datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from service.auth.tokens import MAX_NAME, MAX_TOKEN


class AssertionIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    assertion: str = Field(
        min_length=1,
        max_length=MAX_TOKEN,
        description="A JWT, signed by your backend, about the user whose token this request carries",
    )


class DeclarationIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    birth_date: date = Field(description="Can be given once, and never edited")


class SubjectIn(BaseModel):
    """The user whom an operator means, as their token names them."""

    model_config = ConfigDict(extra="forbid")

    issuer: str = Field(min_length=1, max_length=MAX_NAME)
    subject: str = Field(min_length=1, max_length=MAX_NAME)


class DecisionIn(SubjectIn):
    level: str = Field(min_length=1, max_length=40)
    days: int = Field(365, ge=1, le=3660)


class RevocationIn(SubjectIn):
    level: str | None = Field(None, min_length=1, max_length=40, description="All levels without it")


class AssuranceOut(BaseModel):
    id: UUID
    level: str
    method: str
    provider: str
    policy_version: str
    verified_at: datetime
    expires_at: datetime


class AgeStateOut(BaseModel):
    """What the caller's age opens. `level` and `expires_at` are those of the assurance that lasts longest."""

    level: str | None
    expires_at: datetime | None
    assurances: list[AssuranceOut]
    routes: list[str] = Field(description="Routes that are open to the caller now")
    minor: bool = Field(description="Known to be younger than 18")


class RevokedOut(BaseModel):
    revoked: int
    conversations: int = Field(description="Whose running replies stop")
