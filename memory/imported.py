"""Conversations that were had elsewhere: their messages, once each, recallable at once."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from uuid_utils.compat import uuid7

from memory import tombstones
from memory.chains import keyed
from memory.errors import ConversationNotFoundError, RouteLockedError, TurnInProgressError
from memory.indexing import EpisodeRow, index_messages
from memory.ports import Vectors
from memory.postgres import Connection
from memory.transcript import Conversation, ImportedMessage, Owner, append_imported, create_conversation
from memory.vault import index_key

FIND = """
SELECT id FROM conversations WHERE user_id = $1 AND import_key = ANY ($2::bytea[]) AND deleted_at IS NULL
"""
NAME = "UPDATE conversations SET import_key = $3 WHERE user_id = $1 AND id = $2"
# two imports of one file at once: the second waits here, and then finds what the first made
ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended($1::text || encode($2, 'hex'), 0))"


@dataclass(frozen=True, slots=True)
class ImportTarget:
    """Where messages go: which conversation, and how its times and memories are read."""

    conversation_id: UUID
    route: str
    time_zone: str
    created: bool


@dataclass(frozen=True, slots=True)
class SaidElsewhere:
    """A message of the import; `external_id` is the same each time that the source is read."""

    external_id: str
    role: str
    speaker: str | None
    text: str
    said_at: datetime
    timed: bool = True
    """False where the source doesn't say when it was."""


async def find_or_create(
    connection: Connection,
    owner: Owner,
    key: bytes,
    *,
    route: str,
    title: str,
    companion_name: str,
    time_zone: str,
    persona: str = "",
) -> ImportTarget:
    """The conversation that this source was imported into before, else a new one."""
    await connection.execute(ONE_AT_A_TIME, str(owner.user_id), key)
    kept = keyed(await index_key(connection, owner.user_id), owner.user_id, key) or key
    # what was imported before its key was keyed is found by that one
    found = await connection.fetchval(FIND, owner.user_id, [kept, key])
    if found is not None:
        return await read_target(connection, owner.user_id, found)
    made: Conversation = await create_conversation(
        connection,
        owner,
        uuid7(),
        route=route,
        title=title,
        companion_name=companion_name,
        persona=persona,
        time_zone=time_zone,
        source="import",
    )
    await connection.execute(NAME, owner.user_id, made.id, kept)
    return ImportTarget(made.id, made.route, made.time_zone, created=True)


async def read_target(connection: Connection, user_id: UUID, conversation_id: UUID) -> ImportTarget:
    """Lock the conversation for an append. Raises a `TurnRefusedError` when nothing can be appended now."""
    row = await connection.fetchrow(
        """SELECT route, time_zone, active_turn, lock_reason FROM conversations
        WHERE user_id = $1 AND id = $2 AND deleted_at IS NULL FOR UPDATE""",
        user_id,
        conversation_id,
    )
    if row is None:
        raise ConversationNotFoundError("The conversation was deleted while it was being imported.")
    if row["lock_reason"] is not None:
        raise RouteLockedError(row["lock_reason"])
    if row["active_turn"] is not None:
        raise TurnInProgressError(row["active_turn"])
    return ImportTarget(conversation_id, row["route"], row["time_zone"], created=False)


MADE_OF_WORDS = re.compile(r"([0-9a-f]{40})-(\d+)", re.ASCII)
"""An id that an import made of what was said, where the source has none of its own."""


def kept_id(index: bytes, user_id: UUID, external_id: str) -> str:
    """The id as it is stored: one that was made of words is keyed by the user's secret, or it would confirm a guess."""
    made = MADE_OF_WORDS.fullmatch(external_id)
    secret = keyed(index, user_id, bytes.fromhex(made[1])) if made else None
    return f"{secret.hex()}-{made[2]}" if made and secret else external_id


async def known_ids(
    connection: Connection, user_id: UUID, conversation_id: UUID, external_ids: Sequence[str]
) -> set[str]:
    """Which of the messages are there already."""
    index = await index_key(connection, user_id)
    kept = {kept_id(index, user_id, external_id): external_id for external_id in external_ids}
    rows = await connection.fetch(
        """SELECT external_id FROM messages
        WHERE user_id = $1 AND conversation_id = $2 AND external_id = ANY ($3::text[])""",
        user_id,
        conversation_id,
        [*kept, *external_ids],
    )
    return {kept.get(row["external_id"], row["external_id"]) for row in rows}


async def append_recallable(
    connection: Connection,
    user_id: UUID,
    target: ImportTarget,
    messages: Sequence[SaidElsewhere],
    vectors: Vectors | None,
) -> tuple[int, int]:
    """Append the messages that are not there yet, and make them recallable, in one go.

    Gives how many were new, and how many stay away because their owner had them forgotten.

    `vectors` holds a row for each message; without it they are found by their words until the learner adds vectors.
    Raises a `TurnRefusedError` when the conversation is gone, or a reply is being written in it.
    """
    await connection.execute("SELECT FROM users WHERE user_id = $1 FOR NO KEY UPDATE", user_id)
    await read_target(connection, user_id, target.conversation_id)
    known = await known_ids(connection, user_id, target.conversation_id, [said.external_id for said in messages])
    new = [said for said in messages if said.external_id not in known]
    welcome = {said.external_id for said in await tombstones.remembered(connection, user_id, new)}
    untimed = [said for said in new if not said.timed]
    gone = await tombstones.forgotten_words(connection, user_id, [(said.role, said.text) for said in untimed])
    welcome -= {untimed[number].external_id for number in gone}
    fresh = [(row, said) for row, said in enumerate(messages) if said.external_id in welcome]
    if not fresh:
        return 0, len(new)
    index = await index_key(connection, user_id)
    rows = [
        ImportedMessage(
            uuid7(), said.role, said.speaker, said.text, said.said_at, kept_id(index, user_id, said.external_id)
        )
        for _, said in fresh
    ]
    first = await append_imported(connection, user_id, target.conversation_id, rows)
    episodes = [
        EpisodeRow(
            conversation_id=target.conversation_id,
            seq=first + n,
            message_id=message.id,
            role=message.role,
            speaker=message.speaker,
            text=message.content,
            said_at=message.created_at,
            route=target.route,
            vector=None if vectors is None else vectors[row],
        )
        for n, (message, (row, _)) in enumerate(zip(rows, fresh, strict=True))
    ]
    await index_messages(connection, user_id, episodes, time_zone=target.time_zone)
    return len(fresh), len(new) - len(fresh)


async def name_companion(connection: Connection, user_id: UUID, conversation_id: UUID, name: str) -> None:
    """Give the companion the name that it had where the conversation comes from, unless it has one."""
    await connection.execute(
        "UPDATE conversations SET companion_name = $3 WHERE user_id = $1 AND id = $2 AND companion_name = ''",
        user_id,
        conversation_id,
        name,
    )
