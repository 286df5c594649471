from collections.abc import AsyncIterator, Callable

import orjson
import pytest

from memory.errors import ReasonerUnavailableError
from memory.ports import Reasoner
from service.llm.config import BackendConfig
from service.llm.pool import Backends
from service.llm.reasoner import BackendReasoner
from tests.misbehaving.process import Misbehaving

SCHEMA = {
    "title": "facts",
    "type": "object",
    "properties": {
        "facts": {
            "type": "array",
            "items": {"type": "object", "properties": {"quote": {"type": "string"}}, "required": ["quote"]},
        }
    },
    "required": ["facts"],
}
EXAMPLES = (("User: hello", '{"facts": []}'), ("User: My name is Tom.", '{"facts": [{"quote": "My name is Tom"}]}'))
Make = Callable[[BackendConfig], Reasoner]


@pytest.fixture
async def reasoner_on() -> AsyncIterator[Make]:
    pools: list[Backends] = []

    def make(config: BackendConfig) -> Reasoner:
        pools.append(Backends([config], learn=False))
        return BackendReasoner(pools[-1], patience=0.2)

    yield make
    for pool in pools:
        await pool.aclose()


async def test_the_scripted_backend_learns_by_rule(reasoner_on: Make) -> None:
    reasoner = reasoner_on(BackendConfig(name="s", kind="scripted"))
    answer = await reasoner.structured("Extract facts.", EXAMPLES, "User: I live in Lisbon", SCHEMA)
    assert orjson.loads(answer) == {"facts": [{"quote": "I live in Lisbon"}]}
    assert reasoner.name == "s/scripted"


@pytest.mark.parametrize(
    "quirk",
    [
        "normal",
        "json-object-refused",
        "strict-schema-refused",
        "json-schema-refused",
        "structured-refused",
        "system-role-refused",
    ],
)
async def test_json_comes_whatever_form_the_server_takes(
    quirk: str, reasoner_on: Make, misbehaving: Misbehaving
) -> None:
    reasoner = reasoner_on(BackendConfig(name="b", url=misbehaving.url, model=quirk))
    answer = await reasoner.structured("Extract facts.", EXAMPLES, "User: hello", SCHEMA)
    body = misbehaving.state()["requests"][-1]["body"]
    assert body["temperature"] == 0
    if quirk in {"normal", "json-object-refused", "strict-schema-refused"}:
        assert body["response_format"]["json_schema"]["schema"] == SCHEMA
        assert body["response_format"]["json_schema"]["strict"] is (quirk != "strict-schema-refused")
    if quirk != "structured-refused":
        assert orjson.loads(answer)["facts"] == []
    else:
        assert "JSON schema" in body["messages"][0]["content"]


async def test_no_model_is_told_as_unavailable(reasoner_on: Make) -> None:
    reasoner = reasoner_on(BackendConfig(name="b", url="http://127.0.0.1:9/v1", model="m"))
    with pytest.raises(ReasonerUnavailableError):
        await reasoner.structured("s", (), "p", SCHEMA)


async def test_examples_give_way_in_a_small_context(reasoner_on: Make, misbehaving: Misbehaving) -> None:
    many = tuple((f"User: {'word ' * 100}{number}", "{}") for number in range(20))
    reasoner = reasoner_on(BackendConfig(name="b", url=misbehaving.url, model="normal", context_length=2048))
    await reasoner.structured("Extract.", many, "User: hello", SCHEMA)
    sent = misbehaving.state()["requests"][-1]["body"]["messages"]
    assert 3 < len(sent) < 20
    assert sent[-3]["content"].endswith("19")
