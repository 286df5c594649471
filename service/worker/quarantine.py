"""`rapport memory quarantine`: what could not be learnt from, and another try at it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from rich.console import Console
from rich.table import Table

from memory.postgres import PoolConfig
from memory.quarantine import Aside, learn_again, listed
from memory.transcript import read_route
from service.sealing import open_database
from service.settings import Settings
from service.worker.learner import learn_config
from service.worker.main import open_learning

errors = Console(stderr=True)


async def main(
    settings: Settings, conversations: Sequence[UUID] = (), *, retry: bool = False, as_json: bool = False
) -> int:
    """Show what is put aside, after another try if wished. Gives the exit status: 0, 1 when some of it failed again or
    no model answered, 2 when nothing of a conversation that was named is put aside."""
    database = open_database(settings, PoolConfig(settings.database_url.get_secret_value(), 1, 1))
    try:
        found = await listed(database, conversations)
        if strangers := set(conversations) - {aside.conversation_id for aside in found}:
            names = ", ".join(sorted(map(str, strangers)))
            errors.print(f"Not in quarantine: {names}.", style="red", highlight=False, markup=False, soft_wrap=True)
            return 2
        outcomes = await _again(settings, found) if retry else Counter()
        left = await listed(database, conversations) if retry else found
    finally:
        await database.close()
    if as_json:
        print(orjson.dumps(_as_json(left, outcomes if retry else None)).decode())  # noqa: T201
    else:
        _show(left, outcomes)
    return 1 if outcomes["failed"] or outcomes["postponed"] else 0


async def _again(settings: Settings, found: Sequence[Aside]) -> Counter[str]:
    """Try each once, here: whoever asks for it wants to see whether it works now."""
    outcomes: Counter[str] = Counter()
    if not found:
        return outcomes
    reading = learn_config(settings).reading
    async with open_learning(settings) as learning:
        for aside in found:
            async with learning.database.as_user(aside.user_id) as connection:
                route = await read_route(connection, aside.user_id, aside.conversation_id)
            reasoner = learning.reasoner_on(route or "general")
            learnt = await learn_again(learning.database, reasoner, learning.embedder, aside, reading)
            outcomes[learnt.status] += 1
            outcomes["facts"] += learnt.facts.total()
    return outcomes


def _as_json(left: Sequence[Aside], outcomes: Counter[str] | None) -> dict[str, Any]:
    ranges = [
        {
            "conversation_id": aside.conversation_id,
            "from_seq": aside.from_seq,
            "to_seq": aside.to_seq,
            "attempts": aside.attempts or None,
            "since": aside.since,
            "last_error": aside.reason,
        }
        for aside in left
    ]
    return {"ranges": ranges} if outcomes is None else {"ranges": ranges, "retried": dict(outcomes)}


def _show(left: Sequence[Aside], outcomes: Counter[str]) -> None:
    console = Console()
    if outcomes:
        told = ", ".join(f"{number} {what.replace('_', ' ')}" for what, number in outcomes.items() if number)
        console.print(f"Tried again: {told}.", highlight=False)
    if not left:
        console.print("Nothing is in quarantine.")
        return
    table = Table(title=f"{len(left)} stretches of conversation that could not be learnt from")
    table.add_column("conversation", no_wrap=True)
    for name in ("from", "until", "attempts"):
        table.add_column(name, justify="right")
    table.add_column("since")
    table.add_column("last error")
    for aside in left:
        table.add_row(
            str(aside.conversation_id),
            str(aside.from_seq),
            str(aside.to_seq),
            str(aside.attempts or "–"),
            f"{aside.since:%Y-%m-%d %H:%M}",
            aside.reason,
        )
    console.print(table)
