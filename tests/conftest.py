"""Fixtures for all tests are in tests/fixtures/; the servers they start, in tests/fixtures/servers.py."""

import os

from tests.fixtures import loopback

pytest_plugins = [
    "tests.fixtures.servers",
    "tests.fixtures.service",
    "tests.fixtures.browser",
    "tests.misbehaving.fixtures",
    "tests.fixtures.model",
    "tests.fixtures.eliza",
    "tests.fixtures.litellm",
    "tests.fixtures.order",
]
loopback.install()

# Settings of the person who runs the tests must not change what is tested.
PREFIXES = (
    "RAPPORT_",
    "LLM_",
    "OPENAI_",
    "LMSTUDIO_",
    "REDIS_",
    "DRAMATIQ_",
    "DATABASE_",
    "POSTGRES_",
    "AUTH_",
    "AGE_",
    "RATE_LIMIT_",
    "EMBEDDINGS",
)
for name in [name for name in os.environ if name.startswith(PREFIXES)]:
    del os.environ[name]
