"""Locks by operators: for moderation, a parent, or the law. Users can't open them, and what was being written stops."""

from typing import Annotated, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Request

from memory.postgres import Database
from memory.transcript import set_lock
from service.auth.dependencies import Operator
from service.auth.principal import derive_user_id
from service.compliance.schemas import LockIn, LockOut, SubjectLockIn
from service.problems import problems
from sessions.store import LiveState

PROBLEMS = problems({403: "`operator_only`", 404: "`conversation_not_found`"})

router = APIRouter(prefix="/v1/operator/locks", tags=["operator"])


class Locksmith:
    """What the handlers below need of the process."""

    def __init__(self, request: Request) -> None:
        self._database = cast("Database", request.app.state.runtime.database)
        self._live = cast("LiveState", request.app.state.runtime.live)

    async def set(self, body: SubjectLockIn, reason: str | None) -> LockOut:
        """Raises `ConversationNotFoundError`."""
        user_id: UUID = derive_user_id(body.issuer, body.subject)
        async with self._database.as_user(user_id) as connection:
            locked = await set_lock(connection, user_id, body.conversation_id, reason, by="operator")
        await self._live.forget(body.conversation_id)
        return LockOut(conversation_id=locked.id, reason=locked.lock_reason, epoch=locked.lock_epoch)


AtLock = Annotated[Locksmith, Depends(Locksmith)]


@router.post("", summary="Lock a user's conversation", responses=PROBLEMS)
async def lock(_operator: Operator, locksmith: AtLock, body: LockIn) -> LockOut:
    return await locksmith.set(body, body.reason)


@router.post("/release", summary="Unlock it, whoever locked it", responses=PROBLEMS)
async def release(_operator: Operator, locksmith: AtLock, body: SubjectLockIn) -> LockOut:
    return await locksmith.set(body, None)
