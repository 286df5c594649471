"""Let replies go first where one small model does both: nobody waits for a lesson to end before they are answered."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from memory.errors import StoreUnavailableError
from memory.leases import any_running
from memory.ports import Reasoner
from memory.postgres import Database

LOOK_SECONDS = 0.5
PATIENCE = 120.0
"""After so long learning goes on all the same: a busy service must still learn."""


class PoliteReasoner:
    """A reasoner that asks its model only while no reply is being written."""

    def __init__(self, reasoner: Reasoner, database: Database, *, patience: float = PATIENCE) -> None:
        self.name = reasoner.name
        self._reasoner = reasoner
        self._database = database
        self._patience = patience

    async def structured(
        self, system: str, examples: Sequence[tuple[str, str]], prompt: str, schema: dict[str, Any]
    ) -> str:
        await self._until_quiet()
        return await self._reasoner.structured(system, examples, prompt, schema)

    async def _until_quiet(self) -> None:
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline:
            try:
                async with self._database.system() as connection:
                    if not await any_running(connection):
                        return
            except StoreUnavailableError:
                return
            await asyncio.sleep(LOOK_SECONDS)
