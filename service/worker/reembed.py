"""`rapport memory reembed`: another embedding model while everything runs, with a way back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console
from rich.table import Table

from memory import reembedding
from memory.models import Model, read_models
from memory.ports import Embedder
from memory.postgres import Database, PoolConfig
from memory.reembedding import ReembeddingError
from memory.shadow import Comparison, compare, percentile
from service.embedding import BUILT_IN, open_embedder
from service.following import LOOK_SECONDS
from service.llm.embeddings import BackendEmbedder
from service.llm.spend import PostgresSpend
from service.sealing import open_database
from service.settings import Settings

QUESTIONS = 50
"""Real messages that both models are asked."""
PASSES = 20
"""Over everything, until nothing is left: a pass takes what was said during the one before."""

errors = Console(stderr=True)


async def main(
    settings: Settings, *, to: str = "", back: bool = False, drop: bool = False, prepare: bool = False
) -> int:
    """Do one of them; without any, show which models there are. Gives the exit status: 0, or 2 when it can't be done."""
    database = open_database(settings, PoolConfig(settings.database_url.get_secret_value(), 2, 2, command_timeout=600))
    try:
        if to:
            await _change(settings, database, to, switch=not prepare)
        elif back:
            await _back(settings, database)
        elif drop:
            _say(f"Dropped the vectors of {await reembedding.drop(database)}.")
            source = await _current_source(settings, database)
            if source != settings.embeddings:
                _say(f"Set EMBEDDINGS={source} before anything is started again.")
        await _show(database)
    except ReembeddingError as error:
        errors.print(f"Not done. {error}", style="red", highlight=False, markup=False)
        return 2
    finally:
        await database.close()
    return 0


@asynccontextmanager
async def _opened(settings: Settings, database: Database, source: str) -> AsyncIterator[Embedder]:
    embedder = open_embedder(source, settings.backends, PostgresSpend(database))
    try:
        yield embedder
    finally:
        await embedder.aclose()


async def _change(settings: Settings, database: Database, to: str, *, switch: bool) -> None:
    async with (
        _opened(settings, database, to) as new,
        _opened(settings, database, await _current_source(settings, database)) as old,
    ):
        width = await _width(new)
        model = await reembedding.begin(database, new.name, width, to)
        _say(
            f"Making vectors of {model.name} ({model.dimensions} numbers). Stop it whenever you like and begin it again."
        )
        await _fill(database, new, model)
        _report(await compare(database, old, new, QUESTIONS))
        if not switch:
            _say("Not switched, as you asked; messages that come from now on need another run before it is.")
            return
        await _fill(database, new, model)
        await reembedding.switch(database, model.name)
        _say(f"Switched to {model.name}. The way back: rapport memory reembed --back. When you are content: --drop.")
        # processes that have not noticed yet write the previous model's vectors for a moment
        await asyncio.sleep(2 * LOOK_SECONDS)
        await _fill(database, new, model)


async def _fill(database: Database, embedder: Embedder, model: Model) -> None:
    done = 0
    with errors.status(f"{model.name} …") as status:
        for _ in range(PASSES):
            made = await reembedding.fill(database, embedder, model, lambda n: status.update(f"{model.name}: {n:,}"))
            done += made
            if not made:
                break
        await reembedding.fill_cells(database, model)
    missing = await reembedding.left(database, model)
    if missing:
        raise ReembeddingError(f"{missing:,} memories got no vector of {model.name}; run it again.")
    if done:
        _say(f"{done:,} vectors of {model.name}.")


async def _back(settings: Settings, database: Database) -> None:
    model = await reembedding.switch_back(database)
    _say(f"Back to {model.name}.")
    await asyncio.sleep(2 * LOOK_SECONDS)
    async with _opened(settings, database, await _current_source(settings, database)) as old:
        await _fill(database, old, model)  # what was said since the switch


async def _current_source(settings: Settings, database: Database) -> str:
    """How to open the current model: as it was switched to, or as this process is set up."""
    async with database.system() as connection:
        current = (await read_models(connection))["current"]
    for source in (current.source, settings.embeddings, BUILT_IN):
        async with _opened(settings, database, source) as embedder:
            if source and embedder.name == current.name:
                return source
    raise ReembeddingError(
        f"The memories' vectors are of {current.name}, and EMBEDDINGS names another model: set it to that one."
    )


async def _width(embedder: Embedder) -> int:
    """The width of its vectors, by asking for one. Raises `ReembeddingError` when it is not what it says."""
    said = embedder.dimensions
    if isinstance(embedder, BackendEmbedder):
        await embedder.check()
    (vector,) = await embedder.embed(["How wide is it?"])
    if said and len(vector) != said:
        raise ReembeddingError(f"{embedder.name} makes vectors of {len(vector)} numbers, and says {said}.")
    return len(vector)


async def _show(database: Database) -> None:
    async with database.system() as connection:
        models = await read_models(connection)
    table = Table(title="Models of the memories' vectors")
    for column in ("model", "numbers", "state"):
        table.add_column(column)
    for state, model in sorted(models.items()):
        table.add_row(model.name, str(model.dimensions), state)
    Console().print(table)


def _report(found: Comparison) -> None:
    if found.overlap is None:
        _say("No messages to compare with yet.")
        return
    table = Table(
        title=f"The same {len(found.overlaps)} messages asked of both: {found.overlap:.0%} of the first ten agree"
    )
    for column in ("model", "embedding p50 / p95, ms", "recall p50 / p95, ms"):
        table.add_column(column)
    for side in (found.old, found.new):
        table.add_row(side.name, _times(side.embedding), _times(side.recall))
    Console().print(table)


def _times(values: list[float]) -> str:
    return f"{percentile(values, 0.5):.1f} / {percentile(values, 0.95):.1f}"


def _say(text: str) -> None:
    Console().print(text, highlight=False, markup=False)
