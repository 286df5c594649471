"""Which model makes the memories' vectors: the built-in one, or a server's. Models are chosen by name, here only.

A name is `built-in`, `built-in-words`, `BACKEND` (an entry of LLM_BACKENDS with an `embedding_model`) or `BACKEND/MODEL`; EMBEDDINGS
holds one. What is stored beside vectors is the embedder's own `name`, which tells models and widths apart.
"""

import asyncio
from collections.abc import Sequence

import structlog

from memory.adoption import adopt, models_in
from memory.embedders import EmbedderConfig, MiniLmEmbedder
from memory.errors import EmbedderUnavailableError, LongTermMemoryError
from memory.missing import fill_missing
from memory.ports import Embedder, Vectors
from memory.postgres import Database
from memory.word_embedder import WordEmbedder
from service.llm.config import BackendConfig
from service.llm.embeddings import BackendEmbedder, WrongWidthError
from service.llm.errors import BackendError
from service.llm.spend import PostgresSpend
from service.startup import StartError

log = structlog.get_logger(__name__)

BUILT_IN = "built-in"
WORDS = "built-in-words"
"""Means of word vectors, for very small machines."""
OPENAI_MODEL = "text-embedding-3-small"
START_SECONDS = 20.0
"""Patience with a server that loads its model when it is first asked."""
FILL_SECONDS = 3.0
"""Between looks for what was written while the server was away."""


def open_embedder(name: str, backends: Sequence[BackendConfig], spend: PostgresSpend | None = None) -> Embedder:
    """The embedder of that name; what a server's vectors cost is added to `spend`. Raises `StartError` for one that isn't
    configured."""
    if name == WORDS:
        return WordEmbedder()
    if name in {"", BUILT_IN}:
        return MiniLmEmbedder(EmbedderConfig())
    return BackendEmbedder(_entry(name, backends), spend=spend)


def _entry(name: str, backends: Sequence[BackendConfig]) -> BackendConfig:
    backend, _, model = name.partition("/")
    config = next((config for config in backends if config.name == backend), None)
    if config is None or config.kind != "openai_compatible":
        known = ", ".join(config.name for config in backends if config.kind == "openai_compatible")
        raise StartError(
            f"EMBEDDINGS={name}: there is no backend {backend!r} that can make vectors. "
            f"Use {BUILT_IN}{f', or one of: {known}' if known else ''}."
        )
    model = model or config.embedding_model or (OPENAI_MODEL if config.is_openai else "")
    if not model:
        raise StartError(
            f"EMBEDDINGS={name}: say which model makes the vectors: EMBEDDINGS={name}/MODEL, "
            f"or embedding_model in the entry of {backend!r}."
        )
    return config.model_copy(update={"embedding_model": model})


async def check_embedder(
    embedder: Embedder, database: Database, source: str, *, seconds: float = START_SECONDS
) -> None:
    """Raises `StartError` when the memories' vectors are of other models, or of another width.

    A server that is away is waited for later: messages are kept without vectors until it answers.
    """
    async with database.system() as connection:
        known = await models_in(connection)
    width = known.get(embedder.name)
    if isinstance(embedder, BackendEmbedder):
        embedder.dimensions = embedder.dimensions or width or 0
        try:
            async with asyncio.timeout(seconds):
                await embedder.check()
        except WrongWidthError as error:
            raise StartError(str(error)) from error
        except (BackendError, TimeoutError) as error:
            log.warning(
                "embeddings_away",
                embedder=embedder.name,
                reason=str(error),
                meaning="messages are kept without vectors and recalled by their words until it answers",
            )
    if not embedder.dimensions:
        return  # its first answer will tell; until then nothing has a vector
    if width is None:
        async with database.system() as connection:
            adopted = await adopt(connection, embedder.name, embedder.dimensions, source)
        width = embedder.dimensions if adopted else None
    if width is None:
        raise StartError(
            f"EMBEDDINGS makes vectors with {embedder.name}, and those in the database are of {', '.join(known)}: "
            "change them with `rapport memory reembed`, or set EMBEDDINGS back."
        )
    if embedder.dimensions != width:
        raise StartError(
            f"{embedder.name} makes vectors of {embedder.dimensions} numbers, and those in the database have {width}."
        )


async def meaning(embedder: Embedder, text: str, *, question: bool = False) -> Vectors | None:
    """The vector of a text, or None while no model makes any: what is written then is found by its words."""
    try:
        vector: Vectors = (await embedder.embed([text], question=question))[0]
    except EmbedderUnavailableError as error:
        log.warning("embeddings_away", embedder=embedder.name, reason=str(error))
        return None
    return vector


async def keep_filling(
    embedder: BackendEmbedder, database: Database, source: str, *, seconds: float = FILL_SECONDS
) -> None:
    """Give what was written while the server was away its vectors, as soon as it is back. Until cancelled."""
    filled = -1
    while True:
        missed = embedder.missed
        if missed != filled and not embedder.is_resting:
            try:
                if embedder.dimensions:
                    async with database.system() as connection:
                        await adopt(connection, embedder.name, embedder.dimensions, source)
                while await fill_missing(database, embedder):
                    pass
                filled = missed
            except LongTermMemoryError as error:
                log.debug("missing_vectors_not_filled", error=type(error).__name__)
            except Exception:
                log.exception("missing_vectors_not_filled")
        await asyncio.sleep(seconds)
