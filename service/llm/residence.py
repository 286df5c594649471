"""Keeps an embedding model in LM Studio's memory without ending anybody's reply.

Asked for vectors of a model that isn't in memory, LM Studio loads it just in time, and evicts the chat model for it in the
middle of whatever it is writing (lmstudio#671, #1796). A model that was loaded by its name neither evicts another nor is
evicted (lmstudio#644, #2051).
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from service.llm.errors import BackendError, BackendUnavailableError, QueueTimeoutError
from service.llm.models import is_asleep
from service.llm.openai_compatible import OpenAICompatibleBackend

log = structlog.get_logger(__name__)

LOOK_EVERY = 600.0
"""Seconds: somebody may unload it by hand, or restart LM Studio."""
LOOK_AGAIN = 60.0
"""Seconds after which a server is asked anew that didn't answer."""
LOADING = 120.0


class Residence:
    """One embedding model of one server; other servers than LM Studio are looked at and left alone."""

    def __init__(
        self, backend: OpenAICompatibleBackend, model: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._backend = backend
        self._model = model
        self._clock = clock
        self._look_at = clock() if backend.config.is_local else float("inf")
        self._looking: asyncio.Task[None] | None = None

    async def ensured(self, patience: float) -> None:
        """Return when the model is in memory, or when nothing can be done about it.

        Raises `QueueTimeoutError` when it takes longer to load than `patience`; the loading goes on.
        """
        if self._looking is None:
            if self._clock() < self._look_at:
                return
            self._looking = asyncio.create_task(self._look(), name="embedder-residence")
        try:
            async with asyncio.timeout(patience):
                # a load that is cut off goes on in the server, and the next one would load a second copy
                await asyncio.shield(self._looking)
        except TimeoutError as error:
            raise QueueTimeoutError("its model is being loaded", backend=self._backend.name) from error

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        pause = LOOK_EVERY
        try:
            if is_asleep(await self._backend.get("/api/v1/models", root=True, timeout=3.0), self._model):
                await self._backend.post("/api/v1/models/load", {"model": self._model}, root=True, timeout=LOADING)
                log.info("embedding_model_loaded", backend=self._backend.name, model=self._model)
        except BackendUnavailableError:
            pause = LOOK_AGAIN
        except BackendError as error:
            # no such address, a model too large: asked for vectors it may still load just in time
            log.debug("embedding_model_not_loaded", backend=self._backend.name, code=error.code)
        finally:
            self._look_at = self._clock() + pause
            self._looking = None
