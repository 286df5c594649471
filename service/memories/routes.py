"""/v1/memories: see what is remembered, search it, add to it, correct it, pin it, have it forgotten."""

import time
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, status

from memory import curation, erasure, transcript
from memory.postgres import Connection
from memory.retrieval import RecallQuery, recall
from service.auth.dependencies import Caller
from service.dependencies import READ, SEARCH, WRITE, Context
from service.embedding import meaning
from service.errors import InvalidRequestError
from service.memories.forgetting import Forgetter
from service.memories.schemas import (
    ForgetAllQuery,
    ForgetQuery,
    Found,
    ListQuery,
    MemoryChange,
    MemoryDetail,
    MemoryPage,
    MemoryView,
    NewMemory,
    Receipt,
    SearchRequest,
    SearchResult,
)
from service.methods import takes_only_post
from service.paging import WRONG_CURSOR, decode_cursor, encode_cursor
from service.problems import problems

router = APIRouter(tags=["memories"])

SEARCH_TOKENS = 200_000
"""A search is cut by its limit, not by a prompt's budget."""

ABSENT = {404: "`memory_not_found`: absent, or another user's"}

MemoryId = Annotated[UUID, Path(description="A fact's id, or of an episode its message's")]


@router.get(
    "/v1/memories", responses=problems(WRONG_CURSOR), dependencies=[READ], summary="List memories, the latest first"
)
async def list_memories(caller: Caller, context: Context, wish: Annotated[ListQuery, Query()]) -> MemoryPage:
    """Both layers together, by when they were said: facts that were learnt, and episodes, which are the messages."""
    wanted = curation.Filter(wish.layer, wish.kind, wish.statuses, wish.text, wish.conversation_id, wish.pinned)
    found = await context.database.read(
        caller.user_id,
        lambda connection: curation.list_memories(
            connection, caller.user_id, wanted, wish.limit + 1, decode_cursor(wish.cursor)
        ),
    )
    page = found[: wish.limit]
    more = len(found) > wish.limit
    return MemoryPage(
        items=[MemoryView.of(item) for item in page],
        next_cursor=encode_cursor(page[-1].said_at, page[-1].id) if more else None,
    )


@router.post(
    "/v1/memories",
    status_code=status.HTTP_201_CREATED,
    responses=problems(),
    dependencies=[WRITE],
    summary="Add a memory",
)
async def add_memory(body: NewMemory, caller: Caller, context: Context) -> MemoryView:
    """Its source is that its owner said so here."""
    if body.route not in context.policies.gate.routes:
        known = ", ".join(context.policies.gate.routes)
        raise InvalidRequestError(f"There is no route {body.route!r}; there are: {known}.", code="unknown_route")
    vector = await meaning(context.embedder, body.text)
    async with context.database.as_user(caller.user_id) as connection:
        fact_id = await curation.add_fact(
            connection,
            caller.owner,
            kind=body.kind,
            text=body.text.strip(),
            route=body.route,
            due_at=body.due_at,
            pinned=body.pinned,
            vector=vector,
        )
        return MemoryView.of((await curation.read_memory(connection, caller.user_id, fact_id)).item)


takes_only_post(router, "/v1/memories/search")


@router.post(
    "/v1/memories/search",
    responses=problems({404: "`conversation_not_found`: absent, or another user's"}),
    dependencies=[SEARCH],
    summary="Search memories as a turn does",
)
async def search_memories(body: SearchRequest, caller: Caller, context: Context) -> SearchResult:
    """The same recall that puts memories into a prompt: by meaning, by words, by time and by who said it."""
    began = time.perf_counter()
    vector = await meaning(context.embedder, body.query, question=True)

    async def look(connection: Connection) -> list[Found]:
        routes, time_zone, names = await _scope(connection, context, caller.user_id, body.conversation_id)
        query = RecallQuery(
            user_id=caller.user_id,
            text=body.query,
            vector=vector,
            routes=routes,
            token_budget=SEARCH_TOKENS,
            limit=body.limit,
            now=datetime.now(UTC),
            time_zone=time_zone,
            names=names,
        )
        items = await recall(connection, query)
        quotes = await curation.quotes(connection, caller.user_id, [item.id for item in items])
        return [Found.of(item, quotes.get(item.id, "")) for item in items]

    found = await context.database.read(caller.user_id, look)
    return SearchResult(items=found, elapsed_ms=round((time.perf_counter() - began) * 1000, 2))


