"""How much of what is remembered should not be there: counted anew from the facts and the messages they came from."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from typing import Any, ClassVar
from uuid import UUID

from memory import evidence, slots, words
from memory.consolidation import same_frame
from memory.curation import BY_USER
from memory.evidence import Setting
from memory.extraction import Said
from memory.postgres import Database
from memory.refusals import refusal

COMMON = 60
"""A stem in more of a user's facts than this finds no pairs: what only such words share is no duplicate."""
LOOP_LIKENESS = 0.8


@dataclass(frozen=True, slots=True)
class Report:
    """What one audit found. `junk` counts facts, not findings; of duplicates only the copies."""

    GOAL: ClassVar[float] = 0.02
    MEANINGS: ClassVar[dict[str, str]] = {
        "unsupported": "the message they came from does not say it",
        "misattributed": "said by somebody who can't know",
        "duplicates": "copies of another fact",
        "near_duplicates": "say what another fact says",
        "recall_loops": "the companion's repetition of what the user had said",
        "contradictions": "two values where only one can hold",
        "secrets": "passwords, keys, orders, links: not to be remembered",
    }
    facts: int
    users: int
    found: dict[str, int]
    junk: int
    by_user: int = 0
    """Facts that users wrote themselves: counted, never called junk."""
    imported: int = 0
    """Facts that rest on another program's word alone: looked through for all that needs no message."""
    examples: dict[str, list[UUID]] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.junk / self.facts if self.facts else 0.0

    @property
    def clean(self) -> bool:
        return self.rate < self.GOAL

    def as_json(self) -> dict[str, Any]:
        return {
            "facts": self.facts,
            "users": self.users,
            "by_user": self.by_user,
            "imported": self.imported,
            "junk": self.junk,
            "junk_rate": round(self.rate, 5),
            "goal": self.GOAL,
            "found": self.found,
            "examples": {what: [str(fact) for fact in some] for what, some in self.examples.items()},
        }


@dataclass(frozen=True, slots=True)
class Audited:
    """A current fact beside its message."""

    id: UUID
    kind: str
    topic: str
    slot: str
    text: str
    quote: str
    key: bytes
    route: str
    companion: str
    time_zone: str
    extractor: str
    said_at: datetime
    origin: str
    message: Said | None

    @property
    def told(self) -> bool:
        """By another program, and not said here."""
        return bool(self.origin) and not self.quote


FACTS = """
SELECT f.id, f.kind, f.topic, f.slot, f.text, f.quote, f.key, f.route,
    coalesce(c.companion_name, ''), coalesce(c.time_zone, 'UTC'), f.extractor, f.said_at, f.origin,
    m.seq, m.id AS message_id, m.role, m.speaker, m.content, m.created_at
FROM facts f LEFT JOIN conversations c ON c.user_id = f.user_id AND c.id = f.conversation_id
LEFT JOIN messages m ON m.user_id = f.user_id AND m.id = f.message_id
WHERE f.user_id = $1 AND f.status IN ('active', 'uncertain') ORDER BY f.learnt_at, f.id
"""
EXAMPLES = 20


async def audit_memories(database: Database, users: Iterable[UUID] | None = None) -> Report:
    """Audit every user's facts, or these users'. Reads one user at a time, so that it may run beside everything else."""
    if users is None:
        async with database.system() as connection:
            users = [row["user_id"] for row in await connection.fetch("SELECT DISTINCT user_id FROM facts")]
    found: Counter[str] = Counter(dict.fromkeys(Report.MEANINGS, 0))
    total = junk = counted = by_user = imported = 0
    examples: dict[str, list[UUID]] = defaultdict(list)
    for user_id in users:
        async with database.as_user(user_id) as connection:
            rows = await connection.fetch(FACTS, user_id)
        facts = [_audited(tuple(row)) for row in rows]
        flagged = audit(facts)
        counted += 1
        total += len(facts)
        imported += sum(fact.told for fact in facts)
        by_user += sum(fact.message is None and not fact.quote and not fact.told for fact in facts)
        junk += len(set().union(*flagged.values()))
        for what, ids in flagged.items():
            found[what] += len(ids)
            examples[what] += sorted(ids)[: EXAMPLES - len(examples[what])]
    return Report(
        total, counted, dict(found), junk, by_user, imported, {what: some for what, some in examples.items() if some}
    )


