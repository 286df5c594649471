"""What servers, workers and commands open alike, closed with the stack they give."""

from contextlib import AsyncExitStack
from typing import Protocol, TypeVar

from memory.ports import Embedder
from memory.postgres import Database
from service.embedding import open_embedder
from service.following import FollowingEmbedder
from service.llm.config import backends_file
from service.llm.pool import Backends
from service.llm.spend import PostgresSpend
from service.policies import Policies
from service.settings import Settings
from service.startup import check_routes
from sessions.answers import RedisAnswers


class _Closable(Protocol):
    async def aclose(self) -> None: ...


Thing = TypeVar("Thing", bound=_Closable)


def closing(stack: AsyncExitStack, thing: Thing) -> Thing:
    stack.push_async_callback(thing.aclose)
    return thing


def open_embedders(settings: Settings, database: Database, stack: AsyncExitStack) -> tuple[Embedder, FollowingEmbedder]:
    """What the settings name, and what follows the database's choice. Raises `StartError`."""
    spend = PostgresSpend(database)
    own = closing(stack, open_embedder(settings.embeddings, settings.backends, spend))
    following = FollowingEmbedder(own, database, lambda source: open_embedder(source, settings.backends, spend))
    return own, closing(stack, following)


def open_backends(
    settings: Settings,
    database: Database,
    policies: Policies,
    stack: AsyncExitStack,
    *,
    shelf: RedisAnswers | None = None,
) -> Backends:
    """The model servers, which follow the file that names them. Raises `StartError` for policies that name others.

    The `shelf` shares answers to apps, which a server gives and nobody else.
    """
    spend = PostgresSpend(database)
    backends = Backends(settings.backends, home=settings.home, spend=spend, policies=policies, shelf=shelf)
    closing(stack, backends)
    check_routes(backends)
    backends.follow(settings.read_backends, backends_file(settings.llm_backends))
    return backends
