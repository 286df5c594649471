"""An export as it streams: short transactions, constant memory, a mark at the end that says that nothing is missing."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from memory import archive
from memory.archive import Row
from memory.postgres import Connection, Database

PAGE = 200
VERSION = 1


class Export:
    """One user's data, in either format."""

    def __init__(self, database: Database, user_id: UUID) -> None:
        self._database = database
        self._user_id = user_id

    async def as_json(self) -> AsyncIterator[bytes]:
        """One object; `complete` is its last member, so that a broken download can be told from a whole one."""
        head = {"rapport_export": VERSION, "exported_at": datetime.now(UTC), **await self._user()}
        yield _json(head)[:-1]
        yield b',"conversations":['
        separator = b""
        async for conversation in self._conversations():
            yield separator + _json(conversation)[:-1] + b',"messages":['
            inner = b""
            async for message in self._messages(conversation["id"]):
                yield inner + _json(message)
                inner = b","
            yield b"]}"
            separator = b","
        yield b'],"facts":['
        separator = b""
        async for fact in self._facts():
            yield separator + _json(fact)
            separator = b","
        yield b'],"complete":true}\n'

    async def as_markdown(self) -> AsyncIterator[bytes]:
        """The same to read: what is known first, then every conversation."""
        about = await self._user()
        user = about["user"] or {}
        yield f"# What Rapport keeps of {_line(user.get('subject', 'you'))}\n\n".encode()
        yield f"Exported {archive.moment(datetime.now(UTC))} UTC.\n\n## What is remembered\n\n".encode()
        async for fact in self._facts():
            yield _fact(fact).encode()
        for assurance in about["age_assurances"]:
            yield (
                f"\n## Age assurance\n\n- {assurance['level']} by {assurance['method']} ({assurance['provider']}),"
                f" {archive.moment(assurance['verified_at'])} to {archive.moment(assurance['expires_at'])}\n"
            ).encode()
        async for conversation in self._conversations():
            title = _line(conversation["title"]) or "Untitled"
            yield f"\n## {title}\n\nStarted {archive.moment(conversation['created_at'])} UTC.\n\n".encode()
            if conversation["summary"]:
                yield f"Summary: {_line(conversation['summary'])}\n\n".encode()
            async for message in self._messages(conversation["id"]):
                yield _message(message, conversation["companion_name"]).encode()
        yield b"\n---\nEnd of the export: nothing is missing.\n"

    async def _user(self) -> Row:
        async with self._database.as_user(self._user_id) as connection:
            return await archive.read_user(connection, self._user_id)

    async def _conversations(self) -> AsyncIterator[Row]:
        async for row in self._pages(lambda c, last: archive.conversations(c, self._user_id, PAGE, last), "id", None):
            yield row

    async def _messages(self, conversation_id: UUID) -> AsyncIterator[Row]:
        async for row in self._pages(
            lambda c, last: archive.messages(c, self._user_id, conversation_id, PAGE, last), "seq", 0
        ):
            yield row

    async def _facts(self) -> AsyncIterator[Row]:
        async for row in self._pages(lambda c, last: archive.facts(c, self._user_id, PAGE, last), "id", None):
            yield row

    async def _pages(
        self, read: Callable[[Connection, Any], Awaitable[list[Row]]], key: str, last: Any
    ) -> AsyncIterator[Row]:
        while True:
            async with self._database.as_user(self._user_id) as connection:
                page = await read(connection, last)
            for row in page:
                yield row
            if len(page) < PAGE:
                return
            last = page[-1][key]


def _json(value: object) -> bytes:
    return orjson.dumps(value, default=str)  # the driver's UUID is a subclass, which orjson leaves to us


def _line(text: str) -> str:
    return " ".join(str(text).split())


def _fact(fact: Row) -> str:
    state = "" if fact["status"] == "active" else f" ({fact['status']})"
    quote = f' From: "{_line(fact["quote"])}"' if fact["quote"] and fact["extractor"] != "user" else ""
    return f"- {_line(fact['text'])}{state}. Said {archive.moment(fact['said_at'])}.{quote}\n"


def _message(message: Row, companion: str) -> str:
    name = message["speaker"] or (companion or "Companion" if message["role"] == "assistant" else "You")
    quoted = "\n".join(f"> {line}" for line in message["content"].splitlines())
    thought = f"Thought: {_line(message['reasoning'])}\n\n" if message["reasoning"] else ""
    return f"{thought}**{_line(name)}**, {archive.moment(message['created_at'])}\n{quoted}\n\n"
