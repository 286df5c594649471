"""What operators read about model servers."""

from pydantic import BaseModel, Field


class Breaker(BaseModel):
    """After failures in a row nothing is asked for a while; then one call tries, and decides."""

    open: bool = Field(description="True while a call would be refused here")
    tried: bool = Field(description="Whether the one call that tries is out")
    failures_in_a_row: int
    retry_in: int = Field(description="Seconds until a call tries; 0 when it may, or when one does")


class KeyView(BaseModel):
    number: int
    ends_with: str = Field(description="Its last four characters; nothing of a short one")
    state: str = Field(
        description="ready, refused (the server doesn't accept it), resting (it is limited, or was busy in a row) or "
        "tried (one call finds out whether that is over)"
    )
    retry_in: int = Field(description="Seconds until it is used again")
    breaker: Breaker
    calls: int


class PermitsView(BaseModel):
    limit: int
    in_use: int
    waiting: int = Field(description="Calls in the queue; who waits reads the place in the stream")


class BudgetView(BaseModel):
    daily: float | None = Field(description="Money a day, at the configured prices; null sets no budget")
    spent_today: float = Field(description="By all instances and workers since midnight, UTC")
    spent_up: bool
    resets_in: int = Field(description="Seconds")


class CapabilitiesView(BaseModel):
    """As they were found out: `rapport doctor` asks for all of them, the service for what replies depend on."""

    server: str
    context_length: int = Field(description="Tokens; 4096 where nobody says")
    structured: str = Field(description="json_schema, loose_schema, json_object, text, none or unknown")
    prefill: str = Field(description="continues, doubles, restarts, refuses or unknown")
    continues: bool = Field(description="Whether an interrupted reply is continued here")
    reasoning: str = Field(description="none, field, tags, unopened, always or unknown")
    streams: bool | None
    usage: bool | None
    embedding_width: int | None
    first_token_seconds: float | None
    probed_at: float | None = Field(description="Unix time; null when it was not asked yet")


class BackendView(BaseModel):
    name: str
    kind: str
    address: str
    model: str = Field(description="Empty until the server was asked which one it has loaded")
    scripted: bool
    routes: list[str] = Field(description="Where it may answer: its own `routes`, and the routes' policies")
    tier: str
    small_talk: bool
    state: str = Field(description="ready, resting, keys_refused or budget_spent")
    retry_in: int = Field(description="Seconds until it is tried again")
    breaker: Breaker
    keys: list[KeyView]
    permits: PermitsView
    budget: BudgetView
    capabilities: CapabilitiesView


class ChoiceView(BaseModel):
    tier: str
    reason: str
    count: int


class CacheView(BaseModel):
    hits: int
    shared_hits: int = Field(description="Of the hits, those that another instance's asking had answered")
    misses: int
    hit_rate: float
    entries: int


class EmbeddingsView(BaseModel):
    name: str = Field(description="Names the model beside its vectors")
    backend: str | None = Field(description="null: the built-in model, in this process")
    dimensions: int
    state: str = Field(description="ready; resting or budget_spent: recall goes by words meanwhile")
    calls: int | None = Field(description="Of the model, since this process began")
    texts: int | None = Field(description="That these calls embedded")


class BackendsView(BaseModel):
    """Of one instance, which `instance` names; budgets are everybody's."""

    instance: str
    backends: list[BackendView] = Field(description="In the order in which they are asked")
    router: list[ChoiceView] = Field(description="Tiers chosen for replies, where a backend takes small talk")
    cache: CacheView = Field(description="Exact-match cache of calls that hold nothing personal")
    embeddings: EmbeddingsView
