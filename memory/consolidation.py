"""Settle what was just said against what is known: add, confirm, merge, supersede, or keep as history.

Rules decide; a model is asked only about two facts that look alike and that no rule can tell apart, and its silence
means that both stay. Nothing is ever deleted here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import orjson
from uuid_utils.compat import uuid7

from memory import facts as store
from memory import prompts, slots, words
from memory.errors import ReasonerRefusedError, ReasonerUnavailableError
from memory.evidence import Supported
from memory.extraction import PROMPT as EXTRACTOR
from memory.facts import KnownFact, NewFact, read_current
from memory.metrics import UNCERTAIN
from memory.ports import Embedder, Reasoner
from memory.postgres import Connection

__all__ = ["KnownFact", "NewFact", "Verdicts", "ask_about", "decide", "prepare", "read_current", "settle", "undecided"]

Action = Literal["add", "confirm", "merge", "supersede", "history", "ignore", "ask"]
Verdict = Literal["both", "same", "replaces"]
Verdicts = Mapping[tuple[UUID, UUID], Verdict]
"""What a model said about (new fact, known fact)."""

MOST_ASKED = 3
ALIKE = 0.6
"""Share of common stems (Jaccard) from which two facts without a slot are worth a question."""


@dataclass(frozen=True, slots=True)
class Decision:
    action: Action
    known: tuple[KnownFact, ...] = ()
    """Those that it confirms, merges with, replaces, or is asked about."""


async def prepare(
    embedder: Embedder, index: bytes, conversation_id: UUID, route: str, companion: str, supported: Sequence[Supported]
) -> list[NewFact]:
    """Give supported claims their slot, their key by `vault.index_key`, and vector; a claim made twice in one answer counts once."""
    chosen: dict[bytes, NewFact] = {}
    ordinals: Counter[int] = Counter()
    for claim in supported:
        key = store.key_of(index, claim.kind, claim.text)
        if key in chosen:
            continue
        slot = slots.slot_of(claim.kind, claim.text)
        chosen[key] = NewFact(
            id=uuid7(),
            kind=claim.kind,
            topic=slots.topic_of(claim.text),
            slot=slots.stored(slot, index),
            value=slot.value if slot else "",
            text=claim.text,
            quote=claim.quote,
            source=claim.message,
            conversation_id=conversation_id,
            ordinal=ordinals[claim.message.seq],
            extractor=EXTRACTOR,
            route=route,
            companion=companion,
            valid_from=claim.valid_from,
            due_at=claim.due_at,
            key=key,
        )
        ordinals[claim.message.seq] += 1
    facts = sorted(chosen.values(), key=lambda fact: (fact.source.seq, fact.ordinal))
    if not facts:
        return []
    vectors = await embedder.embed([fact.text for fact in facts])
    return [replace(fact, vector=vector) for fact, vector in zip(facts, vectors, strict=True)]


# --- the rules


def decide(new: NewFact, known: Sequence[KnownFact], verdicts: Verdicts | None = None) -> Decision:
    """What becomes of a new fact beside the current ones. Pure: the same facts always bring the same decision."""
    alike = [
        fact for fact in known if fact.kind == new.kind and (new.kind == "user" or fact.companion == new.companion)
    ]
    same = [fact for fact in alike if fact.key == new.key]
    if same:
        return Decision("confirm", tuple(same[:1]))
    if new.slot and (rivals := [fact for fact in alike if fact.slot == new.slot]):
        return _of_slot(new, rivals)
    for fact in alike:
        if fact.slot != new.slot or not same_frame(new.text, fact.text):
            continue
        more, less = (
            words.content(new.text) - words.content(fact.text),
            words.content(fact.text) - words.content(new.text),
        )
        if not more:
            return Decision("confirm", (fact,))
        if not less:
            return Decision("merge", (fact,))
    return _asked(new, alike, verdicts or {})


def _of_slot(new: NewFact, rivals: Sequence[KnownFact]) -> Decision:
    """A slot holds one value: the one said last."""
    for fact in rivals:
        if slots.same_value(new.slot, new.value, slots.value_of(fact.kind, fact.text)):
            more = words.content(new.text) - words.content(fact.text)
            return Decision(
                "merge" if more and not words.content(fact.text) - words.content(new.text) else "confirm", (fact,)
            )
    if any(fact.said_at > new.source.said_at for fact in rivals):
        # learnt late, said early: an import, or a message that waited
        return Decision(
            "history", (min((f for f in rivals if f.said_at > new.source.said_at), key=lambda f: f.said_at),)
        )
    return Decision("supersede", tuple(rivals))


def same_frame(first: str, second: str) -> bool:
    """Whether two texts may say the same: the same numbers and names, neither denying what the other states.

    Vectors can't tell: "is vegetarian" and "is not vegetarian any more" are nearer to each other than two true
    paraphrases (cosine 0.949 and 0.935, measured).
    """
    if words.numbers(first) != words.numbers(second) or words.is_denial(first) != words.is_denial(second):
        return False
    mine, theirs = words.names(first), words.names(second)
    return (mine <= theirs or theirs <= mine) and len(words.content(first) & words.content(second)) >= 2


def _likeness(first: str, second: str) -> float:
    mine, theirs = words.content(first), words.content(second)
    return len(mine & theirs) / max(1, len(mine | theirs))


def _asked(new: NewFact, alike: Sequence[KnownFact], verdicts: Verdicts) -> Decision:
    near = sorted(
        (fact for fact in alike if _likeness(new.text, fact.text) >= ALIKE), key=lambda f: -_likeness(new.text, f.text)
    )
    for fact in near[:1]:
        match verdicts.get((new.id, fact.id)):
            case "same":
                return Decision("confirm", (fact,))
            case "replaces" if fact.said_at <= new.source.said_at:
                return Decision("supersede", (fact,))
            case None:
                return Decision("ask", (fact,))
            case _:
                break
    return Decision("add")


# --- the model, for what rules can't tell

JUDGE = "judge-1"
JUDGE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["verdict"],
    "properties": {"verdict": {"type": "string", "enum": ["both", "same", "replaces"]}},
}


def undecided(new: Sequence[NewFact], known: Sequence[KnownFact]) -> list[tuple[NewFact, KnownFact]]:
    found = [(fact, decision.known[0]) for fact in new if (decision := decide(fact, known)).action == "ask"]
    return found[:MOST_ASKED]


async def ask_about(reasoner: Reasoner, pairs: Sequence[tuple[NewFact, KnownFact]]) -> dict[tuple[UUID, UUID], Verdict]:
    """Ask whether the second of two facts repeats or replaces the first. No answer, or nonsense, means that both hold."""
    prompt = prompts.load(JUDGE)
    verdicts: dict[tuple[UUID, UUID], Verdict] = {}
    for new, known in pairs:
        verdicts[(new.id, known.id)] = "both"
        try:
            answer = await reasoner.structured(
                prompt.system, prompt.examples, f"A: {known.text}\nB: {new.text}", JUDGE_SCHEMA
            )
            said = orjson.loads(answer)
        except (ReasonerUnavailableError, ReasonerRefusedError, orjson.JSONDecodeError):
            continue
        verdict = said.get("verdict") if isinstance(said, dict) else None
        # a model may not overrule a plain difference: numbers or names that differ are not the same fact
        if verdict == "replaces" or (verdict == "same" and same_frame(new.text, known.text)):
            verdicts[(new.id, known.id)] = verdict
    return verdicts


# --- writing it down


async def settle(
    connection: Connection, user_id: UUID, route: str, new: Sequence[NewFact], verdicts: Verdicts
) -> Counter[str]:
    """Write the facts, in order, each seeing what the ones before it did. In the transaction that moves the watermark."""
    done: Counter[str] = Counter()
    if not new:
        return done
    known = await read_current(connection, user_id, route)
    for fact in new:
        decision = decide(fact, known, verdicts)
        known = await _carry_out(connection, user_id, fact, decision, known, done)
    return done


async def _carry_out(
    connection: Connection, user_id: UUID, fact: NewFact, decision: Decision, known: list[KnownFact], done: Counter[str]
) -> list[KnownFact]:
    """Do what was decided; gives the current facts as they are then."""
    touched = {other.id for other in decision.known}
    match decision.action:
        case "confirm":
            done[
                "confirmed" if await store.confirm(connection, user_id, decision.known[0].id, fact) else "ignored"
            ] += 1
            return known
        case "history":
            newer = decision.known[0]
            await store.add(
                connection, user_id, fact, valid_to=max(fact.valid_from, newer.valid_from), superseded_by=newer.id
            )
            done["history"] += 1
            return known
        case "merge":
            await store.add(connection, user_id, fact)
            await store.merge(connection, user_id, decision.known[0].id, fact.id)
            done["merged"] += 1
        case "supersede":
            await store.add(connection, user_id, fact)
            done["superseded"] += await _replace(connection, user_id, fact, decision.known, known)
        case _:
            await store.add(connection, user_id, fact)
            done["added"] += 1
            touched = set()
    return [*(other for other in known if other.id not in touched), _as_known(fact)]


async def _replace(
    connection: Connection, user_id: UUID, fact: NewFact, old: Sequence[KnownFact], known: Sequence[KnownFact]
) -> int:
    """Supersede what the new fact contradicts; what depended on it becomes uncertain. A pinned fact is never replaced
    unasked: it becomes uncertain itself, and both stay."""
    pinned = [other.id for other in old if other.pinned]
    for other in old:
        if not other.pinned:
            await store.supersede(connection, user_id, other.id, fact.id, until_of(fact))
    gone = {other.id for other in old}
    shaken = [
        other.id
        for other in known
        if other.id not in gone
        and other.status == "active"
        and not other.pinned
        and any(slots.depends(other, changed) for changed in old)
        and not slots.agrees(other, fact)
    ]
    if pinned or shaken:
        await store.make_uncertain(connection, user_id, [*pinned, *shaken], fact.id)
        UNCERTAIN.inc(len(pinned) + len(shaken))
    return 1


def until_of(fact: NewFact) -> datetime:
    return fact.valid_from


def _as_known(fact: NewFact) -> KnownFact:
    return KnownFact(
        fact.id,
        fact.kind,
        fact.topic,
        fact.slot,
        fact.text,
        fact.key,
        "active",
        False,
        fact.source.said_at,
        fact.valid_from,
        fact.companion,
    )
