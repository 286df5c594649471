"""Take a conversation in: read, number, embed, append, in chunks, as often as its sender likes."""

import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import numpy as np

from memory import hearsay
from memory.errors import EmbedderUnavailableError
from memory.imported import (
    ImportTarget,
    SaidElsewhere,
    append_recallable,
    find_or_create,
    known_ids,
    name_companion,
)
from memory.indexing import embedding_text
from memory.ports import Embedder, Vectors
from memory.postgres import Connection, Database
from memory.transcript import Owner
from service.errors import InvalidRequestError
from service.imports.documents import DOCUMENTS, document_records
from service.imports.formats import parser_for, read_records
from service.imports.records import Broken, Header, Noted, Said, Skipped, WrongFormatError

CHUNK = 64
"""Messages in one transaction: about half a second of embedding, so that progress is seen."""
REPORTED_ERRORS = 100
HOPELESS_AFTER = 200
"""Broken lines with not one good line before them: the file is something else."""
REPEATS_REMEMBERED = 10_000
REFUSED = {
    "length": f"a statement has 4 to {hearsay.TEXT_CHARS} characters",
    "order": "gives orders",
    "secret": "holds a secret",
    "link": "holds a link",
}


class NothingToImportError(InvalidRequestError):
    """No line of the file could be taken in."""

    code, title = "import_empty", "There is nothing to import"


@dataclass(frozen=True, slots=True)
class ImportOptions:
    format: str = "auto"
    title: str = ""
    default_title: str = ""
    """Taken when neither the caller nor the file gives one."""
    route: str = "general"
    time_zone: str | None = None
    """Where the writer's clock stood, for times without a zone; the file's own header goes first."""
    conversation: str | None = None
    """Which one, of a document that holds several: an agent's name, or the user whose memories they are."""
    embed_seconds: float | None = None
    """How long vectors may be computed for. After it messages are taken in findable by their words, and the learner
    adds their vectors later."""


@dataclass(slots=True)
class ImportReport:
    """What became of each line."""

    conversation_id: UUID | None = None
    created: bool = False
    imported: int = 0
    duplicates: int = 0
    skipped: int = 0
    broken: int = 0
    unembedded: int = 0
    facts: int = 0
    """Statements of another program that are new here."""
    facts_known: int = 0
    """… that were here already, or yield to what was said here, or were forgotten."""
    refused: int = 0
    """… that may not be remembered: orders, links, secrets. Each stands in `errors` with its reason."""
    errors: list[tuple[int, str]] = field(default_factory=list)

    @property
    def already_there(self) -> bool:
        return self.imported + self.facts == 0 and self.duplicates + self.facts_known > 0

    def add_broken(self, record: Broken) -> None:
        self.broken += 1
        self.tell(record.number, record.reason)

    def tell(self, number: int, reason: str) -> None:
        if len(self.errors) < REPORTED_ERRORS:
            self.errors.append((number, reason))


Progress = Callable[[ImportReport], None]


async def import_conversation(
    database: Database,
    embedder: Embedder,
    owner: Owner,
    source: AsyncIterator[bytes],
    options: ImportOptions,
    *,
    progress: Progress | None = None,
) -> ImportReport:
    """Import a file; what is broken in it is reported, and the rest goes in.

    The same file again adds nothing; a file that has grown adds what is new. What was committed stays when the source
    breaks off, and the next attempt goes on from there. Raises `WrongFormatError`, `NothingToImportError`, or what
    memory refuses.
    """
    taking = _Import(database, embedder, owner, options, progress)
    if options.format in DOCUMENTS:
        records = document_records(source, options.format, options.conversation)
    else:
        records = read_records(source, parser_for(options.format, options.time_zone))
    async for record in records:
        if isinstance(record, Said):
            await taking.add(record)
        elif isinstance(record, Noted):
            await taking.note(record)
        elif isinstance(record, Broken):
            taking.report.add_broken(record)
            if taking.started is False and taking.report.broken >= HOPELESS_AFTER:
                raise WrongFormatError(
                    f"None of the first {HOPELESS_AFTER} lines could be read. {_first_reason(taking.report)}"
                )
        elif isinstance(record, Skipped):
            taking.report.skipped += 1
        else:
            taking.header = record
    return await taking.finish()


