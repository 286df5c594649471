"""Locks by operators: for moderation, a parent, or the law. Users can't open them, and what was being written stops."""

from fastapi import APIRouter

from memory.transcript import set_lock
from service.auth.dependencies import Operator
from service.compliance.schemas import LockIn, LockOut, SubjectLockIn
from service.dependencies import Context
from service.principal import derive_user_id
from service.problems import problems

PROBLEMS = problems({403: "`operator_only`", 404: "`conversation_not_found`"})

router = APIRouter(prefix="/v1/operator/locks", tags=["operator"])


@router.post("", summary="Lock a user's conversation", responses=PROBLEMS)
async def lock(_operator: Operator, context: Context, body: LockIn) -> LockOut:
    return await _set(context, body, body.reason)


@router.post("/release", summary="Unlock it, whoever locked it", responses=PROBLEMS)
async def release(_operator: Operator, context: Context, body: SubjectLockIn) -> LockOut:
    return await _set(context, body, None)


async def _set(context: Context, body: SubjectLockIn, reason: str | None) -> LockOut:
    user_id = derive_user_id(body.issuer, body.subject)
    async with context.database.as_user(user_id) as connection:
        locked = await set_lock(connection, user_id, body.conversation_id, reason, by="operator")
    await context.live.forget(body.conversation_id)
    return LockOut(conversation_id=locked.id, reason=locked.lock_reason, epoch=locked.lock_epoch)
