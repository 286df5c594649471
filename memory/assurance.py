"""What is known of a user's age, who said so, and until when it counts. PostgreSQL is every instance's truth."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import date, datetime
from uuid import UUID

from uuid_utils.compat import uuid7

from memory.errors import LongTermMemoryError
from memory.postgres import Connection, Database
from memory.transcript import Owner

ADULT = 18
SELF_DECLARED = "self_declared"
"""The method whose word is the user's own: it can make nobody older than a source that knows."""


class AssertionReplayedError(LongTermMemoryError):
    """This assertion was used before."""


class BirthDateFixedError(LongTermMemoryError):
    """Another birth date was given before, and it can't be changed."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What a trusted source says of a user's age; some know a level, some a birth date, some only a bracket."""

    method: str
    provider: str
    assertion_id: str
    """Names this statement of the provider's; the same is never taken twice."""
    policy_version: str
    verified_at: datetime
    expires_at: datetime
    level: str | None = None
    minimum_age: int = 0
    """Of the level, by the policy in force."""
    birth_date: date | None = None
    below: int | None = None
    """Younger than this, where the source knows only a bracket."""
    adult: bool = False
    """The source knows only that it is an adult."""


@dataclass(frozen=True, slots=True)
class Assurance:
    id: UUID
    level: str
    method: str
    provider: str
    policy_version: str
    verified_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a proof. It is stored either way: a birth date that was given stays, also with a refusal."""

    assurance: Assurance | None
    too_young: bool
    oldest: int | None
    """The user is known to be no older than this; None when nothing of the kind is known."""


COLUMNS = "id, level, method, provider, policy_version, verified_at, expires_at, revoked_at"

ADD_USER = "INSERT INTO users (user_id, issuer, subject) VALUES ($1, $2, $3) ON CONFLICT (user_id) DO NOTHING"
# what an app store's bracket says; older releases wrote known_minor beside a birth date too, which says it better
BRACKET = "CASE WHEN known_minor AND (known_below IS NOT NULL OR birth_date IS NULL) THEN coalesce(known_below, 18) END"
KNOWN = f"SELECT birth_date, {BRACKET} AS below FROM users WHERE user_id = $1"
LOCK_USER = f"{KNOWN} FOR UPDATE"

RECORD = f"""
INSERT INTO age_assurances (user_id, id, level, method, provider, policy_version, assertion_id, verified_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (user_id, provider, assertion_id) DO NOTHING RETURNING {COLUMNS}
"""

NOTHING = ""
"""The level of a statement that opens nothing: kept so that it can't be used again."""


def age_on(day: date, born: date) -> int:
    """Whole years; who was born on 29 February comes of age on 1 March."""
    return day.year - born.year - ((day.month, day.day) < (born.month, born.day))


async def record_proof(connection: Connection, owner: Owner, proof: Proof, today: date) -> Verdict:
    """Store what the source says; open the level it proves unless the user is known to be younger.

    Raises `AssertionReplayedError` or `BirthDateFixedError`; then nothing is stored.
    """
    await connection.execute(ADD_USER, owner.user_id, owner.issuer, owner.subject)
    row = await connection.fetchrow(LOCK_USER, owner.user_id)
    assert row is not None  # noqa: S101  it was there or was made
    trusted = proof.method != SELF_DECLARED
    if trusted:
        proof = _beside_an_older_word(proof, row["birth_date"], row["below"], today)
    born = await _birth_date(connection, owner.user_id, row["birth_date"], proof.birth_date)
    claimed = proof.below if trusted or proof.below is not None else row["below"]
    oldest = oldest_by(today, born, claimed)
    too_young = proof.level is not None and oldest is not None and oldest < proof.minimum_age
    opened = None if too_young else proof.level
    stored = await connection.fetchrow(
        RECORD,
        owner.user_id,
        uuid7(),
        opened or NOTHING,
        proof.method,
        proof.provider,
        proof.policy_version,
        proof.assertion_id,
        proof.verified_at,
        proof.expires_at,
    )
    if stored is None:
        raise AssertionReplayedError("This assertion was used before.")
    below = _bracket(proof, row["below"], today, opened=opened is not None, trusted=trusted)
    if below != row["below"]:
        await connection.execute(
            "UPDATE users SET known_minor = $2, known_below = $3 WHERE user_id = $1",
            owner.user_id,
            below is not None,
            below,
        )
    return Verdict(Assurance(*stored) if opened is not None else None, too_young, oldest_by(today, born, below))


def oldest_by(today: date, born: date | None, below: int | None) -> int | None:
    """How old somebody can be at most, by their birth date and by a bracket: the stricter counts."""
    ages = [age_on(today, born)] if born is not None else []
    return min([*ages, below - 1]) if below is not None else min(ages, default=None)


def _bracket(proof: Proof, below: int | None, today: date, *, opened: bool, trusted: bool) -> int | None:
    """The bracket that counts from now on: the latest word of a source that may know."""
    if proof.below is not None:
        return proof.below
    if below is None or not trusted:
        return below
    proved = proof.minimum_age if opened else 0
    if proof.birth_date is not None:
        proved = max(proved, age_on(today, proof.birth_date))
    if proof.adult:
        proved = ADULT
    if proved < below:
        return below
    return None if proved >= ADULT else ADULT


def _beside_an_older_word(proof: Proof, known: date | None, below: int | None, today: date) -> Proof:
    """The proof of a trusted source that knows a younger birth date than the one on file, which stays.

    A child who was first to give one would else be an adult for good. What the source knows counts as a bracket: it can
    be wrong as well, and a bracket can be lifted again. Among adults' dates the first one stays, and the second is told.
    """
    if known is None or proof.birth_date is None or proof.birth_date <= known:
        return proof
    age = oldest_by(today, proof.birth_date, proof.below)
    if age is not None and age < ADULT:
        return replace(proof, birth_date=None, below=age + 1)
    return proof if below is None else replace(proof, birth_date=None, adult=True)  # that child has come of age


async def _birth_date(connection: Connection, user_id: UUID, known: date | None, given: date | None) -> date | None:
    if given is None or given == known:
        return known
    if known is not None:
        raise BirthDateFixedError("Another birth date was given before.")
    await connection.execute(
        "UPDATE users SET birth_date = $2 WHERE user_id = $1 AND birth_date IS NULL", user_id, given
    )
    return given


async def read_assurances(connection: Connection, user_id: UUID) -> list[Assurance]:
    """Those in force, the one that lasts longest first."""
    rows = await connection.fetch(
        f"""SELECT {COLUMNS} FROM age_assurances
        WHERE user_id = $1 AND level <> '' AND revoked_at IS NULL AND expires_at > now()
        ORDER BY expires_at DESC, id""",
        user_id,
    )
    return [Assurance(*row) for row in rows]


async def read_oldest(connection: Connection, user_id: UUID, today: date) -> int | None:
    """How old the user is known to be at most; None when that isn't known."""
    row = await connection.fetchrow(KNOWN, user_id)
    return None if row is None else oldest_by(today, row["birth_date"], row["below"])


REVOKE = """
UPDATE age_assurances SET revoked_at = now()
WHERE user_id = $1 AND level = ANY($2::text[]) AND revoked_at IS NULL AND expires_at > now() RETURNING id
"""
CLOSE = """
UPDATE conversations SET lock_epoch = lock_epoch + 1, version = version + 1
WHERE user_id = $1 AND route = ANY($2::text[]) AND deleted_at IS NULL RETURNING id
"""


@dataclass(frozen=True, slots=True)
class Revoked:
    assurances: int
    conversations: frozenset[UUID]
    """Those whose lock epoch was raised: what runs in them stops at its next renewal."""


async def revoke_assurances(
    database: Database, user_id: UUID, levels: Collection[str], routes: Collection[str]
) -> Revoked:
    """Take levels back, and stop the replies that are being written on the routes which need them.

    Two transactions. Turns that were accepted before the first has committed are all there when the second begins, also
    those of conversations made meanwhile, so that it stops every one of them; later ones are refused. Asked again after
    a failure between the two, it stops what runs.
    """
    async with database.as_user(user_id) as connection:
        revoked = await connection.fetch(REVOKE, user_id, list(levels))
    async with database.as_user(user_id) as connection:
        closed = await connection.fetch(CLOSE, user_id, list(routes))
    return Revoked(len(revoked), frozenset(row["id"] for row in closed))
