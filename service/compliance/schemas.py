"""What the age routes take and give."""

from datetime import date, datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from service.auth.tokens import MAX_NAME, MAX_TOKEN, is_name


def _name(text: str) -> str:
    if not is_name(text):
        raise ValueError("control characters and halves of characters can't be stored")
    return text


def _written(value: object) -> object:
    """A number would be taken for seconds since 1970, and what it makes can't be edited."""
    if not isinstance(value, str):
        raise ValueError("a date is written like 1990-12-31")  # noqa: TRY004  pydantic's form
    return value


Name = Annotated[str, AfterValidator(_name)]


class AssertionIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    assertion: str = Field(
        min_length=1,
        max_length=MAX_TOKEN,
        description="A JWT, signed by your backend, about the user whose token this request carries",
    )


class DeclarationIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    birth_date: Annotated[date, BeforeValidator(_written)] = Field(description="Can be given once, and never edited")


class SubjectIn(BaseModel):
    """The user whom an operator means, as their token names them."""

    model_config = ConfigDict(extra="forbid")

    issuer: Name = Field(min_length=1, max_length=MAX_NAME)
    subject: Name = Field(min_length=1, max_length=MAX_NAME)


class SubjectLockIn(SubjectIn):
    conversation_id: UUID


class LockIn(SubjectLockIn):
    reason: Name = Field("operator", min_length=1, max_length=200, examples=["moderation"])


class LockOut(BaseModel):
    conversation_id: UUID
    reason: str | None = Field(description="null when it is unlocked")
    epoch: int = Field(description="Each change has a new one; a reply of an earlier one is stopped")


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


class ResourceOut(BaseModel):
    region: str
    name: str
    contact: str


class ProtocolOut(BaseModel):
    language: str
    protocol: str
    referral: str = Field(description="What a user reads whose message was recognised, before the model's reply")
    resources: list[ResourceOut]
    phrases: int = Field(description="How many phrases are looked for; they stand in the file of this name")


class SafetyOut(BaseModel):
    """What this service does about crises, minors and being mistaken for a person."""

    protocols: list[ProtocolOut]
    disclosure_hours: float
    minor_break_hours: float
    suitability: str


class CountOut(BaseModel):
    month: date
    kind: str
    protocol: str
    total: int


class ReportOut(BaseModel):
    """Counts without users: they outlive the erasure of those they count."""

    year: int
    totals: dict[str, int]
    months: list[CountOut]


class RevokedOut(BaseModel):
    revoked: int
    conversations: int = Field(description="Whose running replies stop")
