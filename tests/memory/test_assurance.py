"""Age assurances as PostgreSQL keeps them: replay, birth dates, and what a revocation stops."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from memory import assurance, gates, leases, transcript, turns
from memory.assurance import AssertionReplayedError, BirthDateFixedError, Proof, Verdict
from memory.errors import AgeAssuranceRequiredError, TooYoungError
from memory.gates import Gate
from memory.postgres import Database, PoolConfig
from memory.transcript import Owner
from memory.turns import Accepted, NewTurn

TODAY = date(2026, 11, 22)
GATE = Gate(("general", "mature"), {"mature": "mature"})


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(PoolConfig(database_url, size=4, overflow=4))
    yield opened
    await opened.close()


@pytest.fixture
def owner() -> Owner:
    return Owner(uuid4(), "https://id.example", "alice")


def proof(**changes: object) -> Proof:
    now = datetime.now(UTC)
    whole = Proof(
        method="document",
        provider="verifier",
        assertion_id=str(uuid4()),
        policy_version="1",
        verified_at=now,
        expires_at=now + timedelta(days=30),
        level="mature",
        minimum_age=18,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


async def record(database: Database, owner: Owner, given: Proof) -> Verdict:
    async with database.as_user(owner.user_id) as connection:
        return await assurance.record_proof(connection, owner, given, TODAY)


async def levels(database: Database, owner: Owner) -> list[str]:
    async with database.as_user(owner.user_id) as connection:
        return [found.level for found in await assurance.read_assurances(connection, owner.user_id)]


async def minor(database: Database, owner: Owner) -> bool:
    async with database.as_user(owner.user_id) as connection:
        oldest = await assurance.read_oldest(connection, owner.user_id, TODAY)
    return oldest is not None and oldest < assurance.ADULT


async def send(database: Database, owner: Owner, conversation: object) -> Accepted:
    turn = NewTurn(owner.user_id, conversation, uuid4(), uuid4(), "hello", b"x")  # type: ignore[arg-type]
    async with database.as_user(owner.user_id) as connection:
        return await turns.accept(connection, turn, GATE, 1.5)


async def talk(database: Database, owner: Owner, route: str) -> object:
    async with database.as_user(owner.user_id) as connection:
        return (await transcript.create_conversation(connection, owner, uuid4(), route=route)).id


async def test_a_proof_opens_its_route_at_once_and_only_while_it_lasts(database: Database, owner: Owner) -> None:
    mature = await talk(database, owner, "mature")
    with pytest.raises(AgeAssuranceRequiredError):
        await send(database, owner, mature)
    await record(database, owner, proof(expires_at=datetime.now(UTC) + timedelta(seconds=0.4)))
    assert await levels(database, owner) == ["mature"]
    accepted = await send(database, owner, mature)
    await asyncio.sleep(0.5)
    assert await levels(database, owner) == []
    async with database.as_user(owner.user_id) as connection:
        await turns.fail(connection, owner.user_id, accepted.turn_id, 1, {}, "")
    with pytest.raises(AgeAssuranceRequiredError):
        await send(database, owner, mature)


async def test_the_same_assertion_is_taken_once_even_at_the_same_moment(database: Database, owner: Owner) -> None:
    given = proof()
    found = await asyncio.gather(*(record(database, owner, given) for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(one, Verdict) for one in found) == 1
    assert sum(isinstance(one, AssertionReplayedError) for one in found) == 5
    assert await levels(database, owner) == ["mature"]


async def test_a_revoked_assertion_cannot_be_handed_in_again(database: Database, owner: Owner) -> None:
    given = proof()
    await record(database, owner, given)
    assert (await assurance.revoke_assurances(database, owner.user_id, ["mature"], [])).assurances == 1
    with pytest.raises(AssertionReplayedError):
        await record(database, owner, given)
    assert await levels(database, owner) == []


async def test_a_birth_date_is_given_once(database: Database, owner: Owner, superuser_url: str) -> None:
    await record(database, owner, proof(birth_date=date(2010, 1, 1), level=None))
    await record(database, owner, proof(birth_date=date(2010, 1, 1), level=None))
    with pytest.raises(BirthDateFixedError):
        await record(database, owner, proof(birth_date=date(1990, 1, 1)))
    assert await minor(database, owner)
    # nor past our code, by whoever has the table open
    admin = await asyncpg.connect(superuser_url)
    try:
        with pytest.raises(asyncpg.PostgresError, match="not edited"):
            await admin.execute("UPDATE users SET birth_date = '1990-01-01' WHERE user_id = $1", owner.user_id)
        await admin.execute("UPDATE users SET birth_date = NULL, deleted_at = now() WHERE user_id = $1", owner.user_id)
    finally:
        await admin.close()


async def test_two_birth_dates_at_the_same_moment_leave_one(database: Database, owner: Owner) -> None:
    dates = [date(1980 + number, 1, 1) for number in range(6)]
    found = await asyncio.gather(
        *(record(database, owner, proof(birth_date=born, level=None)) for born in dates), return_exceptions=True
    )
    assert sum(isinstance(one, Verdict) for one in found) == 1
    assert sum(isinstance(one, BirthDateFixedError) for one in found) == 5


@pytest.mark.parametrize(
    ("born", "opened"),
    [
        (date(2008, 11, 22), True),  # eighteen today
        (date(2008, 11, 23), False),  # tomorrow
        (date(2008, 2, 29), True),
        (date(2012, 2, 29), False),
        (date(1950, 1, 1), True),
    ],
)
async def test_who_is_too_young_is_refused_and_stays_refused(
    database: Database, owner: Owner, born: date, opened: bool
) -> None:
    verdict = await record(database, owner, proof(birth_date=born))
    assert verdict.too_young is not opened
    assert await levels(database, owner) == (["mature"] if opened else [])
    again = await record(database, owner, proof())  # a better verifier doesn't make anybody older
    assert again.too_young is not opened
    assert await minor(database, owner) is not opened


async def test_a_store_that_calls_the_user_a_minor_outweighs_a_level_and_is_outweighed_by_a_later_proof(
    database: Database, owner: Owner
) -> None:
    assert (await record(database, owner, proof(below=16))).too_young
    assert await minor(database, owner)
    assert not (await record(database, owner, proof())).too_young
    assert not await minor(database, owner)


async def oldest(database: Database, owner: Owner) -> int | None:
    async with database.as_user(owner.user_id) as connection:
        return await assurance.read_oldest(connection, owner.user_id, TODAY)


async def test_of_two_words_about_an_age_the_stricter_counts_unless_a_better_source_knows(
    database: Database, owner: Owner
) -> None:
    await record(database, owner, proof(level=None, below=13))
    assert await oldest(database, owner) == 12
    # what users say of themselves makes them no older than what their phone's store knows
    declared = proof(method="self_declared", level="teen", minimum_age=13, birth_date=date(1990, 1, 1))
    assert (await record(database, owner, declared)).too_young
    assert await oldest(database, owner) == 12
    await record(database, owner, proof(level=None, below=16))
    assert await oldest(database, owner) == 15
    await record(database, owner, proof(level=None, adult=True))
    assert await oldest(database, owner) == 36


async def test_a_trusted_level_outweighs_an_older_bracket_as_far_as_it_goes(database: Database, owner: Owner) -> None:
    await record(database, owner, proof(level=None, below=13))
    await record(database, owner, proof(method="app_store", level="teen", minimum_age=13))
    assert await oldest(database, owner) == 17
    assert await levels(database, owner) == ["teen"]


async def test_a_child_that_called_itself_grown_up_first_is_a_child_once_a_better_source_says_so(
    database: Database, owner: Owner
) -> None:
    declared = proof(method="self_declared", level=None, birth_date=date(1990, 1, 1))
    known = proof(level=None, birth_date=date(2014, 3, 1))
    await record(database, owner, declared)
    general = await talk(database, owner, "general")
    gate = Gate(("general",), ages={"general": 13})
    assert (await record(database, owner, known)).oldest == 12
    assert await minor(database, owner)
    async with database.as_user(owner.user_id) as connection:
        turn = NewTurn(owner.user_id, general, uuid4(), uuid4(), "hello", b"x")  # type: ignore[arg-type]
        with pytest.raises(TooYoungError):
            await turns.accept(connection, turn, gate, 1.5)
    # neither the same word again, nor another date, makes the child any older; a level is refused by what is known
    await record(database, owner, replace(declared, assertion_id=str(uuid4())))
    with pytest.raises(BirthDateFixedError):
        await record(database, owner, replace(declared, assertion_id=str(uuid4()), birth_date=date(1985, 1, 1)))
    assert (
        await record(database, owner, replace(known, assertion_id=str(uuid4()), level="teen", minimum_age=13))
    ).too_young
    assert await oldest(database, owner) == 12


async def test_a_child_known_by_a_bracket_grows_with_each_word_of_the_source(database: Database, owner: Owner) -> None:
    async def told(today: date) -> int | None:
        given = proof(level=None, birth_date=date(2014, 3, 1))
        async with database.as_user(owner.user_id) as connection:
            return (await assurance.record_proof(connection, owner, given, today)).oldest

    await record(database, owner, proof(method="self_declared", level=None, birth_date=date(1990, 1, 1)))
    assert [await told(date(year, 6, 1)) for year in (2027, 2030, 2031)] == [13, 16, 17]
    assert await told(date(2032, 6, 1)) == 42  # of age: the date that was given first counts again
    with pytest.raises(BirthDateFixedError):  # and among adults' dates it stays, as it would have
        await told(date(2032, 6, 1))


@pytest.mark.parametrize(
    ("known", "open_to"),
    [
        ({}, True),  # nothing is known of most people
        ({"below": 13}, False),
        ({"below": 16}, True),
        ({"birth_date": (TODAY - timedelta(days=12 * 365)).isoformat()}, False),
        ({"birth_date": "2000-02-29"}, True),
    ],
)
async def test_who_is_known_to_be_too_young_for_a_route_is_refused_there(
    database: Database, owner: Owner, known: dict[str, object], open_to: bool
) -> None:
    """Routes that ask for no proof have a least age all the same."""
    gate = Gate(("general",), ages={"general": 13})
    general = await talk(database, owner, "general")
    if "birth_date" in known:
        known = {"birth_date": date.fromisoformat(str(known["birth_date"]))}
    if known:
        await record(database, owner, proof(level=None, **known))
    turn = NewTurn(owner.user_id, general, uuid4(), uuid4(), "hello", b"x")  # type: ignore[arg-type]
    async with database.as_user(owner.user_id) as connection:
        if open_to:
            await turns.accept(connection, turn, gate, 1.5)
        else:
            with pytest.raises(TooYoungError):
                await turns.accept(connection, turn, gate, 1.5)
        assert await gates.may_stream(connection, owner.user_id, "general", gate) is open_to
    if open_to and not known:
        await record(database, owner, proof(level=None, below=13))
        async with database.as_user(owner.user_id) as connection:
            assert not await gates.may_continue(connection, owner.user_id, turn.turn_id, gate)


async def test_revoking_closes_the_gate_of_what_runs(database: Database, owner: Owner) -> None:
    mature, general = await talk(database, owner, "mature"), await talk(database, owner, "general")
    await record(database, owner, proof())
    running = [await send(database, owner, mature), await send(database, owner, general)]
    revoked = await assurance.revoke_assurances(database, owner.user_id, ["mature"], ["mature"])
    assert revoked == assurance.Revoked(1, frozenset({mature}))  # type: ignore[arg-type]
    async with database.system() as connection:
        held = [(owner.user_id, turn.turn_id, 1, None) for turn in running]
        renewed = {found.turn_id: found.gate_closed for found in await leases.renew(connection, held, 1.5)}
    assert renewed == {running[0].turn_id: True, running[1].turn_id: False}
    with pytest.raises(AgeAssuranceRequiredError):
        await send(database, owner, mature)


async def test_a_proof_that_runs_out_closes_the_gate_of_what_runs(database: Database, owner: Owner) -> None:
    mature, general = await talk(database, owner, "mature"), await talk(database, owner, "general")
    await record(database, owner, proof())
    running = [await send(database, owner, mature), await send(database, owner, general)]
    held = [(owner.user_id, turn.turn_id, 1, None) for turn in running]

    async def closed() -> list[bool]:
        async with database.system() as connection:
            found = {one.turn_id: one.gate_closed for one in await leases.renew(connection, held, 1.5, GATE.needs)}
        return [found[turn.turn_id] for turn in running]

    assert await closed() == [False, False]
    async with database.system() as connection:
        await connection.execute("UPDATE age_assurances SET expires_at = now() - interval '1 second'")
    assert await closed() == [True, False]


async def test_somebody_else_sees_and_revokes_nothing(database: Database, owner: Owner) -> None:
    await record(database, owner, proof())
    stranger = Owner(uuid4(), "https://id.example", "mallory")
    async with database.as_user(stranger.user_id) as connection:
        assert await assurance.read_assurances(connection, owner.user_id) == []
        assert await connection.fetch(assurance.REVOKE, owner.user_id, ["mature"]) == []
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await assurance.record_proof(connection, owner, proof(), TODAY)
    assert await levels(database, owner) == ["mature"]


# --- revocation against turns that are being accepted at the same moment

RUNS_WITHOUT_RIGHT = """
SELECT count(*) FROM turns t JOIN conversations c ON c.user_id = t.user_id AND c.id = t.conversation_id
WHERE t.user_id = $1 AND c.route = 'mature' AND t.status = 'running' AND t.lock_epoch = c.lock_epoch
    AND NOT EXISTS (
        SELECT FROM age_assurances a WHERE a.user_id = t.user_id AND a.level = 'mature' AND a.revoked_at IS NULL
    )
