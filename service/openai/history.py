"""Find the conversation that a stateless client means: by name, else by the history that it sends along.

A client of Chat Completions resends everything each time. Every message here keeps a chain, a digest of all that leads
up to it, so that the longest known part of a history is found with one look-up: what follows it is added, what was
known is not stored again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from uuid_utils.compat import uuid7

from memory import chains, tombstones, transcript
from memory.erasure import MARK
from memory.postgres import Database
from memory.transcript import ImportedMessage, Owner
from memory.vault import index_key
from service.openai.notices import without_notices
from service.openai.schemas import ChatMessageIn

PREFIXES = 64
"""How far back from its end a history is looked for; a client that edited more than that begins a new conversation."""


@dataclass(frozen=True, slots=True)
class Said:
    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a new message belongs."""

    conversation_id: UUID
    parent_id: UUID | None = None
    """None: after the latest message."""
    answers: UUID | None = None
    """The message is there already: it is to be answered once more."""


def spoken(messages: Sequence[ChatMessageIn]) -> list[Said]:
    """The messages of the two sides; instructions and tool traffic are not part of the conversation."""
    return [
        Said(role, text)
        for role, text in ((message.role, _said(message)) for message in messages)
        if role in {"user", "assistant"} and text.strip()
    ]


def _said(message: ChatMessageIn) -> str:
    return without_notices(message.text) if message.role == "assistant" else message.text


def instructions(messages: Sequence[ChatMessageIn]) -> str:
    return "\n\n".join(message.text for message in messages if message.role in {"system", "developer"} and message.text)


async def place(database: Database, owner: Owner, said: Sequence[Said], route: str, *, again: bool = False) -> Place:
    """Find or make the place of the last of `said`, whose predecessors are what the client remembers.

    `again`: the client says that it is repeating a request. Otherwise a first message begins a conversation, however
    often the same words have begun one.
    """
    history, message = said[:-1], said[-1]
    if not history and not again:
        return Place(await _begin(database, owner, route))
    words = [(one.role, one.text) for one in said]
    old = chains.chains(words)
    async with database.as_user(owner.user_id) as connection:
        chain = chains.keyed_chains(await index_key(connection, owner.user_id), owner.user_id, words)
        ways = [way[::-1][:PREFIXES] for way in ([chain] if chain == old else [chain, old])]
        found = await transcript.find_by_chain(connection, owner.user_id, ways, route)
    if found is not None and len(found.chain) == chains.PLAIN:
        chain = old  # the conversation began before its chain was keyed, and goes on so
    if found is not None and found.chain == chain[-1] and message.role == "user":
        return Place(found.conversation_id, answers=found.message_id)
    if found is None:
        conversation_id, parent_id, known = await _begin(database, owner, route), None, 0
    else:
        conversation_id, parent_id, known = found.conversation_id, found.message_id, chain.index(found.chain) + 1
    if known < len(history):
        parent_id = await _remember(database, owner, conversation_id, parent_id, history[known:], chain[known:])
    return Place(conversation_id, parent_id)


async def _begin(database: Database, owner: Owner, route: str) -> UUID:
    conversation_id = uuid7()
    async with database.as_user(owner.user_id) as connection:
        await transcript.create_conversation(connection, owner, conversation_id, route=route, source="openai")
    return conversation_id


async def _remember(
    database: Database,
    owner: Owner,
    conversation_id: UUID,
    parent_id: UUID | None,
    history: Sequence[Said],
    chain: Sequence[bytes],
) -> UUID:
    """Keep a part of the client's history that is new here; when it was said isn't known, so it was just now, in order.

    What its owner had forgotten here keeps its place and its chain, by which the client's next request is recognised.
    """
    began = datetime.now(UTC) - timedelta(milliseconds=len(history))
    async with database.as_user(owner.user_id) as connection:
        said = [(one.role, one.text) for one in history]
        forgotten = await tombstones.forgotten_words(connection, owner.user_id, said)
        messages = [
            ImportedMessage(
                uuid7(),
                role,
                None,
                MARK if position in forgotten else text,
                began + timedelta(milliseconds=position),
                chain=chain[position],
            )
            for position, (role, text) in enumerate(said)
        ]
        await transcript.append_imported(connection, owner.user_id, conversation_id, messages, parent_id=parent_id)
    return messages[-1].id
