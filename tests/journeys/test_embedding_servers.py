"""Vectors from a model server, through the real service: few calls, and what happens while it is away."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import asyncpg
import httpx
import pytest

from memory.lexical import TERM_SPACE
from tests.fixtures.service import LiveService
from tests.misbehaving.process import Misbehaving
from tests.streams import Bubble, read

MODEL = "text-embedding-real"
WORD = {"style": "numbered", "words": 3}


@pytest.fixture
def database(database_url: str) -> Iterator[str]:
    """A database whose embedding model may be changed."""
    yield database_url

    async def put_back() -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute(
            "UPDATE embedding_models SET name = 'all-minilm-l6-v2-int8', dimensions = 384, source = ''"
        )
        await connection.close()

    asyncio.run(put_back())


@pytest.fixture
def service(service_factory: Callable[..., LiveService], database: str, misbehaving: Misbehaving) -> LiveService:
    backends = [
        {"name": "scripted", "kind": "scripted", "script": WORD},
        {"name": "vectors", "url": misbehaving.url, "model": "normal", "routes": ["none"], "embedding_model": MODEL},
    ]
    return service_factory(
        LLM_BACKENDS=json.dumps(backends),
        EMBEDDINGS="vectors",
        REDIS_ENABLED="false",  # so that this process learns by itself
        RATE_LIMITS="search=100000/minute, write=100000/minute",
    )


def without_vectors(url: str) -> int:
    async def counted() -> int:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute("SET rapport.system = 'on'")
            return int(
                await connection.fetchval(
                    "SELECT (SELECT count(*) FROM episodes WHERE embedding IS NULL)"
                    " + (SELECT count(*) FROM facts WHERE embedding IS NULL)"
                )
            )
        finally:
            await connection.close()

    return asyncio.run(counted())


def until(holds: Callable[[], bool], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def say(client: httpx.Client, path: str, text: str) -> Bubble:
    with client.stream("POST", f"{path}/turns", json={"content": text}) as response:
        return read(response)


async def search_all(service: LiveService, queries: list[str]) -> None:
    headers = service.headers("searcher")
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=60, limits=limits) as client:
        answers = await asyncio.gather(
            *(client.post("/v1/memories/search", json={"query": query}) for query in queries)
        )
    assert {answer.status_code for answer in answers} == {200}


def test_a_server_makes_the_vectors_and_may_go_away_and_come_back(
    service: LiveService, misbehaving: Misbehaving, database: str
) -> None:
    service.start()
    with httpx.Client(base_url=service.url, headers=service.headers(f"user-{uuid4()}"), timeout=60) as client:
        path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
        said = say(client, path, "My dog is called Rex.")
        assert said.data("memory.recalled")["words_only"] is False
        assert client.post("/v1/memories", json={"text": "I play the cello on Sundays"}).status_code == 201
        found = client.post("/v1/memories/search", json={"query": "Which musical instrument do I practise?"})
        assert "cello" in found.json()["items"][0]["text"]
        until(lambda: without_vectors(database) == 0)

        asked = len(misbehaving.state()["requests"])
        asyncio.run(search_all(service, [f"What did I say about thing number {n}?" for n in range(100)]))
        calls = [request["embeddings"]["input"] for request in misbehaving.state()["requests"][asked:]]
        assert sum(map(len, calls)) == 100
        assert len(calls) <= 20  # as they come in: a call takes what waits when it begins
        print(f"100 searches at once: {len(calls)} calls")

        misbehaving.override("500")
        assert client.post("/v1/memories", json={"text": "My bicycle is green"}).status_code == 201
        said = say(client, path, "I moved to Lisbon in May.")
        assert said.data("memory.recalled")["words_only"] is True
        assert said.kinds[-1] == "turn.completed"
        found = client.post("/v1/memories/search", json={"query": "bicycle"})
        assert "bicycle" in found.json()["items"][0]["text"]
        headers = {"Authorization": f"Bearer {service.token('root', roles=('user', 'operator'))}"}
        assert client.get("/v1/backends", headers=headers).json()["embeddings"]["state"] == "resting"
        until(lambda: without_vectors(database) > 1)  # the message, too, found by its words meanwhile

        misbehaving.override("")
        until(lambda: without_vectors(database) == 0, 60)
        found = client.post("/v1/memories/search", json={"query": "Which vehicle do I ride?"})
        assert "bicycle" in found.json()["items"][0]["text"]


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"EMBEDDINGS": "nobody"}, "there is no backend 'nobody'"),
        ({"EMBEDDINGS": "vectors/wrong-dimensions"}, "rapport memory reembed"),
        ({"DATABASE_URL": "/a-database-that-is-not-there", "EMBEDDINGS": ""}, "DATABASE_URL: database"),
    ],
)
def test_a_wrong_setting_is_a_sentence_and_an_exit_code(
    service: LiveService, database: str, environment: dict[str, str], told: str
) -> None:
    if "wrong" in environment["EMBEDDINGS"]:
        # something has vectors already, and of another model
        async def filled() -> None:
            connection = await asyncpg.connect(database)
            await connection.execute("SET rapport.system = 'on'")
            await connection.execute(
                """INSERT INTO facts (user_id, id, kind, topic, text, quote, conversation_id, message_id, source_seq,
                    ordinal, extractor, route, said_at, valid_from, key, lexical, embedding)
                SELECT id, id, 'user', '', 'x', '', id, id, 1, 0, 'user', 'general', now(), now(), '', $1::text::sparsevec, '[1,2]'
                FROM (SELECT gen_random_uuid() AS id) made""",
                f"{{}}/{TERM_SPACE + 1}",
            )
            await connection.close()

        asyncio.run(filled())
    if "DATABASE_URL" in environment:
        environment = environment | {"DATABASE_URL": database.rpartition("/")[0] + environment["DATABASE_URL"]}
    process = service.start(wait=False, **environment)
    assert process.process is not None
    assert process.process.wait(60) == 1
    log = process.log.read_text()
    assert told in log
    assert "Traceback" not in log