"""


async def runs_without_right(database: Database, owner: Owner) -> int:
    async with database.as_user(owner.user_id) as connection:
        return int(await connection.fetchval(RUNS_WITHOUT_RIGHT, owner.user_id))


async def test_a_turn_that_waited_for_the_revocation_to_end_is_refused(database: Database, owner: Owner) -> None:
    """Its statement began while the assurance still held, and got the conversation's row when it held no more."""
    mature = await talk(database, owner, "mature")
    await record(database, owner, proof())
    async with database.as_user(owner.user_id) as connection:
        await connection.execute(assurance.CLOSE, owner.user_id, ["mature"])
        waiting = asyncio.create_task(send(database, owner, mature))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        async with database.as_user(owner.user_id) as other:
            await other.execute(assurance.REVOKE, owner.user_id, ["mature"])
    with pytest.raises(AgeAssuranceRequiredError):
        await waiting
    assert await runs_without_right(database, owner) == 0


async def test_no_turn_outruns_a_revocation(database: Database) -> None:
    """Many rounds of revoking while turns are accepted, in conversations old and just made."""
    for _ in range(40):
        owner = Owner(uuid4(), "https://id.example", "alice")
        conversations = [await talk(database, owner, "mature") for _ in range(2)]
        await record(database, owner, proof())

        async def make_and_send(owner: Owner = owner) -> Accepted:
            return await send(database, owner, await talk(database, owner, "mature"))

        revoking = assurance.revoke_assurances(database, owner.user_id, ["mature"], ["mature"])
        found = await asyncio.gather(
            send(database, owner, conversations[0]),
            make_and_send(),
            revoking,
            make_and_send(),
            send(database, owner, conversations[1]),
            return_exceptions=True,
        )
        strange = [
            one for one in found if isinstance(one, Exception) and not isinstance(one, AgeAssuranceRequiredError)
        ]
        assert strange == []
        assert await runs_without_right(database, owner) == 0