class _Import:
    def __init__(
        self, database: Database, embedder: Embedder, owner: Owner, options: ImportOptions, progress: Progress | None
    ) -> None:
        self._database = database
        self._embedder = embedder
        self._owner = owner
        self._options = options
        self._progress = progress
        self._identity = Identities(owner.user_id)
        self._waiting: list[SaidElsewhere] = []
        self._noted: list[hearsay.Told] = []
        self._target: ImportTarget | None = None
        self._key: bytes | None = None
        self._last_at: datetime | None = None
        self._companion: str | None = None
        self._embed_until = None if options.embed_seconds is None else time.monotonic() + options.embed_seconds
        self.header = Header()
        self.report = ImportReport()
        self.started = False

    async def add(self, said: Said) -> None:
        self.started = True
        if self._key is None:
            self._key = self._identity.of_conversation(self.header, said)
        if said.role == "assistant" and self._companion is None:
            self._companion = said.speaker
        external_id = self._identity.of(said)
        at = said.at or self._last_at or datetime.now(UTC)
        self._last_at = at
        self._waiting.append(
            SaidElsewhere(external_id, said.role, said.speaker, said.text, at, timed=said.at is not None)
        )
        if len(self._waiting) >= CHUNK:
            await self._flush()

    async def note(self, noted: Noted) -> None:
        self.started = True
        if reason := hearsay.refused(noted.text):
            self.report.refused += 1
            self.report.tell(noted.number, REFUSED.get(reason, f"not to be remembered: {reason}"))
            return
        self._noted.append(hearsay.Told(noted.program, noted.source_id, noted.kind, noted.text, noted.at))
        if len(self._noted) >= CHUNK:
            await self._take_over()

    async def _take_over(self) -> None:
        told, self._noted = self._noted, []
        vectors = await self._embedder.embed([one.text for one in told])
        async with self._database.as_user(self._owner.user_id) as connection:
            done = await hearsay.take_over(connection, self._owner, told, vectors, route=self._options.route)
        self.report.facts += done["added"]
        self.report.facts_known += done.total() - done["added"]
        if self._progress is not None:
            self._progress(self.report)

    async def finish(self) -> ImportReport:
        if self._waiting:
            await self._flush()
        if self._noted:
            await self._take_over()
        if self._target is None and self.report.facts + self.report.facts_known:
            return self.report
        if self._target is None:
            raise NothingToImportError(
                f"No message was found in the file. {_first_reason(self.report)}".strip(),
                errors=[{"line": line, "reason": reason} for line, reason in self.report.errors],
            )
        if self._target.created and self._companion and not self.header.companion:
            async with self._database.as_user(self._owner.user_id) as connection:
                await name_companion(connection, self._owner.user_id, self._target.conversation_id, self._companion)
        return self.report

    async def _flush(self) -> None:
        messages, self._waiting = self._waiting, []
        user_id = self._owner.user_id
        async with self._database.as_user(user_id) as connection:
            if self._target is None:
                self._target = await self._open(connection)
            known = await known_ids(
                connection, user_id, self._target.conversation_id, [m.external_id for m in messages]
            )
        first: dict[str, SaidElsewhere] = {}
        for message in messages:  # a file that gives one id twice means one message
            if message.external_id not in known:
                first.setdefault(message.external_id, message)
        fresh = list(first.values())
        vectors = await self._vectors(fresh)
        new = forgotten = 0
        if fresh:
            async with self._database.as_user(user_id) as connection:
                new, forgotten = await append_recallable(connection, user_id, self._target, fresh, vectors)
        self.report.imported += new
        self.report.skipped += forgotten
        self.report.duplicates += len(messages) - new - forgotten
        if vectors is None:
            self.report.unembedded += new
        if self._progress is not None:
            self._progress(self.report)

    async def _open(self, connection: Connection) -> ImportTarget:
        header = self.header
        target = await find_or_create(
            connection,
            self._owner,
            self._key or b"",
            route=self._options.route,
            title=self._options.title or header.title or self._options.default_title,
            companion_name=header.companion or "",
            persona=header.persona,
            time_zone=header.time_zone or self._options.time_zone or "UTC",
        )
        self.report.conversation_id, self.report.created = target.conversation_id, target.created
        return target

    async def _vectors(self, messages: list[SaidElsewhere]) -> Vectors | None:
        if self._embed_until is not None and time.monotonic() > self._embed_until:
            return None
        if not messages:
            return np.zeros((0, self._embedder.dimensions), np.float32)
        try:
            return await self._embedder.embed([embedding_text(m.speaker, m.role, m.text) for m in messages])
        except EmbedderUnavailableError:
            return None  # found by their words until the model is back


class Identities:
    """Ids that stay the same when the same source is read again."""

    def __init__(self, user_id: UUID) -> None:
        self._user = user_id.bytes
        self._repeats: Counter[bytes] = Counter()
        self._at: datetime | None = None

    def of(self, said: Said) -> str:
        """The message's own id, else one of who said what when; the same words at the same time count up."""
        if said.external_id is not None:
            return said.external_id
        if said.at != self._at or len(self._repeats) > REPEATS_REMEMBERED:
            self._repeats.clear()
            self._at = said.at
        digest = self._content(b"message", said)
        self._repeats[digest] += 1
        return f"{digest.hex()}-{self._repeats[digest]}"

    def of_conversation(self, header: Header, first: Said) -> bytes:
        """Chats of one character often begin alike; the time, or what the header says, tells them apart."""
        if header.sliding and header.key:
            return self._digest(b"conversation", header.key)
        return self._content(b"conversation", first, header.key or "", first.external_id or "")

    def _content(self, what: bytes, said: Said, *more: str) -> bytes:
        at = said.at.isoformat() if said.at else ""
        return self._digest(what, said.role, said.speaker or "", at, said.text, *more)

    def _digest(self, what: bytes, *parts: str) -> bytes:
        hashed = hashlib.blake2b(key=self._user, person=what, digest_size=20)
        for part in parts:
            hashed.update(len(part).to_bytes(4) + part.encode())
        return hashed.digest()


def _first_reason(report: ImportReport) -> str:
    return f"Line {report.errors[0][0]}: {report.errors[0][1]}." if report.errors else ""
