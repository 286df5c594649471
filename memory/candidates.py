"""Memories for a closer look, gathered from what the store sent: columns to rank by, texts that open when asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
import numpy as np

from memory import associations
from memory.associations import Floats
from memory.ranking import Candidates
from memory.scores import Chosen, conversation_keys, integers
from memory.vault import KeyRing, misplaced, plain_sizes

SENT_FROM = 946_684_800_000_000
"""Microseconds from 1970 to 2000, from where on PostgreSQL counts them."""


@dataclass(frozen=True, slots=True)
class Found:
    columns: Candidates
    dense: Floats
    """Cosines."""
    ids: bytes
    conversations: bytes
    messages: bytes
    """Ids, 16 bytes each."""
    texts: Sequence[str]
    ring: KeyRing
    _opened: dict[int, str] = field(default_factory=dict)
    _uuids: dict[bytes, UUID] = field(default_factory=dict)

    def text(self, place: int) -> str:
        """Nothing, when it was sealed for another memory than this one."""
        known = self._opened.get(place)
        if known is None:
            known = self.ring.decode(self.texts[place])
            if misplaced("facts" if self.columns.facts[place] else "episodes", _bytes(self.ids, place), known):
                known = ""
            self._opened[place] = known
        return known

    def id(self, place: int) -> UUID:
        return self._uuid(self.ids, place)

    def conversation_id(self, place: int) -> UUID:
        return self._uuid(self.conversations, place)

    def message_id(self, place: int) -> UUID:
        return self._uuid(self.messages, place)

    def _uuid(self, packed: bytes, place: int) -> UUID:
        """Each once: a message's episode has its id, and most are of one conversation."""
        raw = _bytes(packed, place)
        known = self._uuids.get(raw)
        if known is None:
            known = self._uuids[raw] = UUID(bytes=raw)
        return known


def _bytes(packed: bytes, place: int) -> bytes:
    return packed[16 * place : 16 * place + 16]


def gather(details: asyncpg.Record, messages: Chosen, facts: Chosen, ring: KeyRing) -> Found:
    """Bring details, which come in any order, and scores together. A memory that went in between is left out."""
    ids, fact_ids = details["ids"] or b"", details["fact_ids"] or b""
    place, fact_place = _places(ids, messages), _places(fact_ids, facts)
    conversations = b"".join([messages.conversations[n] for n in place]) + (details["fact_conversations"] or b"")
    fact_texts = [ring.decode(text) for text in details["fact_texts"] or ()]
    texts = [*(details["texts"] or ()), *fact_texts]
    table = associations.table()

    def joined(name: str) -> Floats:
        both: Floats = np.concatenate([getattr(messages, name)[place], getattr(facts, name)[fact_place]])
        return both

    columns = Candidates(
        facts=np.concatenate([np.zeros(len(place), bool), np.ones(len(fact_place), bool)]),
        conversations=conversation_keys(conversations),
        seqs=np.concatenate([messages.seqs[place], integers(details["fact_seqs"])]),
        roles=[*(details["roles"] or ()), *(details["fact_roles"] or ())],
        speakers=[*(details["speakers"] or ()), *([None] * len(fact_place))],
        said_at=integers((details["said_at"] or b"") + (details["fact_said_at"] or b"")) + SENT_FROM,
        lengths=plain_sizes(texts),
        traits=np.concatenate([integers(details["traits"], 2), np.zeros(len(fact_place), np.int64)]),
        known_words=[
            *(details["known_words"] or ()),  # opened as they came, unlike texts
            *(table.numbers(text).tobytes() for text in fact_texts),
        ],
        words=joined("words"),
        meaning=joined("meaning"),
        words_before=joined("words_before"),
        meaning_after=joined("meaning_after"),
        around=joined("around"),
    )
    own_messages = ids + (details["fact_messages"] or b"")
    return Found(columns, joined("dense"), ids + fact_ids, conversations, own_messages, texts, ring)


def _places(ids: bytes, chosen: Chosen) -> list[int]:
    where = {one: place for place, one in enumerate(chosen.ids)}
    return [where[ids[start : start + 16]] for start in range(0, len(ids), 16)]
