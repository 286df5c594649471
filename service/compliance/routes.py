"""/v1/age-assurance: what is known of the caller's age, from somebody who may know it. A client's word is never it."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Depends

from memory.assurance import (
    ADULT,
    SELF_DECLARED,
    AssertionReplayedError,
    Assurance,
    BirthDateFixedError,
    Proof,
    Revoked,
    Verdict,
    read_assurances,
    read_oldest,
    record_proof,
    revoke_assurances,
)
from memory.postgres import Database
from memory.transcript import Owner
from service.auth.dependencies import Caller, Operator
from service.compliance import locks, safety
from service.compliance.assertions import AgeAssertions
from service.compliance.errors import (
    BelowMinimumAgeError,
    BirthDateGivenError,
    MethodNotAcceptedError,
    ReplayedError,
)
from service.compliance.schemas import (
    AgeStateOut,
    AssertionIn,
    AssuranceOut,
    DecisionIn,
    DeclarationIn,
    RevocationIn,
    RevokedOut,
    SubjectIn,
)
from service.dependencies import AGE, Context
from service.errors import InvalidRequestError
from service.policies import AssuranceLevel, Policies
from service.principal import Principal, derive_user_id
from service.problems import problems

age = APIRouter(tags=["age"])


AGE_PROBLEMS = problems(
    {
        403: "`operator_only`, `age_assertion_not_yours`, `age_method_not_accepted`, `below_minimum_age` or"
        " `age_assurance_disabled`",
        409: "`age_assertion_replayed` or `birth_date_fixed`",
        422: "`age_assertion_invalid`, `age_assertion_stale`, `unknown_level` or `invalid_request`",
    }
)

OPERATOR = "operator"


class Desk:
    """What the handlers below do with the process's database and policies."""

    def __init__(self, database: Database, policies: Policies, assertions: AgeAssertions) -> None:
        self.database = database
        self.policies = policies
        self.assertions = assertions

    def level_days(self, level: str, method: str) -> tuple[int, int]:
        """The level's minimum age and the days it may last. Raises when it is unknown or wants another method."""
        policy = self.policies.levels.get(level)
        if policy is None:
            known = ", ".join(self.policies.levels) or "none"
            raise InvalidRequestError(f"There is no level {level!r}; known: {known}.", code="unknown_level")
        if method not in policy.methods:
            raise MethodNotAcceptedError(f"The level {level!r} is not opened by the method {method!r}.")
        return policy.minimum_age, policy.days

    async def store(self, owner: Owner, proof: Proof) -> Verdict:
        """Keep the proof; take back what it contradicts. Raises after the commit when the user is too young."""
        today = datetime.now(UTC).date()
        try:
            async with self.database.as_user(owner.user_id) as connection:
                verdict = await record_proof(connection, owner, proof, today)
        except AssertionReplayedError as error:
            raise ReplayedError("This assertion was used before; get a new one.") from error
        except BirthDateFixedError as error:
            raise BirthDateGivenError("Another birth date was given before, and it can't be changed.") from error
        if verdict.oldest is not None:
            await self._close_to(owner, verdict.oldest)
        if verdict.too_young:
            raise BelowMinimumAgeError("This is for people who are older.")
        return verdict

    async def _close_to(self, owner: Owner, oldest: int) -> None:
        """Take back what asks for an older user, and stop the replies of such routes."""
        levels = [level.name for level in self.policies.levels.values() if level.minimum_age > oldest]
        closed = {route for level in levels for route in self.policies.gated_by(level)}
        closed |= {route.name for route in self.policies.routes.values() if route.minimum_age > oldest}
        await revoke_assurances(self.database, owner.user_id, levels, sorted(closed))

    async def take_back(self, owner: Owner, levels: Sequence[str]) -> Revoked:
        routes = [route for level in levels for route in self.policies.gated_by(level)]
        return await revoke_assurances(self.database, owner.user_id, levels, routes)

    async def state(self, caller: Principal) -> AgeStateOut:
        async with self.database.as_user(caller.user_id) as connection:
            found = await read_assurances(connection, caller.user_id)
            oldest = await read_oldest(connection, caller.user_id, datetime.now(UTC).date())
        proved = {assurance.level for assurance in found}
        return AgeStateOut(
            level=found[0].level if found else None,
            expires_at=found[0].expires_at if found else None,
            assurances=[_out(assurance) for assurance in found],
            routes=self.policies.open_routes(proved, oldest),
            minor=oldest is not None and oldest < ADULT,
        )


def _out(assurance: Assurance) -> AssuranceOut:
    return AssuranceOut.model_validate(assurance, from_attributes=True)


async def desk_of(context: Context) -> Desk:
    return Desk(context.database, context.policies, context.age_assertions)


