"""Every long-lived object of a process, built once and closed once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import structlog

from memory.errors import StoreUnavailableError
from memory.ports import Embedder, Reasoner
from memory.postgres import Database, PoolConfig
from memory.vault import Vault
from service.auth.authenticator import Authenticator
from service.background import Background
from service.chat.engine import ChatEngine
from service.chat.leases import LeaseKeeper
from service.chat.recall import Recaller
from service.chat.rhythm import Rhythm
from service.chat.writer import Tools
from service.compliance.assertions import AgeAssertions
from service.compliance.duty import Duty
from service.embedding import check_embedder, keep_filling
from service.following import FollowingEmbedder, warm_up
from service.jobs import Jobs, open_jobs
from service.limits import Limits
from service.llm.embeddings import BackendEmbedder
from service.llm.pool import Backends
from service.llm.reasoner import BackendReasoner
from service.openers import closing, open_backends, open_embedders
from service.policies import Policies, load_policies
from service.sealing import check_vault, open_replicated_database
from service.settings import Settings
from service.startup import check_connections, check_database, refuse_second_local_instance
from sessions.answers import RedisAnswers
from sessions.config import RedisConfig
from sessions.keys import session_key
from sessions.link import RedisLink
from sessions.logs import LocalReplyLog, RedisReplyLog
from sessions.replies import ReplyLog
from sessions.store import LiveState, LocalLiveState, RedisLiveState

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Runtime:
    settings: Settings
    database: Database
    link: RedisLink | None
    live: LiveState
    replies: ReplyLog
    embedder: Embedder
    backends: Backends
    reasoner: Reasoner
    jobs: Jobs
    authenticator: Authenticator
    age_assertions: AgeAssertions
    duty: Duty
    limits: Limits
    policies: Policies
    chat: ChatEngine
    background: Background


@asynccontextmanager
async def open_runtime(settings: Settings, *, writes_replies: bool | None = None) -> AsyncIterator[Runtime]:
    """Build the process's objects, start its background tasks, and close all in reverse order.

    `writes_replies` says whether turns are written in this process; None takes it from the settings. Raises when the
    configuration can't work; a database or a Redis that is merely away is waited for by whoever needs it.
    """
    async with AsyncExitStack() as stack:
        database = _open_database(settings, stack)
        link, live, replies, shelf = _open_live(settings, stack, database.vault)
        own_embedder, embedder = open_embedders(settings, database, stack)
        policies = load_policies(settings.routes_file)
        backends = open_backends(settings, database, policies, stack, shelf=shelf)
        reasoner = BackendReasoner(backends)
        authenticator = closing(stack, Authenticator(settings.auth_config, database))
        age_assertions = closing(stack, AgeAssertions(settings.age_config))
        limits = closing(stack, Limits(settings.limits_config))
        await asyncio.gather(
            authenticator.open(), age_assertions.open(), limits.open(), *([link.warm()] if link else [])
        )
        jobs = closing(stack, open_jobs(settings, database, embedder, reasoner))
        await _check(settings, database, own_embedder, stack)
        await warm_up(embedder)
        duty = Duty(settings.duty_config)
        leases = LeaseKeeper(_lease_database(settings, database.vault, stack), settings.lease_seconds, policies.gate)
        tools = _tools(settings, database, replies, backends, leases)
        writes = settings.runner == "inside" if writes_replies is None else writes_replies
        chat = ChatEngine(
            database=database,
            live=live,
            tools=tools,
            recaller=_recaller(settings, database, embedder),
            jobs=jobs,
            gate=policies.gate,
            duty=duty,
            resumable=partial(_resumable, link),
            writes_here=writes,
            tokens_per_day=settings.tokens_per_day,
            at_once=settings.turns_at_once,
        )
        background = _keep_up(stack, settings, database, embedder, own_embedder)
        _keep_turns(background, tools, chat, writes=writes)
        yield Runtime(
            settings=settings,
            database=database,
            link=link,
            live=live,
            replies=replies,
            embedder=embedder,
            backends=backends,
            reasoner=reasoner,
            jobs=jobs,
            authenticator=authenticator,
            age_assertions=age_assertions,
            duty=duty,
            limits=limits,
            policies=policies,
            chat=chat,
            background=background,
        )
        await chat.drain(0)


def _keep_turns(background: Background, tools: Tools, chat: ChatEngine, *, writes: bool) -> None:
    """Renew what is written here, and take over, where replies are written, what others left."""
    background.start("leases", tools.leases.run(), required=True)
    background.start("rhythm", tools.rhythm.run())
    if writes:
        background.start("takeovers", chat.takeovers.run(), required=True)


def _lease_database(settings: Settings, vault: Vault | None, stack: AsyncExitStack) -> Database:
    """A connection of its own for leases: behind a queue of turns they would run out, and each take-over that follows
    makes the queue longer (seen at 100 users on a starved machine: 37 take-overs of living writers)."""
    config = PoolConfig(settings.database_url.get_secret_value(), size=1, overflow=1, prepared=settings.prepared)
    database = Database(config, vault)
    stack.push_async_callback(database.close)
    return database


def _open_database(settings: Settings, stack: AsyncExitStack) -> Database:
    database = open_replicated_database(
        settings, PoolConfig(settings.database_url.get_secret_value(), settings.pool_size, settings.max_overflow)
    )
    stack.push_async_callback(database.close)
    return database


def _keep_up(
    stack: AsyncExitStack, settings: Settings, database: Database, following: FollowingEmbedder, own: Embedder
) -> Background:
    """Follow the database's model, and fill in what was written while a server was away."""
    background = closing(stack, Background())
    background.start("embedding-model", following.run())
    if isinstance(own, BackendEmbedder):  # the built-in one is never away
        background.start("missing-vectors", keep_filling(own, database, settings.embeddings))
    return background


