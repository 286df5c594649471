"""How much of what is learnt from real conversations should not have been: extraction, gate and audit, as in service.

    python -m service.bench.junk --data FILE [FILE …] [--model WEIGHTS.gguf] [--seconds 600] [--facts OUT.txt]

Without `--model` the scripted backend extracts. Conversations are read in turn, a batch of each, so that a short run sees
all of them. `--facts` writes what was believed beside its quote, to be read by a person: the audit shares the gate's rules
and can't see what they can't.
"""

import argparse
import asyncio
import hashlib
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from memory import transcript
from memory.audit import audit_memories
from memory.embedders import MiniLmEmbedder
from memory.learning import LearnConfig, learn
from memory.ports import Embedder, Reasoner
from memory.postgres import Database, PoolConfig
from memory.summaries import SummaryConfig
from memory.transcript import ImportedMessage, Owner
from service.bench.scratch import scratch_database
from service.dev.model import EmbeddedModel
from service.llm.config import BackendConfig, parse_backends
from service.llm.pool import Backends
from service.llm.reasoner import BackendReasoner
from service.principal import derive_user_id

ISSUER = "rapport-bench"
BATCH = 6
"""Messages of one extraction: what the embedded model reads within its prompt."""
PATIENCE = 600.0


@dataclass(slots=True)
class Run:
    """What was read, claimed and believed."""

    messages: int = 0
    claims: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)


class Answers:
    """A reasoner that keeps what a model answered, so that a changed gate is measured without asking it again."""

    def __init__(self, reasoner: BackendReasoner, path: Path) -> None:
        self.name = reasoner.name
        self._reasoner = reasoner
        self._path = path
        self._kept = dict(json.loads(line) for line in path.read_text().splitlines()) if path.exists() else {}

    async def structured(
        self, system: str, examples: Sequence[tuple[str, str]], prompt: str, schema: dict[str, Any]
    ) -> str:
        asked = hashlib.sha256(json.dumps([system, examples, prompt, schema]).encode()).hexdigest()
        if asked not in self._kept:
            self._kept[asked] = await self._reasoner.structured(system, examples, prompt, schema)
            with self._path.open("a") as file:
                file.write(json.dumps([asked, self._kept[asked]]) + "\n")
        return str(self._kept[asked])


@dataclass(frozen=True, slots=True)
class Talk:
    user_id: UUID
    id: UUID


async def measure(
    dsn: str, backends: Sequence[BackendConfig], files: Sequence[Path], seconds: float, answers: Path | None, skip: int
) -> tuple[Run, str, str]:
    """Learn for `seconds` at most; gives what was done, the audit's report as JSON, and the facts to read."""
    database = Database(PoolConfig(dsn, size=2, overflow=2))
    embedder = MiniLmEmbedder()
    pool = Backends(backends, learn=False)
    run = Run()
    try:
        talks = [
            talk for path in files for talk in [await _stored(database, path.stem, raw, skip) for raw in _listed(path)]
        ]
        reasoner = BackendReasoner(pool, patience=PATIENCE)
        asked = reasoner if answers is None else Answers(reasoner, answers)
        await _learn_all(database, embedder, asked, talks, run, seconds)
        report = await audit_memories(database)
        return run, json.dumps(report.as_json()), await _facts(database)
    finally:
        await pool.aclose()
        await embedder.aclose()
        await database.close()


def _listed(path: Path) -> list[dict[str, Any]]:
    found = json.loads(path.read_text())
    return list(found["conversations"] if isinstance(found, dict) else found)


async def _stored(database: Database, name: str, raw: dict[str, Any], skip: int) -> Talk:
    subject = f"{name}/{raw['id']}"
    owner = Owner(derive_user_id(ISSUER, subject), ISSUER, subject)
    speakers, turns = raw["speakers"], raw["turns"]
    talk = Talk(owner.user_id, uuid7())
    messages = []
    for number, turn in enumerate(turns[skip:]):
        day = datetime.fromisoformat(turn["date"]) if turn.get("date") else datetime(2024, 1, 1)  # noqa: DTZ001  set below
        said_at = day.replace(tzinfo=UTC) + timedelta(hours=9, seconds=number)
        role = "user" if turn["speaker"] == speakers[0] else "assistant"
        messages.append(ImportedMessage(uuid7(), role, turn["speaker"], turn["text"].replace("\0", ""), said_at))
    async with database.as_user(owner.user_id) as connection:
        await transcript.create_conversation(
            connection, owner, talk.id, route="general", companion_name=str(speakers[-1])
        )
        await transcript.append_imported(connection, owner.user_id, talk.id, messages)
    return talk


async def _learn_all(
    database: Database, embedder: Embedder, reasoner: Reasoner, talks: Sequence[Talk], run: Run, seconds: float
) -> None:
    config = LearnConfig(
        batch=BATCH, lease_seconds=60, index_limit=0, retry_seconds=0.01, summary=SummaryConfig(every=10**6)
    )
    until = time.monotonic() + seconds
    waiting = list(talks)
    for talk in itertools.cycle(talks):
        if not waiting or time.monotonic() > until:
            return
        if talk not in waiting:
            continue
        learnt = await learn(database, reasoner, embedder, talk.user_id, talk.id, config)
        run.statuses[learnt.status] += 1
        run.messages += learnt.messages
        run.outcomes += learnt.facts
        run.refused += learnt.refused
        run.claims += learnt.facts.total() + learnt.refused.total()
        if learnt.status == "caught_up" or (learnt.status == "learnt" and not learnt.more):
            waiting.remove(talk)


async def _facts(database: Database) -> str:
    async with database.system() as connection:
        rows = await connection.fetch("SELECT kind, status, text, quote FROM facts ORDER BY user_id, learnt_at")
    return "\n".join(f"{row['kind']}\t{row['status']}\t{row['text']}\t<- {row['quote']}" for row in rows)


@contextmanager
def _backends(model: Path | None) -> Iterator[tuple[BackendConfig, ...]]:
    if model is None:
        yield (BackendConfig(name="scripted", kind="scripted"),)
        return
    with tempfile.TemporaryDirectory(prefix="rapport-junk-") as home:
        server = EmbeddedModel(Path(home), model, slots=1)
        try:
            server.start()
            yield tuple(parse_backends(json.dumps([server.backend()]), {}))
        finally:
            server.stop()


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--facts", type=Path)
    parser.add_argument("--skip", type=int, default=0, help="messages left out at the beginning of each conversation")
    parser.add_argument("--answers", type=Path, help="keeps the model's answers, and takes them from there again")
    asked = parser.parse_args(argv)
    with _backends(asked.model) as backends, scratch_database() as dsn:
        run, report, facts = asyncio.run(measure(dsn, backends, asked.data, asked.seconds, asked.answers, asked.skip))
    if asked.facts:
        asked.facts.write_text(facts)
    shown = {
        "messages": run.messages,
        "claims": run.claims,
        "facts": dict(run.outcomes),
        "refused": dict(run.refused.most_common()),
        "statuses": dict(run.statuses),
        "audit": json.loads(report),
    }
    sys.stdout.write(json.dumps(shown, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