def _audited(row: tuple[Any, ...]) -> Audited:
    fact, message = row[:13], row[13:]
    return Audited(*fact, None if message[0] is None else Said(*message))  # type: ignore[call-arg]  # by the columns


def audit(facts: Sequence[Audited]) -> dict[str, set[UUID]]:
    """What is wrong with one user's current facts, by kind of trouble."""
    flagged: dict[str, set[UUID]] = {what: set() for what in Report.MEANINGS}
    learnt = [fact for fact in facts if fact.quote or fact.told]
    for fact in learnt:
        if trouble := _trouble(fact):
            flagged[trouble].add(fact.id)
    _duplicates(learnt, flagged)
    _contradictions(facts, flagged)
    return flagged


def _trouble(fact: Audited) -> str:
    if refusal(fact.text) or refusal(fact.quote):
        return "secrets"
    if fact.extractor == BY_USER or fact.told:
        return ""  # corrected by its owner, who is the best witness
    if fact.message is None:
        return "unsupported"
    if evidence.misattributed(fact.kind, fact.text, fact.quote, fact.message, fact.companion):
        return "misattributed"
    names = tuple(name for name in (fact.companion, fact.message.speaker) if name)
    return (
        "unsupported"
        if evidence.unsupported(fact.text, fact.quote, fact.message, Setting(fact.time_zone, names))
        else ""
    )


def _duplicates(facts: Sequence[Audited], flagged: dict[str, set[UUID]]) -> None:
    seen: set[tuple[str, str, str, bytes]] = set()
    for fact in facts:
        identity = (fact.route, fact.kind, "" if fact.kind == "user" else fact.companion, fact.key)
        if identity in seen:
            flagged["duplicates"].add(fact.id)
        seen.add(identity)
    for older, newer in _pairs(facts):
        if older.kind == newer.kind:
            mine, theirs = words.content(newer.text), words.content(older.text)
            if older.slot == newer.slot and same_frame(newer.text, older.text) and (mine <= theirs or theirs <= mine):
                flagged["near_duplicates"].add(newer.id)
        elif older.kind == "user" and newer.message is not None and newer.message.role == "assistant":
            mine, theirs = words.content(newer.text), words.content(older.text)
            if len(mine & theirs) >= LOOP_LIKENESS * len(mine | theirs):
                flagged["recall_loops"].add(newer.id)
    flagged["near_duplicates"] -= flagged["duplicates"]


def _pairs(facts: Sequence[Audited]) -> Iterable[tuple[Audited, Audited]]:
    """Facts of one route that share at least two stems, the older first."""
    holding: dict[str, list[int]] = defaultdict(list)
    for at, fact in enumerate(facts):
        for stem in words.content(fact.text):
            holding[stem].append(at)
    shared: Counter[tuple[int, int]] = Counter()
    for places in holding.values():
        if len(places) <= COMMON:
            shared.update(combinations(places, 2))
    for (first, second), number in shared.items():
        older, newer = facts[first], facts[second]
        short = min(len(words.content(older.text)), len(words.content(newer.text)))
        if number >= min(2, short) and older.route == newer.route:
            yield older, newer


def _contradictions(facts: Sequence[Audited], flagged: dict[str, set[UUID]]) -> None:
    holders: dict[tuple[str, str, str, str], list[Audited]] = defaultdict(list)
    for fact in facts:
        if fact.slot:
            companion = "" if fact.kind == "user" else fact.companion
            holders[fact.route, fact.kind, companion, fact.slot].append(fact)
    for (*_, slot), rivals in holders.items():
        latest = max(rivals, key=lambda fact: fact.said_at)
        value = slots.value_of(latest.kind, latest.text)
        for fact in rivals:
            if fact is not latest and not slots.same_value(slot, slots.value_of(fact.kind, fact.text), value):
                flagged["contradictions"].add(fact.id)


async def keep_report(database: Database, report: Report) -> None:
    async with database.system() as connection:
        await connection.execute("INSERT INTO memory_audits (report) VALUES ($1)", report.as_json())


async def drop_old_reports(database: Database) -> None:
    async with database.system() as connection:
        await connection.execute("DELETE FROM memory_audits WHERE ran_at < now() - interval '400 days'")


async def latest_report(database: Database) -> dict[str, Any] | None:
    """The last audit's figures, or None before the first."""
    async with database.system() as connection:
        report: dict[str, Any] | None = await connection.fetchval(
            "SELECT report FROM memory_audits ORDER BY ran_at DESC LIMIT 1"
        )
    return report
