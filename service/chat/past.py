"""The recent past of a conversation: its live copy, or made anew from PostgreSQL."""

from uuid import UUID

from memory.errors import LongTermMemoryError
from memory.postgres import Database
from memory.transcript import Conversation, read_branch, read_conversation
from sessions.state import Buffer, Line, Session
from sessions.store import Live, LiveState

BUFFER_LINES = 24
"""Recent messages kept at hand; the prompt takes as many as fit."""


class Past:
    def __init__(self, database: Database, live: LiveState) -> None:
        self._database = database
        self._live = live

    async def load(self, user_id: UUID, conversation_id: UUID) -> Live:
        """The live copy, as far as there is one."""
        return await self._live.load(user_id, conversation_id)

    async def found(self, user_id: UUID, conversation_id: UUID) -> Live:
        """The live copy, or what PostgreSQL has up to the latest message; neither for a conversation that isn't theirs."""
        live = await self.load(user_id, conversation_id)
        if (live.session is not None and live.buffer is not None) or not self._database.has_room:
            return live
        try:
            session, buffer = await self._read(user_id, conversation_id, None, latest=True)
        except LongTermMemoryError:
            return live  # whoever accepts the message says what is wrong
        return Live(session, buffer)

    async def rebuilt(self, user_id: UUID, conversation_id: UUID, head_id: UUID | None) -> Buffer:
        """The past up to this message. Raises `ConversationNotFoundError`."""
        _, buffer = await self._read(user_id, conversation_id, head_id, latest=False)
        return buffer

    async def _read(
        self, user_id: UUID, conversation_id: UUID, head_id: UUID | None, *, latest: bool
    ) -> tuple[Session, Buffer]:
        async with self._database.as_user(user_id) as connection:
            conversation = await read_conversation(connection, user_id, conversation_id)
            head = conversation.head_id if latest else head_id
            branch = await read_branch(connection, user_id, conversation_id, head, BUFFER_LINES) if head else []
        session = _session(conversation)
        await self._live.save(session, None)
        lines = tuple(Line(m.seq, m.role, m.content, m.speaker) for m in branch)
        return session, _buffer(conversation, head, lines)


def _buffer(conversation: Conversation, head_id: UUID | None, lines: tuple[Line, ...]) -> Buffer:
    return Buffer(
        owner=conversation.user_id,
        conversation_id=conversation.id,
        head_id=head_id,
        companion_name=conversation.companion_name,
        persona=conversation.persona,
        time_zone=conversation.time_zone,
        summary=conversation.summary,
        summary_seq=0,
        lines=lines,
        version=conversation.version,
    )


def _session(conversation: Conversation) -> Session:
    return Session(
        conversation.user_id, conversation.id, conversation.route, conversation.lock_reason, conversation.lock_epoch, ()
    )
