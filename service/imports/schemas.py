"""What the import takes and answers."""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from service.chat.schemas import TimeZone
from service.chat.texts import Text
from service.imports.service import ImportReport


class ImportQuery(BaseModel):
    """How the file is to be read."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["auto", "rapport", "sillytavern", "mem0", "letta"] = Field(
        "auto", description="`auto` tells Rapport's own lines and SillyTavern's by the first one"
    )
    conversation: Text | None = Field(
        None, max_length=200, description="Which one, of a file that holds several: Letta's agent, mem0's `user_id`"
    )
    title: Text = Field("", max_length=200)
    route: str = Field("general", max_length=40, description="The policy that the conversation will be on")
    time_zone: TimeZone | None = Field(None, description="Of times in the file that have none")


class LineError(BaseModel):
    line: int = Field(description="Counted from 1, blank lines included")
    reason: str


class ImportResult(BaseModel):
    """What became of the file. Lines that are counted nowhere were blank, or its header."""

    conversation_id: UUID | None = Field(description="Null for a file that holds statements only (mem0)")
    imported: int = Field(description="Messages that are new")
    duplicates: int = Field(description="Messages that were here already")
    skipped: int = Field(description="Lines that are not part of the talk: hidden, empty, system notes")
    broken: int = Field(description="Lines that could not be read")
    errors: Annotated[list[LineError], Field(description="The first 100 of the broken lines and refused statements")]
    facts: int = Field(0, description="Statements of the other program that are new here; they are marked as its word")
    facts_known: int = Field(
        0, description="Those that were here already, yield to what was said here, or had been forgotten"
    )
    refused: int = Field(0, description="Those that give orders, or hold links or secrets; `errors` says which")
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
                    "facts": 0,
                    "facts_known": 0,
                    "refused": 0,
                    "already_imported": False,
                    "waiting_for_vectors": 0,
                }
            ]
        }
    }

    @classmethod
    def of(cls, report: ImportReport) -> Self:
        return cls(
            conversation_id=report.conversation_id,
            imported=report.imported,
            duplicates=report.duplicates,
            skipped=report.skipped,
            broken=report.broken,
            errors=[LineError(line=line, reason=reason) for line, reason in report.errors],
            facts=report.facts,
            facts_known=report.facts_known,
            refused=report.refused,
            already_imported=report.already_there,
            waiting_for_vectors=report.unembedded,
        )
