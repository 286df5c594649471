"""Two instances of the age routes over one database, and an application's backend that signs assertions."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from memory.postgres import Database, PoolConfig
from service.auth.authenticator import Authenticator
from service.auth.config import AuthConfig
from service.auth.local_keys import ensure_key, mint
from service.compliance import routes
from service.compliance.assertions import AgeAssertions, mint_assertion
from service.compliance.config import AgeConfig, DutyConfig
from service.compliance.duty import Duty
from service.errors import RapportError
from service.limits import Limits, LimitsConfig
from service.policies import load_policies

MIXED = Path(__file__).parents[3] / "deploy" / "routes" / "mixed.toml"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(PoolConfig(database_url, size=4, overflow=4))
    yield database
    await database.close()


@pytest.fixture
def age_config(tmp_path: Path) -> AgeConfig:
    ensure_key(tmp_path, "session")
    ensure_key(tmp_path, "age")
    return AgeConfig(home=tmp_path, embedded=True)


class Person:
    """Somebody with a token, on one instance."""

    def __init__(self, client: httpx.AsyncClient, name: str, token: str, config: AgeConfig) -> None:
        self.client, self.name, self.config = client, name, config
        self.headers = {"Authorization": f"Bearer {token}"}

    def assertion(self, level: str | None = "mature", **options: Any) -> str:
        return mint_assertion(self.config, options.pop("sub", self.name), level, **options)

    async def hand_in(self, assertion: str) -> httpx.Response:
        return await self.client.post("/v1/age-assurance", json={"assertion": assertion}, headers=self.headers)

    async def state(self) -> dict[str, Any]:
        answer = await self.client.get("/v1/age-assurance", headers=self.headers)
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    async def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return await self.client.post(path, json=body, headers=self.headers)


class Instances:
    """Makes instances, and people who talk to them."""

    def __init__(self, config: AgeConfig, database: Database) -> None:
        self.config, self._database = config, database
        self.auth = AuthConfig(home=config.home, embedded=True)
        self._clients: list[httpx.AsyncClient] = []

    def instance(self, **options: Any) -> httpx.AsyncClient:
        app = FastAPI()
        app.state.runtime = SimpleNamespace(
            authenticator=Authenticator(self.auth, self._database),
            age_assertions=AgeAssertions(options.get("age", self.config)),
            limits=options.get("limits", Limits(LimitsConfig())),
            policies=load_policies(options.get("policies")),
            database=self._database,
            duty=Duty(DutyConfig()),
        )
        app.include_router(routes.router)

        @app.exception_handler(RapportError)
        async def problem(_request: Request, error: RapportError) -> JSONResponse:
            return JSONResponse(error.problem(), error.status, error.headers)

        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver")
        self._clients.append(client)
        return client

    def person(self, client: httpx.AsyncClient, name: str = "alice", roles: tuple[str, ...] = ("user",)) -> Person:
        return Person(client, name, mint(self.auth, name, timedelta(hours=1), roles), self.config)

    async def aclose(self) -> None:
        for client in self._clients:
            await client.aclose()


@pytest.fixture
async def instances(age_config: AgeConfig, database: Database) -> AsyncIterator[Instances]:
    made = Instances(age_config, database)
    yield made
    await made.aclose()
