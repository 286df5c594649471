"""Imports into a real database: once each, recallable at once, whatever is broken in the file."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from memory import erasure, transcript
from memory.errors import TurnInProgressError
from memory.ports import Vectors
from memory.postgres import Database, PoolConfig
from memory.resealing import reseal
from memory.retrieval import RecallQuery, recall
from memory.transcript import Owner
from memory.vault import MasterKey, Vault
from service.imports.records import WrongFormatError
from service.imports.service import ImportOptions, ImportReport, NothingToImportError, import_conversation
from service.principal import derive_user_id
from tests.memory.learning_kit import SAID, HashEmbedder, opened

OWNER = Owner(derive_user_id("rapport", "caroline"), "rapport", "caroline")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


def lines(*values: dict[str, Any] | str) -> bytes:
    return "\n".join(v if isinstance(v, str) else json.dumps(v) for v in values).encode()


def talk(number: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "speaker": "Caroline" if n % 2 == 0 else "Melanie",
            "text": f"This is message {n} about lake {n}",
            "at": f"2023-05-{1 + n // 60:02d}T10:{n % 60:02d}:00Z",
        }
        for n in range(start, number)
    ]


async def bring(database: Database, data: bytes, owner: Owner = OWNER, **options: Any) -> ImportReport:
    async def source() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    return await import_conversation(database, HashEmbedder(), owner, source(), ImportOptions(**options))


async def messages(database: Database, report: ImportReport, owner: Owner = OWNER) -> list[transcript.Message]:
    assert report.conversation_id is not None
    async with database.as_user(owner.user_id) as connection:
        return await transcript.list_messages(connection, owner.user_id, report.conversation_id, 500)


async def test_a_conversation_comes_in_and_can_be_recalled(database: Database) -> None:
    report = await bring(database, lines({"rapport": 1, "title": "Friends", "user": "Caroline"}, *talk(150), "{broken"))
    assert (report.imported, report.broken, report.errors[0][0], report.created) == (150, 1, 152, True)
    found = await messages(database, report)
    assert [m.seq for m in found] == list(range(1, 151))
    assert (found[0].role, found[1].role, found[1].speaker) == ("user", "assistant", "Melanie")
    assert found[0].created_at.isoformat() == "2023-05-01T10:00:00+00:00"
    assert report.conversation_id is not None
    async with database.as_user(OWNER.user_id) as connection:
        conversation = await transcript.read_conversation(connection, OWNER.user_id, report.conversation_id)
        vector = (await HashEmbedder().embed(["message about lake 77"]))[0]
        query = RecallQuery(OWNER.user_id, "lake 77", vector, ("general",), 500, 5, SAID)
        items = await recall(connection, query)
    assert (conversation.title, conversation.companion_name, conversation.last_seq) == ("Friends", "Melanie", 150)
    # of messages so alike the newest may stand first
    assert any("lake 77" in item.text for item in items)
    async with database.system() as connection:
        assert await connection.fetchval("SELECT count(*) FROM outbox") == 1
        assert await connection.fetchval("SELECT count(*) FROM episodes WHERE embedding IS NULL") == 0


async def test_the_same_file_again_adds_nothing_and_a_grown_one_the_rest(database: Database) -> None:
    first = await bring(database, lines(*talk(70)))
    again = await bring(database, lines(*talk(70)))
    assert (again.imported, again.duplicates, again.already_there) == (0, 70, True)
    assert again.conversation_id == first.conversation_id
    grown = await bring(database, lines(*talk(80)))
    assert (grown.imported, grown.duplicates, grown.conversation_id) == (10, 70, first.conversation_id)
    assert [m.content for m in await messages(database, grown)] == [line["text"] for line in talk(80)]
    other = Owner(derive_user_id("rapport", "eve"), "rapport", "eve")
    assert (await bring(database, lines(*talk(70)), other)).imported == 70


async def test_what_recognises_an_import_confirms_no_guess_of_it(database_url: str, superuser_url: str) -> None:
    """Digests of what was said are keyed; those of before are recognised, and brought under the key."""

    async def recognised_by() -> set[str]:
        connection = await asyncpg.connect(superuser_url)
        rows = await connection.fetch(
            "SELECT external_id AS id FROM messages UNION SELECT encode(import_key, 'hex') FROM conversations"
        )
        await connection.close()
        return {row["id"] for row in rows}

    async def twice(database: Database) -> None:
        again = await bring(database, lines(*talk(5)))
        assert (again.imported, again.duplicates, again.conversation_id) == (0, 5, first.conversation_id)
        named = await bring(database, lines({"speaker": "Ann", "text": "Hi", "id": "my-own-id"}))
        assert named.imported + named.duplicates == 1

    async with opened(database_url) as plain:
        first = await bring(plain, lines(*talk(5)))
    guesses = await recognised_by()
    assert len(guesses) == 6
    database = Database(PoolConfig(database_url, 1, 3), Vault(MasterKey(b"m" * 32, "m")))
    await twice(database)
    assert (await reseal(database, OWNER.user_id))[
        "digests"
    ] == 7  # and one that came since: its user isn't under the key yet
    assert not guesses & await recognised_by()
    await twice(database)
    assert not (await reseal(database, OWNER.user_id))["digests"]
    assert "my-own-id" in await recognised_by()
    assert (await bring(database, lines(*talk(7)))).imported == 2
    assert not [name for name in await recognised_by() if re.fullmatch("[0-9a-f]{40}(-[0-9]+)?", name)]
    await database.close()


async def test_equal_lines_are_all_kept_and_equal_ids_are_not(database: Database) -> None:
    same = {"speaker": "Ann", "text": "Thanks!", "at": "2024-01-01"}
    report = await bring(database, lines(same, same, same))
    assert report.imported == 3
    assert (await bring(database, lines(same, same, same, same))).imported == 1
    with_ids = await bring(database, lines({**same, "id": "a"}, {**same, "id": "b"}, {**same, "id": "a"}))
    assert (with_ids.imported, with_ids.duplicates) == (2, 1)


async def test_conversations_that_begin_alike_stay_apart(database: Database) -> None:
    begin = {"speaker": "Ann", "text": "Hi", "id": "1"}
    first = await bring(database, lines({**begin, "at": "2024-01-01"}))
    second = await bring(database, lines({**begin, "at": "2024-01-02"}))
    named = await bring(database, lines({"rapport": 1, "id": "third"}, {**begin, "at": "2024-01-01"}))
    assert len({first.conversation_id, second.conversation_id, named.conversation_id}) == 3


@pytest.mark.parametrize("data", [b"", b"\n\n", b"{nonsense\n{more", lines({"rapport": 1}), b"\xff\xfe{\0}\0"])
async def test_a_file_without_messages_leaves_nothing_behind(database: Database, data: bytes) -> None:
    with pytest.raises((NothingToImportError, WrongFormatError)):
        await bring(database, data)
    async with database.system() as connection:
        assert await connection.fetchval("SELECT count(*) FROM conversations") == 0


async def test_another_kind_of_file_is_given_up_early(database: Database) -> None:
    with pytest.raises(WrongFormatError, match="first 200 lines"):
        await bring(database, b"a line of prose\n" * 100_000)


async def test_a_conversation_in_which_a_reply_is_being_written_waits(database: Database) -> None:
    report = await bring(database, lines(*talk(3)))
    async with database.as_user(OWNER.user_id) as connection:
        await connection.execute("UPDATE conversations SET active_turn = id WHERE user_id = $1", OWNER.user_id)
    with pytest.raises(TurnInProgressError):
        await bring(database, lines(*talk(5)))
    assert len(await messages(database, report)) == 3


async def test_a_deleted_conversation_can_be_imported_anew_but_not_what_was_forgotten(database: Database) -> None:
    report = await bring(database, lines(*talk(3)))
    second = (await messages(database, report))[1]
    assert report.conversation_id is not None
    async with database.as_user(OWNER.user_id) as connection:
        await erasure.forget(connection, OWNER.user_id, second.id)
        await transcript.delete_conversation(connection, OWNER.user_id, report.conversation_id)
    anew = await bring(database, lines(*talk(3)))
    assert (anew.imported, anew.skipped, anew.duplicates) == (2, 1, 0)
    assert anew.conversation_id != report.conversation_id


async def test_what_was_forgotten_stays_away_in_a_file_without_times_too(database: Database) -> None:
    said = [{"speaker": "Caroline", "text": text} for text in ("My safe's code is 4711", "ok", "I painted a lake")]
    report = await bring(database, lines(*said))
    first, second, _ = await messages(database, report)
    assert report.conversation_id is not None
    async with database.as_user(OWNER.user_id) as connection:
        for message in (first, second):
            await erasure.forget(connection, OWNER.user_id, message.id)
        await transcript.delete_conversation(connection, OWNER.user_id, report.conversation_id)
    anew = await bring(database, lines(*said))
    assert (anew.imported, anew.skipped) == (2, 1)
    # "ok" is everybody's, and was not taken for the one that was forgotten
    assert [message.content for message in await messages(database, anew)] == ["ok", "I painted a lake"]
    # with a time of its own the same is known by that, and said at another it is new
    timed = await bring(database, lines({**said[0], "at": "2026-05-07T10:00:00Z"}))
    assert (timed.imported, timed.skipped) == (1, 0)


async def test_without_time_for_vectors_messages_are_found_by_their_words(database: Database) -> None:
    report = await bring(database, lines(*talk(70)), embed_seconds=-1.0)
    assert (report.imported, report.unembedded) == (70, 70)
    async with database.as_user(OWNER.user_id) as connection:
        query = RecallQuery(OWNER.user_id, "lake 33", None, ("general",), 500, 5, SAID)
        assert any("lake 33" in item.text for item in await recall(connection, query))


class Dies(HashEmbedder):
    async def embed(self, texts: Sequence[str], *, question: bool = False) -> Vectors:
        if self.texts > 100:
            raise RuntimeError("the process died")
        return await super().embed(texts)


async def test_an_import_that_broke_off_goes_on_where_it_was(database: Database) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield lines(*talk(200))

    with pytest.raises(RuntimeError, match="died"):
        await import_conversation(database, Dies(), OWNER, source(), ImportOptions())
    report = await bring(database, lines(*talk(200)))
    assert (report.duplicates, report.imported) == (128, 72)
    assert [m.content for m in await messages(database, report)] == [line["text"] for line in talk(200)]
