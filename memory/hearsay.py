"""What another program remembered about a user: taken over as it says, named as such, and never a proof of anything.

Nobody said these statements here, so there is no quote to test them by. Each carries where it comes from
(`facts.origin`); it gives no orders, replaces nothing that was said here, and what its owner had forgotten stays away.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from uuid import UUID

from uuid_utils.compat import uuid7

from memory import consolidation, facts, slots, tombstones
from memory.curation import NIL, drop_profiles, ensure_user
from memory.extraction import Said
from memory.facts import KnownFact, NewFact
from memory.indexing import dense, sparse, term_weights
from memory.ports import Vectors
from memory.postgres import Connection
from memory.refusals import refusal
from memory.transcript import Owner
from memory.vault import index_key, sealed, under

TEXT_CHARS = 500


@dataclass(frozen=True, slots=True)
class Told:
    """One statement of another program."""

    program: str
    source_id: str
    """What the program calls the statement: the same each time that its export is read."""
    kind: str
    text: str
    at: datetime


def refused(text: str) -> str:
    """Why a statement can't be taken over, or nothing. What asks for evidence is left out: there is none."""
    if not 4 <= len(text) <= TEXT_CHARS:
        return "length"
    return refusal(text)


async def take_over(
    connection: Connection, owner: Owner, told: Sequence[Told], vectors: Vectors | None, *, route: str
) -> Counter[str]:
    """Write the statements that are new; gives how many were added, known, history, or forgotten before.

    `vectors` holds a row for each. A statement whose text its program has changed replaces its old form.
    """
    user_id = owner.user_id
    await ensure_user(connection, owner)
    await connection.execute("SELECT FROM users WHERE user_id = $1 FOR NO KEY UPDATE", user_id)
    texts = [" ".join(one.text.split()) for one in told]
    index = await index_key(connection, user_id)
    origins = [_origin(index, user_id, one) for one in told]
    gone = await tombstones.untold(
        connection,
        user_id,
        [(origin, one.kind, text) for origin, one, text in zip(origins, told, texts, strict=True)],
    )
    known = await facts.read_current(connection, user_id, route)
    here = await _here(connection, user_id, origins)
    # what others told about somebody yields to what was said here
    hearsay = await _hearsay(connection, user_id)
    done: Counter[str] = Counter()
    for number, one in sorted(enumerate(told), key=lambda pair: (pair[1].at, pair[0])):
        new = _new(index, one, texts[number], route, None if vectors is None else vectors[number])
        if number in gone:
            done["forgotten"] += 1
            continue
        before = here.setdefault(origins[number], {})
        if new.key in before:
            done["known"] += 1
            continue
        earlier = [fact for fact in known if fact.id in before.values()]
        action, others = ("supersede", earlier) if earlier else _decided(new, known, hearsay)
        done[action if action in {"known", "history"} else "added"] += 1
        if action == "known" and others[0].key == new.key:
            continue
        # known in other words: kept behind what is known, so that it goes with it when that is forgotten
        newer = others[0].id if action in {"known", "history"} else None
        await _write(connection, user_id, new, origins[number], newer)
        before[new.key] = new.id
        if newer is not None:
            continue
        hearsay.add(new.id)
        for other in others:
            await facts.supersede(connection, user_id, other.id, new.id, new.valid_from)
        replaced = {other.id for other in others}
        known = [*(fact for fact in known if fact.id not in replaced), _as_known(new)]
    if done["added"]:
        await drop_profiles(connection, user_id)
    return done


def _decided(new: NewFact, known: Sequence[KnownFact], hearsay: set[UUID]) -> tuple[str, tuple[KnownFact, ...]]:
    decision = consolidation.decide(new, known)
    if decision.action == "confirm":
        return "known", decision.known
    if decision.action == "history":
        return "history", decision.known
    if decision.action in {"supersede", "merge"}:
        said_here = tuple(fact for fact in decision.known if fact.id not in hearsay)
        if not said_here:
            return "supersede", decision.known
        return ("history", said_here) if decision.action == "supersede" else ("add", ())
    return "add", ()


def _origin(index: bytes, user_id: UUID, told: Told) -> str:
    """As it is stored: an id elsewhere may hold words (a line of a block has no other id)."""
    digest = blake2b(told.source_id.encode(), key=user_id.bytes, digest_size=16).digest()
    return f"{told.program}:{under(index, user_id, digest).hex()}"


def _new(index: bytes, told: Told, text: str, route: str, vector: Vectors | None) -> NewFact:
    slot = slots.slot_of(told.kind, text)
    key = facts.key_of(index, told.kind, text)
    fact_id = uuid7()
    return NewFact(
        id=fact_id,
        kind=told.kind,
        topic=slots.topic_of(text),
        slot=slots.stored(slot, index),
        value=slot.value if slot else "",
        text=text,
        quote="",
        source=Said(facts.place_of(fact_id), fact_id, "user", None, "", told.at),
        conversation_id=NIL,
        ordinal=0,
        extractor=told.program,
        route=route,
        companion="",
        valid_from=told.at,
        due_at=None,
        key=key,
        vector=vector,
    )


ADD = """
INSERT INTO facts (user_id, id, kind, topic, slot, key, text, quote, conversation_id, message_id, source_seq, ordinal,
    extractor, route, said_at, valid_from, valid_to, superseded_by, status, origin, lexical, embedding, embedding_b)
VALUES ($1, $2, $3, $4, $5, $6, $7, '', $8, $2, $9, 0, $10, $11, $12, $12,
    CASE WHEN $13::uuid IS NOT NULL THEN $12::timestamptz END, $13,
    CASE WHEN $13::uuid IS NULL THEN 'active' ELSE 'superseded' END, $14, $15::text::sparsevec, vector_for($16, 1), vector_for($16, 2))
"""


async def _write(connection: Connection, user_id: UUID, new: NewFact, origin: str, newer: UUID | None) -> None:
    await connection.execute(
        ADD,
        user_id,
        new.id,
        new.kind,
        new.topic,
        new.slot,
        new.key,
        await sealed(connection, user_id, "facts", new.id, new.text),
        NIL,
        new.source.seq,
        new.extractor,
        new.route,
        new.source.said_at,
        newer,
        origin,
        sparse(term_weights(await index_key(connection, user_id), new.text)),
        None if new.vector is None else dense(new.vector),
    )


async def _here(connection: Connection, user_id: UUID, origins: Sequence[str]) -> dict[str, dict[bytes, UUID]]:
    """What came from these origins before, by what it says, whatever became of it."""
    rows = await connection.fetch(
        "SELECT origin, key, id FROM facts WHERE user_id = $1 AND origin = ANY ($2::text[])", user_id, list(origins)
    )
    found: dict[str, dict[bytes, UUID]] = {}
    for row in rows:
        found.setdefault(row["origin"], {})[row["key"]] = row["id"]
    return found


async def _hearsay(connection: Connection, user_id: UUID) -> set[UUID]:
    """Current facts that rest on nothing but another program's word."""
    rows = await connection.fetch(
        """SELECT id FROM facts f WHERE user_id = $1 AND origin <> '' AND status IN ('active', 'uncertain')
        AND NOT EXISTS (SELECT FROM fact_sources s WHERE s.user_id = $1 AND s.fact_id = f.id)""",
        user_id,
    )
    return {row["id"] for row in rows}


def _as_known(new: NewFact) -> KnownFact:
    return KnownFact(
        new.id,
        new.kind,
        new.topic,
        new.slot,
        new.text,
        new.key,
        "active",
        False,
        new.source.said_at,
        new.valid_from,
        "",
    )
