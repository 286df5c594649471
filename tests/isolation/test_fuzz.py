"""What a machine makes of the OpenAPI document, thrown at the real service: no 500, and no answer it doesn't document.

All checks of the tool, with exceptions that are named, each request alone and in chains (what one answers is asked for by the next). FUZZ_SECONDS
sets how long it goes on.
"""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memory.postgres import Database, PoolConfig
from service.auth.api_keys import create_api_key
from tests.fixtures.service import LiveService

SECONDS = int(os.environ.get("FUZZ_SECONDS", "45"))
EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "2")
UNLIMITED = "1000000/minute; 1000000/hour; 1000000/day"
KINDS = ("read", "write", "search", "import", "age", "login", "mint")
ENDS_A_STORY = ("/v1/session", "/v1/account")
"""Signing out and erasing would leave the rest of a run with nothing but refusals, so they have one of their own."""
LOOKS_RIGHT = {
    ("POST", "/v1/conversations"): "a time zone that there isn't",
    ("POST", "/v1/conversations/import"): "lines that hold no message",
    ("POST", "/v1/memories"): "a date that is due in another age",
    ("POST", "/v1/age-assurance"): "an assertion that nobody signed",
    ("POST", "/v1/age-assurance/self-declaration"): "a day that is still to come",
    ("POST", "/v1/chat/completions"): "a history whose last word is not the user's",
}
"""What a schema can't say, and is refused with 422; everywhere else what fits its schema has to be taken."""
EXCEPTIONS = "".join(
    f"""
[[operations]]
include-path = "{path}"
include-method = "{method}"
checks.positive_data_acceptance.enabled = false  # {why}
"""
    for (method, path), why in LOOKS_RIGHT.items()
)
CONFIG = """
[[operations]]
include-path = "/v1/conversations/{conversation_id}/head"
checks.ensure_resource_availability.enabled = false  # the conversation is there; the message it names is not

[[operations]]
include-path = "/v1/session"  # a token that no cookie holds is refused as too large, which the tool doesn't count
checks.negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "413", "422", "429"]
"""
HOOKS = """
import schemathesis

@schemathesis.serializer("application/x-ndjson", "application/jsonl")
def lines(_context, value):
    return value if isinstance(value, bytes) else str(value).encode()
"""


def fuzzed(service: LiveService, token: str, seconds: int, *extra: str) -> int:
    """How many requests were made up; fails with what the tool found."""
    (service.home / "schemathesis.toml").write_text(CONFIG + EXCEPTIONS)
    (service.home / "fuzz_hooks.py").write_text(HOOKS)
    command = [
        str(Path(sys.executable).with_name("st")),
        *(
            "--config-file",
            str(service.home / "schemathesis.toml"),
            "run",
            f"{service.url}/openapi.json",
            "--no-color",
            "--generation-deterministic",
            "--workers",
            "1",
        ),
        *("--header", f"Authorization: Bearer {token}", "--request-timeout", "30", "--max-failures", "50"),
        *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", EXAMPLES, "--max-time", str(seconds)),
        *extra,
    ]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "fuzz_hooks", "PYTHONPATH": str(service.home)}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=service.home,
        env=environment,
        timeout=seconds * 3 + 60,
    )
    counted = re.search(r"([\d,]+) generated", done.stdout)
    assert counted is not None, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.returncode == 0, done.stdout[-6000:]
    return int(counted[1].replace(",", ""))


@pytest.mark.timeout(1800)
def test_nothing_that_can_be_sent_is_answered_in_an_undocumented_way(
    service_factory: Callable[..., LiveService], database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service = service_factory(
        RATE_LIMITS=", ".join(f"{kind}={UNLIMITED}" for kind in KINDS), RATE_LIMIT_REQUESTS_PER_MINUTE="1000000"
    )
    service.start()

    async def key() -> str:
        database = Database(PoolConfig(database_url, 1, 1))
        made, _ = await create_api_key(database, "fuzz", scopes=("chat", "operator"))
        await database.close()
        return made

    token = service.token("fuzz", roles=("user", "operator"))
    most = fuzzed(service, token, SECONDS, *(part for path in ENDS_A_STORY for part in ("--exclude-path", path)))
    # a server's key outlives the erasure of the account it speaks for
    rest = fuzzed(
        service, asyncio.run(key()), SECONDS // 4, *(part for path in ENDS_A_STORY for part in ("--include-path", path))
    )
    with capsys.disabled():
        print(f"\n{most:,} and {rest:,} requests made up, alone and in chains, no failure")
    assert most > 100
