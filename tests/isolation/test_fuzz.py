"""What a machine makes of the OpenAPI document, thrown at the real service: no 500, and no answer it doesn't document."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures.service import LiveService

EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "2")
UNLIMITED = "1000000/minute"
KINDS = ("read", "write", "search", "import", "age", "login", "mint")
# signing out or erasing would end the run; uploads have a fuzzer of their own in tests/service/imports/
LEFT_OUT = ("/v1/session", "/v1/account", "/v1/conversations/import")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


@pytest.mark.timeout(1800)
def test_nothing_that_can_be_sent_is_answered_in_an_undocumented_way(
    service_factory: Callable[..., LiveService], capsys: pytest.CaptureFixture[str]
) -> None:
    service = service_factory(
        RATE_LIMITS=", ".join(f"{kind}={UNLIMITED}" for kind in KINDS), RATE_LIMIT_REQUESTS_PER_MINUTE="1000000"
    )
    service.start()
    token = service.token("fuzz", roles=("user", "operator"))
    command = [
        str(Path(sys.executable).with_name("st")),
        *("run", f"{service.url}/openapi.json", "--no-color", "--generation-deterministic", "--workers", "1"),
        *("--header", f"Authorization: Bearer {token}", "--request-timeout", "30", "--max-failures", "50"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", EXAMPLES, "--checks", ",".join(CHECKS)),
        *(part for path in LEFT_OUT for part in ("--exclude-path", path)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=service.home)
    counted = re.search(r"([\d,]+) generated", done.stdout)
    assert counted is not None, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.returncode == 0, done.stdout[-6000:]
    with capsys.disabled():
        print(f"\n{counted[1]} requests made up, no failure")