AtDesk = Annotated[Desk, Depends(desk_of)]


@age.get("/v1/age-assurance", summary="What the caller's age opens", responses=problems())
async def read_state(caller: Caller, desk: AtDesk) -> AgeStateOut:
    return await desk.state(caller)


@age.post(
    "/v1/age-assurance",
    summary="Hand in what your backend asserts",
    responses=AGE_PROBLEMS,
    dependencies=[AGE],
)
async def hand_in(caller: Caller, desk: AtDesk, body: AssertionIn) -> AgeStateOut:
    """The assertion is a JWT signed by your backend's key (AGE_JWKS), audience `rapport/age`, at most ten minutes old.

    Its `sub` is the caller's; `level`, `method`, `provider`, `exp` and `jti` are as the route policies describe them.
    It counts on every instance from the moment of the answer.
    """
    assertion = await desk.assertions.read(body.assertion, caller)
    expires_at, minimum_age = assertion.expires_at, 0
    if assertion.level is not None:
        minimum_age, days = desk.level_days(assertion.level, assertion.method)
        expires_at = min(expires_at, datetime.now(UTC) + timedelta(days=days))
    proof = Proof(
        method=assertion.method,
        provider=assertion.provider,
        assertion_id=assertion.assertion_id,
        policy_version=desk.policies.version,
        verified_at=assertion.issued_at,
        expires_at=expires_at,
        level=assertion.level,
        minimum_age=minimum_age,
        birth_date=assertion.birth_date,
        below=assertion.below,
        adult=assertion.adult,
    )
    await desk.store(caller.owner, proof)
    return await desk.state(caller)


@age.post(
    "/v1/age-assurance/self-declaration", summary="Say when you were born", responses=AGE_PROBLEMS, dependencies=[AGE]
)
async def declare(caller: Caller, desk: AtDesk, body: DeclarationIn) -> AgeStateOut:
    """Opens only levels whose policy names the method `self_declared`. The date can't be edited afterwards."""
    now = datetime.now(UTC)
    if not date(1900, 1, 1) <= body.birth_date <= now.date():
        raise InvalidRequestError("birth_date: not a birth date.")
    levels: list[AssuranceLevel | None] = []
    levels += [level for level in desk.policies.levels.values() if SELF_DECLARED in level.methods]
    refused = None
    for level in levels or [None]:
        proof = Proof(
            method=SELF_DECLARED,
            provider="user",
            assertion_id=str(uuid4()),
            policy_version=desk.policies.version,
            verified_at=now,
            expires_at=now + timedelta(days=level.days if level else 1),
            level=level.name if level else None,
            minimum_age=level.minimum_age if level else 0,
            birth_date=body.birth_date,
        )
        try:
            await desk.store(caller.owner, proof)
        except BelowMinimumAgeError as error:
            refused = error
    state = await desk.state(caller)
    if refused is not None and not state.assurances:
        raise refused
    return state


def _owner(body: SubjectIn) -> Owner:
    return Owner(derive_user_id(body.issuer, body.subject), body.issuer, body.subject)


@age.post(
    "/v1/operator/age-assurances",
    summary="Decide that a user has proved their age",
    status_code=201,
    responses=AGE_PROBLEMS,
)
async def decide(operator: Operator, desk: AtDesk, body: DecisionIn) -> AssuranceOut:
    minimum_age, days = desk.level_days(body.level, OPERATOR)
    now = datetime.now(UTC)
    proof = Proof(
        method=OPERATOR,
        provider=f"operator {operator.subject}",
        assertion_id=str(uuid4()),
        policy_version=desk.policies.version,
        verified_at=now,
        expires_at=now + timedelta(days=min(days, body.days)),
        level=body.level,
        minimum_age=minimum_age,
    )
    verdict = await desk.store(_owner(body), proof)
    assert verdict.assurance is not None  # noqa: S101  a level was asked for, and the user is not too young
    return _out(verdict.assurance)


@age.post("/v1/operator/age-assurances/revoke", summary="Take a user's age assurance back", responses=AGE_PROBLEMS)
async def revoke(_operator: Operator, desk: AtDesk, body: RevocationIn) -> RevokedOut:
    """Replies that are being written on the routes it opened stop, on every instance."""
    if body.level is not None and body.level not in desk.policies.levels:
        raise InvalidRequestError(f"There is no level {body.level!r}.", code="unknown_level")
    levels = [body.level] if body.level is not None else list(desk.policies.levels)
    revoked = await desk.take_back(_owner(body), levels)
    return RevokedOut(revoked=revoked.assurances, conversations=len(revoked.conversations))


router = APIRouter()
router.include_router(age)
router.include_router(safety.router)
router.include_router(locks.router)
