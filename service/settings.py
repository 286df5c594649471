"""The only reader of the environment. Every value has the name under which operators set it."""

import os
import secrets
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

import service
from service.auth.config import AuthConfig
from service.compliance.config import AgeConfig, DutyConfig
from service.limits.config import LimitsConfig
from service.llm.config import BackendConfig, parse_backends, simple_backends
from sessions.address import RedisAddress

CHECKOUT = Path(service.__file__).parents[1]


def default_home() -> Path:
    """Beside the code in a checkout, else where a user's programs keep their data."""
    if (CHECKOUT / "pyproject.toml").exists():
        return CHECKOUT / ".rapport"
    return Path.home() / ".local" / "share" / "rapport"


class Settings(BaseSettings):
    """All of Rapport's configuration, read once at start and never changed."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    # where things are
    home: Path = Field(
        default_factory=default_home,
        alias="RAPPORT_HOME",
        description="Where `rapport up` keeps its data and keys; `.rapport` in a checkout",
    )
    host: str = Field("127.0.0.1", alias="RAPPORT_HOST", description="Address to listen on")
    port: int = Field(
        8000,
        ge=0,
        le=65535,
        alias="RAPPORT_PORT",
        description="Port to listen on; `rapport up` takes the next free one",
    )
    instance: str = Field(
        default_factory=lambda: secrets.token_hex(4),
        alias="RAPPORT_INSTANCE",
        description="This process's name in logs",
    )
    embedded: bool = Field(
        default=False, alias="RAPPORT_EMBEDDED", description="Set by `rapport up`: servers and keys are its own"
    )
    embedded_model: str = Field(
        "default", alias="RAPPORT_EMBEDDED_MODEL", description="default, small, none, or the path of a GGUF file"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", alias="LOG_LEVEL", description="debug, info, warning or error"
    )

    # PostgreSQL
    database_url: SecretStr = Field(
        SecretStr(""), alias="DATABASE_URL", description="PostgreSQL 15 or later with pgvector"
    )
    database_replica_urls: SecretStr = Field(
        SecretStr(""),
        alias="DATABASE_REPLICA_URLS",
        description="Streaming replicas that reads may go to, by commas; they never read the past (docs/topologies.md)",
    )
    postgres_prepared: Literal["auto", "on", "off"] = Field(
        "auto",
        alias="POSTGRES_PREPARED",
        description="Prepared statements: auto does without behind PgBouncer; on suits 1.21 with max_prepared_statements",
    )
    pool_size: int = Field(20, ge=1, alias="POSTGRES_POOL_SIZE", description="Connections kept")
    max_overflow: int = Field(40, ge=0, alias="POSTGRES_MAX_OVERFLOW", description="Connections beyond them under load")
    master_key: SecretStr = Field(
        SecretStr(""),
        alias="RAPPORT_MASTER_KEY",
        description="What users' text is sealed under: 32 bytes in base64, or a file with them; `off` seals nothing",
    )

    # Redis
    redis_enabled: bool = Field(
        default=True, alias="REDIS_ENABLED", description="false: one process, live state in its memory"
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        alias="REDIS_URL",
        description="Redis 6.2 or later, or Valkey, for live state; redis+cluster://host:port,host:port for a cluster, "
        "redis+sentinel://host:port,host:port/name for the primary that Sentinels name",
    )
    dramatiq_broker_url: SecretStr = Field(
        SecretStr(""),
        alias="DRAMATIQ_BROKER_URL",
        description="The queue's own Redis, or Sentinels; the live state's without one",
    )

    # models
    llm_backends: str = Field(
        "", alias="LLM_BACKENDS", description="Model servers: a JSON list, TOML, or the path of a file"
    )
    openai_api_key: SecretStr = Field(SecretStr(""), alias="OPENAI_API_KEY", description="Alone: replies from OpenAI")
    openai_base_url: str = Field("", alias="OPENAI_BASE_URL", description="Another server behind that key")
    openai_model: str = Field("", alias="OPENAI_MODEL", description="Its model")
    lmstudio_url: str = Field("", alias="LMSTUDIO_URL", description="Alone: replies from LM Studio")
    lmstudio_model: str = Field("", alias="LMSTUDIO_MODEL", description="Its model; the loaded one without")

    embedder: str = Field(
        "built-in",
        alias="EMBEDDINGS",
        description="What makes the memories' vectors: built-in, built-in-words, or BACKEND or BACKEND/MODEL of LLM_BACKENDS",
    )

    # who may call
    auth_jwks: str = Field("", alias="AUTH_JWKS", description="Path or URL of the key set that signs users' tokens")
    auth_issuer: str = Field("rapport", alias="AUTH_ISSUER", description="The `iss` of users' tokens")
    auth_audience: str = Field("rapport", alias="AUTH_AUDIENCE", description="Their `aud`")
    auth_operator_role: str = Field(
        "operator", alias="AUTH_OPERATOR_ROLE", description="The entry in a token's `roles` that makes an operator"
    )
    session_key_file: Path | None = Field(
        None, alias="RAPPORT_SESSION_KEY_FILE", description="Ed25519 PEM that signs anonymous sessions"
    )
    anonymous_sessions: bool = Field(
        default=True, alias="ANONYMOUS_SESSIONS", description="Whether the page lets strangers in"
    )
    age_jwks: str = Field("", alias="AGE_JWKS", description="Path or URL of the key set that signs age assertions")
    age_issuer: str = Field("rapport", alias="AGE_ISSUER", description="The `iss` of age assertions")
    duty_language: str = Field("en", alias="DUTY_LANGUAGE", description="Of disclosures and reminders: de, en, es, fr")
    crisis_rules: Path | None = Field(None, alias="CRISIS_RULES", description="Directory of crisis rules of your own")
    routes_file: Path | None = Field(
        None, alias="RAPPORT_ROUTES", description="TOML of route policies; two built-in routes without it"
    )

    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (), alias="TRUSTED_PROXIES", description="Addresses of the proxies whose X-Forwarded-For is believed"
    )

    # limits
    requests_per_minute: int = Field(
        60, ge=1, alias="RATE_LIMIT_REQUESTS_PER_MINUTE", description="Turns a minute for each user"
    )
    anonymous_per_day: int = Field(
        100, ge=1, alias="RATE_LIMIT_ANONYMOUS_PER_DAY", description="Turns a day for an anonymous user"
    )
    authenticated_per_day: int = Field(
        1000, ge=1, alias="RATE_LIMIT_AUTHENTICATED_PER_DAY", description="Turns a day for a signed-in user"
    )
    rate_limits: str = Field(
        "",
        alias="RATE_LIMITS",
        description="Limits by kind; what is not named stays: `import=10/hour, search=30/minute; 500/day`",
    )
    streams_per_user: int = Field(6, ge=1, alias="STREAMS_PER_USER", description="Streams that one user may hold open")
    streams_per_address: int = Field(
        60, ge=1, alias="STREAMS_PER_ADDRESS", description="Streams that one address may hold open"
    )
    tokens_per_day: int = Field(
        0, ge=0, alias="TOKENS_PER_DAY", description="Model tokens a user may cause a day; 0 sets no quota"
    )
    instances: int = Field(
        1,
        ge=1,
        alias="RAPPORT_INSTANCES",
        description="Instances that share the database, for its connections and the limits",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), alias="ALLOWED_HOSTS", description="Host names this service answers to; any without"
    )
    message_max_chars: int = Field(16_000, ge=1, alias="MESSAGE_MAX_CHARS", description="Longest message")
    body_max_bytes: int = Field(1_048_576, ge=1024, alias="BODY_MAX_BYTES", description="Largest request")
    import_max_bytes: int = Field(67_108_864, ge=1024, alias="IMPORT_MAX_BYTES", description="Largest import")

    # a turn
    recall_budget: int = Field(
        800, ge=0, alias="RECALL_TOKEN_BUDGET", description="Tokens of memories put into a prompt"
    )
    recall_limit: int = Field(12, ge=0, alias="RECALL_LIMIT", description="Memories put into a prompt")
    reply_max_tokens: int = Field(700, ge=1, alias="REPLY_MAX_TOKENS", description="Longest reply")
    keep_reasoning: Literal["never", "asked", "always"] = Field(
        "asked",
        alias="KEEP_REASONING",
        description="Whether what models think is kept beside replies: never, where a turn asks for it, or always",
    )
    lease_seconds: float = Field(
        1.5, gt=0.1, alias="TURN_LEASE_SECONDS", description="How long a silent writer keeps its reply"
    )
    turns_at_once: int = Field(
        8,
        ge=1,
        alias="TURNS_AT_ONCE",
        description="Turns of one process that recall at once, twice as many being accepted; the others wait in order",
    )
    flush_seconds: float = Field(
        0.05, ge=0, alias="STREAM_FLUSH_SECONDS", description="How long tokens are gathered after the first"
    )
    drain_seconds: float = Field(
        25.0, ge=0, alias="DRAIN_SECONDS", description="How long replies may finish after SIGTERM"
    )
    leave_notice_seconds: float = Field(
        0.0,
        ge=0,
        alias="LEAVE_NOTICE_SECONDS",
        description="How long, after SIGTERM, readiness says no while all is still served: for balancers that ask",
    )
    proxy_idle_seconds: float = Field(
        5.0,
        ge=0,
        alias="PROXY_IDLE_SECONDS",
        description="How long a proxy in front keeps unused connections; none is closed under it earlier",
    )
    runner: Literal["inside", "outside"] = Field(
        "inside", alias="TURN_RUNNER", description="outside: `rapport runner` writes the replies"
    )

    # learning
    learn_batch: int = Field(12, ge=1, alias="LEARN_BATCH", description="Messages that one extraction reads")
    learn_attempts: int = Field(
        5, ge=1, alias="LEARN_ATTEMPTS", description="Tries before a part of a conversation is put aside"
    )
    learn_politely: bool = Field(
        default=False,
        alias="LEARN_POLITELY",
        description="Learn only while no reply is being written: for one small model that does both",
    )
    worker_threads: int = Field(4, ge=1, alias="WORKER_THREADS", description="Extractions at a time in one worker")
    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        alias="RAPPORT_METRICS_PORT",
        description="Where a worker or a scheduler answers /metrics; 0: nowhere",
    )

    @field_validator("database_url")
    @classmethod
    def _postgres_address(cls, value: SecretStr) -> SecretStr:
        given = value.get_secret_value()
        if given and not given.startswith(("postgresql://", "postgres://")):
            msg = "it begins with postgresql://"
            raise ValueError(msg)
        return value

    @field_validator("allowed_hosts", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _broker_beside_redis(self) -> Self:
        if not self.redis_enabled and self.dramatiq_broker_url.get_secret_value():
            msg = "REDIS_ENABLED=false runs one process without a queue: unset DRAMATIQ_BROKER_URL or enable Redis"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _redis_addresses(self) -> Self:
        kinds = {}
        for name, url in (("REDIS_URL", self.redis_url), ("DRAMATIQ_BROKER_URL", self.dramatiq_broker_url)):
            if not url.get_secret_value():
                continue
            try:
                kinds[name] = RedisAddress.parse(url.get_secret_value()).kind
            except ValueError as error:
                msg = f"{name}: {error}"
                raise ValueError(msg) from None
        if self.redis_enabled and kinds.get("DRAMATIQ_BROKER_URL", kinds["REDIS_URL"]) == "cluster":
            msg = "a queue can't be on a cluster: set DRAMATIQ_BROKER_URL to a Redis of its own, or to Sentinels"
            raise ValueError(msg)
        return self

    @cached_property
    def prepared(self) -> bool | None:
        """None: find out."""
        return None if self.postgres_prepared == "auto" else self.postgres_prepared == "on"

    @cached_property
    def replica_urls(self) -> tuple[str, ...]:
        return tuple(url.strip() for url in self.database_replica_urls.get_secret_value().split(",") if url.strip())

    @cached_property
    def broker_url(self) -> str:
        """The queue's own Redis; without one, the live state's (fine on one small machine)."""
        return self.dramatiq_broker_url.get_secret_value() or self.redis_url.get_secret_value()

    @property
    def embeddings(self) -> str:
        """By which name the embedder is opened (service/embedding.py)."""
        return self.embedder

    @cached_property
    def backends(self) -> tuple[BackendConfig, ...]:
        """The model servers. Raises `BackendConfigError`, which names the entry and the field."""
        return self.read_backends()

    def read_backends(self) -> tuple[BackendConfig, ...]:
        """Read the model servers anew: the file that LLM_BACKENDS names may have changed."""
        if self.llm_backends:
            return parse_backends(self.llm_backends, os.environ)
        return simple_backends(
            openai_api_key=self.openai_api_key.get_secret_value(),
            openai_model=self.openai_model,
            openai_url=self.openai_base_url,
            lmstudio_url=self.lmstudio_url,
            lmstudio_model=self.lmstudio_model,
        )

    @property
    def auth_config(self) -> AuthConfig:
        return AuthConfig(
            home=self.home,
            embedded=self.embedded,
            jwks=self.auth_jwks,
            issuer=self.auth_issuer,
            audience=self.auth_audience,
            operator_role=self.auth_operator_role,
            session_key_file=self.session_key_file,
            anonymous_sessions=self.anonymous_sessions,
        )

    @property
    def limits_config(self) -> LimitsConfig:
        return LimitsConfig(
            redis_url=self.redis_url.get_secret_value() if self.redis_enabled else None,
            per_minute=self.requests_per_minute,
            anonymous_per_day=self.anonymous_per_day,
            authenticated_per_day=self.authenticated_per_day,
            overrides=self.rate_limits,
            streams_per_user=self.streams_per_user,
            streams_per_address=self.streams_per_address,
            instances=self.instances,
        )

    @property
    def age_config(self) -> AgeConfig:
        return AgeConfig(home=self.home, embedded=self.embedded, jwks=self.age_jwks, issuer=self.age_issuer)

    @property
    def duty_config(self) -> DutyConfig:
        return DutyConfig(language=self.duty_language, crisis_rules=self.crisis_rules)