async def _scope(
    connection: Connection, context: Context, user_id: UUID, conversation_id: UUID | None
) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """Routes, time zone and speakers' names to search with."""
    names = await curation.speakers(connection, user_id)
    if conversation_id is None:
        return tuple(context.policies.gate.routes), "UTC", names
    conversation = await transcript.read_conversation(connection, user_id, conversation_id)
    routes = ("general",) if conversation.route == "general" else ("general", conversation.route)
    return routes, conversation.time_zone, names


@router.get(
    "/v1/memories/{memory_id}",
    responses=problems(ABSENT),
    dependencies=[READ],
    summary="One memory with its sources and history",
)
async def read_memory(memory_id: MemoryId, caller: Caller, context: Context) -> MemoryDetail:
    found = await context.database.read(
        caller.user_id, lambda connection: curation.read_memory(connection, caller.user_id, memory_id)
    )
    return MemoryDetail.of_closer(found)


@router.patch(
    "/v1/memories/{memory_id}",
    responses=problems(ABSENT | {409: "`not_correctable`: an episode, or history"}),
    dependencies=[WRITE],
    summary="Correct a fact, or pin it",
)
async def change_memory(memory_id: MemoryId, body: MemoryChange, caller: Caller, context: Context) -> MemoryDetail:
    """A correction is a new fact with a new id, which this answers; the old one stays as its history, and the message
    that taught it does not teach it again."""
    vector = None if body.text is None else await meaning(context.embedder, body.text)
    async with context.database.as_user(caller.user_id) as connection:
        if body.text is not None:
            await erasure.forget_corrected(connection, caller.user_id, memory_id)
            memory_id = await curation.correct_fact(connection, caller.user_id, memory_id, body.text.strip(), vector)
        if body.pinned is not None:
            await curation.pin_fact(connection, caller.user_id, memory_id, pinned=body.pinned)
        return MemoryDetail.of_closer(await curation.read_memory(connection, caller.user_id, memory_id))


@router.delete(
    "/v1/memories/{memory_id}", responses=problems(ABSENT), dependencies=[WRITE], summary="Forget one memory"
)
async def forget_memory(
    memory_id: MemoryId, caller: Caller, context: Context, wish: Annotated[ForgetQuery, Query()]
) -> Receipt:
    """A fact goes with its history, its vector, and the words in the messages that taught it; an episode with its
    words and the facts that rest on them alone. They are not learnt again. The receipt names every store looked in,
    and what may still say it in other words, which `similar=forget` forgets too.
    """
    forget_too = wish.similar == "forget"
    return Receipt.model_validate(await _forgetter(context).forget(caller.user_id, memory_id, similar=forget_too))


@router.delete("/v1/memories", responses=problems(), dependencies=[WRITE], summary="Forget everything")
async def forget_all(caller: Caller, context: Context, wish: Annotated[ForgetAllQuery, Query()]) -> Receipt:
    """All memories and, unless `conversations=keep`, all conversations. What is kept can be read, and its latest
    messages still stand in prompts; nothing of it is recalled or learnt from."""
    keep = wish.conversations == "keep"
    return Receipt.model_validate(await _forgetter(context).forget_all(caller.user_id, keep_conversations=keep))


@router.delete("/v1/account", responses=problems(), dependencies=[WRITE], summary="Erase the account")
async def erase_account(
    caller: Caller, context: Context, confirm: Annotated[Literal["everything"], Query()]
) -> Receipt:
    """Every row of the caller in every table, and what other stores keep. Only the receipt stays, which has numbers
    and no words. Tokens that were issued until then are worth nothing any more; whoever signs in anew begins anew."""
    _ = confirm
    receipt = Receipt.model_validate(await _forgetter(context).erase_user(caller.user_id))
    # after the erasure, which takes every row of the user, also of earlier revocations
    await context.authenticator.revocations.revoke_user(caller.user_id)
    return receipt


def _forgetter(context: Context) -> Forgetter:
    return Forgetter(context.database, context.embedder, context.live, context.replies, context.settings.lease_seconds)
