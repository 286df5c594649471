"""A background task that ends by itself is noticed: in the log, by the metrics, and by whoever asks after our health."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from structlog.testing import capture_logs

from service import health
from service.background import Background
from service.metrics import TASKS_ENDED
from service.runtime import Runtime


async def fail() -> None:
    await asyncio.sleep(0)
    raise RuntimeError("an error of ours")


async def last() -> None:
    await asyncio.Event().wait()


async def come(background: Background, *names: str) -> None:
    deadline = time.monotonic() + 30
    while background.ended.keys() != set(names):
        assert time.monotonic() < deadline, background.ended
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("required", "expected"), [(True, (503, "unavailable")), (False, (200, "degraded"))])
async def test_it_is_told(*, required: bool, expected: tuple[int, str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def up(_context: Runtime) -> tuple[str, bool, str]:
        return "up", False, ""

    for other in ("_postgresql", "_redis", "_queue", "_backends"):
        monkeypatch.setattr(health, other, up)
    background = Background()
    context = cast("Runtime", SimpleNamespace(background=background, chat=SimpleNamespace(draining=False)))

    async def asked() -> tuple[int, str, dict[str, Any]]:
        answer = await health.ready(context)
        body = orjson.loads(answer.body)
        return answer.status_code, body["status"], body["dependencies"]["background"]

    background.start("lasting", last(), required=True)
    status, word, found = await asked()
    assert (status, word, found["state"]) == (200, "ready", "up")
    with capture_logs() as logs:
        background.start("failing", fail(), required=required)
        await come(background, "failing")
    assert [(entry["event"], entry["task"], str(entry["exc_info"])) for entry in logs] == [
        ("background_task_ended", "failing", "an error of ours")
    ]
    assert TASKS_ENDED.labels("failing")._value.get() == 1
    status, word, found = await asked()
    assert (status, word) == expected
    assert "failing" in found["detail"]
    await background.aclose()


async def test_one_that_returns_is_told_too_and_closing_is_no_end() -> None:
    background = Background()
    background.start("done", asyncio.sleep(0))
    background.start("lasting", last())
    await come(background, "done")
    with capture_logs() as logs:
        await background.aclose()
    assert logs == []
    assert background.ended == {"done": False}
