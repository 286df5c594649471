"""Every process makes vectors with the model that the database names, and changes over by itself when it is switched."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from memory import associations, lexical
from memory.errors import LongTermMemoryError
from memory.models import read_models
from memory.ports import Embedder, Vectors
from memory.postgres import Database
from service.errors import RapportError

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
"""Between looks at which model is current. Until a process has noticed, it reads and writes the previous one's vectors."""


class FollowingEmbedder:
    """An `Embedder` that is whichever one the database asks for."""

    def __init__(self, own: Embedder, database: Database, open_source: Callable[[str], Embedder]) -> None:
        """`own` is what the settings name: it serves until another one is switched to. It is closed by its owner."""
        self._own = self._active = own
        self._opened: dict[str, Embedder] = {}
        self._database = database
        self._open_source = open_source

    @property
    def active(self) -> Embedder:
        """The one that makes the vectors now."""
        return self._active

    @property
    def name(self) -> str:
        return self._active.name

    @property
    def dimensions(self) -> int:
        return self._active.dimensions

    async def embed(self, texts: Sequence[str], *, question: bool = False) -> Vectors:
        return await self._active.embed(texts, question=question)

    async def refresh(self) -> None:
        """Look which model is current, and take it."""
        async with self._database.system() as connection:
            current = (await read_models(connection)).get("current")
        if current is None or current.name == self._active.name:
            return
        if current.name == self._own.name:
            self._active = self._own
        elif current.source:
            if current.name not in self._opened:
                self._opened[current.name] = await asyncio.to_thread(self._open_source, current.source)
            self._active = self._opened[current.name]
        else:
            return  # an empty database that is about to adopt what the settings name
        log.info("embedding_model_switched", model=self._active.name)

    async def run(self) -> None:
        """Follow until cancelled."""
        told = ""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.refresh()
                told = ""
            except (LongTermMemoryError, RapportError) as error:
                # this process goes on with the model it has; its vectors still find, and are written to, their own place
                if told != str(error):
                    log.warning("embedding_model_not_followed", reason=str(error))
                    told = str(error)
            except Exception:
                log.exception("embedding_model_not_followed")

    async def aclose(self) -> None:
        """Close what was opened here."""
        for embedder in self._opened.values():
            await embedder.aclose()


UNUSUAL = "warmingly"
"""A word that the table of associations has no stem of."""


async def warm_up(embedder: FollowingEmbedder) -> None:
    """Load what the first recall would wait for: the current model, the table of associations, the stemmer."""
    await asyncio.gather(asyncio.to_thread(associations.table), asyncio.to_thread(lexical.stem, UNUSUAL, "en"))
    try:
        await embedder.refresh()
        await embedder.embed(["Is it warm?"], question=True)
    except (LongTermMemoryError, RapportError) as error:
        log.warning("embedding_model_cold", reason=str(error))