def _recaller(settings: Settings, database: Database, embedder: Embedder) -> Recaller:
    return Recaller(database, embedder, settings.recall_budget, settings.recall_limit, settings.turns_at_once)


def _tools(settings: Settings, database: Database, replies: ReplyLog, backends: Backends, leases: LeaseKeeper) -> Tools:
    return Tools(
        database=database,
        replies=replies,
        backends=backends,
        leases=leases,
        rhythm=Rhythm(leases, settings.flush_seconds),
        lease_seconds=settings.lease_seconds,
        reply_tokens=settings.reply_max_tokens,
        reasoning=settings.keep_reasoning,
    )


def _open_live(
    settings: Settings, stack: AsyncExitStack, vault: Vault | None
) -> tuple[RedisLink | None, LiveState, ReplyLog, RedisAnswers | None]:
    """The live state, the reply logs and shared answers: in Redis, sealed as texts are, or in this process when it is
    the only one."""
    if not settings.redis_enabled:
        return None, LocalLiveState(), LocalReplyLog(), None
    link = closing(stack, RedisLink(RedisConfig(settings.redis_url.get_secret_value())))
    cipher = None if vault is None else vault.live
    return link, RedisLiveState(link, cipher), RedisReplyLog(link, cipher), RedisAnswers(link, cipher)


def _resumable(link: RedisLink | None, conversation_id: UUID | None = None) -> bool:
    """Whether the reply logs of a conversation, or all of them, can be reached as far as is known."""
    if link is None:
        return False
    return not link.resting if conversation_id is None else link.reaches(session_key(conversation_id))


async def _check(settings: Settings, database: Database, embedder: Embedder, stack: AsyncExitStack) -> None:
    try:
        await check_database(database)
        await check_vault(settings, database)
        await check_connections(database, settings)
        await check_embedder(embedder, database, settings.embeddings)
        if not settings.redis_enabled:
            stack.push_async_callback(await refuse_second_local_instance(settings.database_url.get_secret_value()))
    except StoreUnavailableError:
        log.warning("database_away_at_start")
