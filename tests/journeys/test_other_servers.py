"""Model servers that aren't ours behind the real service: changed while a conversation goes on, and learnt with."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.dev.children import free_port
from service.dev.model import EmbeddedModel
from tests.fixtures.service import LiveService, Process
from tests.streams import Bubble, frames

pytestmark = [pytest.mark.model, pytest.mark.timeout(400)]

Factory = Callable[..., LiveService]
Entry = dict[str, Any]
ROUNDS = 8
"""A reply may be over before the configuration is changed under it; then that is tried with another one."""
SAID = (
    "I remember the sea beside my grandmother's house and the boats that came back in the evening with the fish.",
    "I dream of the garden behind our school and of the old man who was always asleep under the apple tree there.",
)
LEARN_SECONDS = 300.0


def person(service: LiveService) -> httpx.Client:
    return httpx.Client(base_url=service.url, headers=service.headers(f"user-{uuid4()}"), timeout=120)


def new(client: httpx.Client) -> str:
    return f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"


def say(client: httpx.Client, path: str, text: str, midway: Callable[[Bubble], None] | None = None) -> Bubble:
    """Say something and read the reply; `midway` is called when its first words are there."""
    bubble = Bubble()
    with client.stream("POST", f"{path}/turns", json={"content": text}) as response:
        assert response.status_code == 200, response.read()
        for event in frames(response.iter_lines()):
            bubble.take(*event)
            if midway is not None and event[1] == "reply.delta":
                midway(bubble)
                midway = None
    assert bubble.kinds[-1] == "turn.completed", bubble.events[-1]
    return bubble


def applied(process: Process) -> list[str]:
    """The backends of the configuration that an instance took up last."""
    lines = [line for line in process.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    told = [json.loads(line) for line in lines if '"backends_reloaded"' in line]
    return list(told[-1]["backends"]) if told else []


def configure(process: Process, file: Path, entry: Entry) -> None:
    """Write the file, tell the instance, and return when the new configuration counts."""
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps([entry]))
    unfinished.replace(file)
    process.kill(signal.SIGHUP)
    deadline = time.monotonic() + 60
    while applied(process) != [entry["name"]]:
        assert time.monotonic() < deadline, process.log.read_text()[-2000:]
        time.sleep(0.02)


@pytest.mark.parametrize(
    "other", ["eliza", pytest.param("litellm", marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_a_conversation_goes_on_while_its_server_is_changed_for_another_and_back(
    other: str,
    request: pytest.FixtureRequest,
    service_factory: Factory,
    embedded_model: EmbeddedModel,
    tmp_path: Path,
) -> None:
    here: Entry = embedded_model.backend()
    there: Entry = request.getfixturevalue(other)
    file = tmp_path / "backends.json"
    file.write_text(json.dumps([here]))
    service = service_factory(LLM_BACKENDS=str(file), REPLY_MAX_TOKENS="64")
    process = service.start()
    said: list[str] = []
    under_way: Counter[str] = Counter()

    with person(service) as client:
        path = new(client)

        def change(old: Entry, entry: Entry, bubble: Bubble) -> None:
            configure(process, file, entry)
            turn = client.get(f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}").json()
            under_way[old["name"]] += turn["status"] == "running"

        for _ in range(ROUNDS):
            for text, old, entry in ((SAID[0], here, there), (SAID[1], there, here)):
                bubble = say(client, path, text, partial(change, old, entry))
                done = bubble.data("turn.completed")
                assert (done["backend"], done["model"], done["scripted"]) == (old["name"], old["model"], False)
                assert (bubble.repeated, bubble.rebased) == (0, 0)
                assert bubble.text.strip()
                said += [text, bubble.text]
            if all(under_way[entry["name"]] for entry in (here, there)):
                break
        items = client.get(f"{path}/messages", params={"limit": 200}).json()["items"]

    assert [item["content"] for item in items] == said
    assert [item["role"] for item in items] == ["user", "assistant"] * (len(said) // 2)
    assert all(under_way[entry["name"]] for entry in (here, there)), (
        "no reply was under way when its server was changed"
    )
    print(f"\nembedded ⇄ {other}: {len(said) // 2} replies, changed under {dict(under_way)} of them that went on")


def counted(url: str) -> Counter[tuple[str, str]]:
    """What a worker has counted, by name and labels; nothing while it doesn't answer yet."""
    try:
        text = httpx.get(f"{url}/metrics", timeout=10).text
    except httpx.TransportError:
        return Counter()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return Counter(
        {
            (sample.name, "/".join(sample.labels.values())): int(sample.value)
            for sample in samples
            if sample.name.endswith("_total")
        }
    )


def test_what_is_said_is_learnt_through_a_real_model_s_structured_answers(
    service_factory: Factory, embedded_model: EmbeddedModel, broker_url: str
) -> None:
    """Said to the API, learnt by the worker, which has no other model: what a small one claims differs, what may be
    kept of it doesn't."""
    service = service_factory(DRAMATIQ_BROKER_URL=broker_url)
    service.start()
    port = str(free_port())
    text = "I moved to Lisbon in May."
    with person(service) as client:
        path = new(client)
        say(client, path, text)
        alone = json.dumps([embedded_model.backend()])
        worker = service.start("worker", LLM_BACKENDS=alone, RAPPORT_METRICS_PORT=port)
        service.start("scheduler")  # a lost wake-up, or an answer that was cut, is brought again by its sweep
        deadline = time.monotonic() + LEARN_SECONDS
        metrics = f"http://127.0.0.1:{port}"
        while counted(metrics)["rapport_learnt_messages_total", ""] < 2:
            assert time.monotonic() < deadline, worker.log.read_text()[-2000:]
            time.sleep(0.3)
        facts = client.get("/v1/memories", params={"layer": "fact"}).json()["items"]
        episodes = client.get("/v1/memories", params={"layer": "episode"}).json()["items"]
        said = {item["id"]: item["content"] for item in client.get(f"{path}/messages").json()["items"]}
        seen = counted(metrics)  # looked at anew: what a lesson did is counted one by one

    assert seen["rapport_backend_calls_total", "embedded/completed"] >= 1
    assert not seen["rapport_learning_total", "quarantined"]
    assert len(said) == len(episodes) == 2
    claims = sum(
        number for (name, _), number in seen.items() if name in {"rapport_facts_total", "rapport_facts_refused_total"}
    )
    assert claims >= len(facts)
    for fact in facts:
        assert fact["source"]["quote"]
        assert fact["source"]["quote"] in said[fact["source"]["message_id"]]
    print(f"\n{embedded_model.model}: {claims} claims, {len(facts)} kept: {[fact['text'] for fact in facts]}")
