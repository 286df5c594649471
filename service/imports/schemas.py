"""What the import takes and answers."""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from service.chat.schemas import Text, TimeZone
from service.imports.service import ImportReport


class ImportQuery(BaseModel):
    """How the file is to be read."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["auto", "rapport", "sillytavern"] = Field("auto", description="`auto` tells by the first line")
    title: Text = Field("", max_length=200)
    route: str = Field("general", max_length=40, description="The policy that the conversation will be on")
    time_zone: TimeZone | None = Field(None, description="Of times in the file that have none")


class LineError(BaseModel):
    line: int = Field(description="Counted from 1, blank lines included")
    reason: str


class ImportResult(BaseModel):
    """What became of the file. Lines that are counted nowhere were blank, or its header."""

    conversation_id: UUID
    imported: int = Field(description="Messages that are new")
    duplicates: int = Field(description="Messages that were here already")
    skipped: int = Field(description="Lines that are not part of the talk: hidden, empty, system notes")
    broken: int = Field(description="Lines that could not be read")
    errors: Annotated[list[LineError], Field(description="The first 100 of the broken lines")]
    already_imported: bool = Field(description="Nothing in the file was new")
    waiting_for_vectors: int = Field(
        description="Of the imported ones, those that for now are found by their words only; the learner adds the rest"
    )

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "conversation_id": "01937b3e-7a11-7c4e-9d6e-3f3b0d2d9a01",
                    "imported": 418,
                    "duplicates": 0,
                    "skipped": 2,
                    "broken": 1,
                    "errors": [{"line": 57, "reason": "not JSON: unexpected end of data at character 88"}],
                    "already_imported": False,
                    "waiting_for_vectors": 0,
                }
            ]
        }
    }

    @classmethod
    def of(cls, report: ImportReport, conversation_id: UUID) -> Self:
        return cls(
            conversation_id=conversation_id,
            imported=report.imported,
            duplicates=report.duplicates,
            skipped=report.skipped,
            broken=report.broken,
            errors=[LineError(line=line, reason=reason) for line, reason in report.errors],
            already_imported=report.already_there,
            waiting_for_vectors=report.unembedded,
        )
