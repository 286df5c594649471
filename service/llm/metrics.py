"""What the backends count."""

from prometheus_client import Counter, Gauge, Histogram

CALLS = Counter("rapport_backend_calls_total", "Calls of model servers by how they ended", ["backend", "outcome"])
RETRIES = Counter("rapport_backend_retries_total", "Calls tried again before a first token", ["backend", "reason"])
FAILOVERS = Counter(
    "rapport_backend_failovers_total", "Replies begun by another backend than the first choice", ["route"]
)
FIRST_TOKEN = Histogram(
    "rapport_backend_first_token_seconds",
    "From the request to the first visible token, per backend",
    ["backend"],
    buckets=(0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 30, 60),
)
TOKENS = Counter("rapport_backend_tokens_total", "Tokens that servers counted", ["backend", "model", "kind"])
COST = Counter("rapport_backend_cost_total", "Money spent at the configured prices", ["backend", "model"])
BUDGET_EXHAUSTED = Counter(
    "rapport_backend_budget_exhausted_total", "Calls passed over a backend whose day is spent", ["backend"]
)
IN_USE = Gauge("rapport_backend_permits_in_use", "Calls running now", ["backend"])
WAITING = Gauge("rapport_backend_permits_waiting", "Calls that wait for a permit", ["backend"])
QUEUE_SECONDS = Histogram(
    "rapport_backend_queue_seconds",
    "Time spent waiting for a permit",
    ["backend"],
    buckets=(0.01, 0.1, 0.5, 1, 2, 5, 10, 30),
)
CIRCUIT_OPEN = Gauge("rapport_backend_circuit_open", "1 while a backend is left alone after failures", ["backend"])
OVERFLOWS = Counter(
    "rapport_backend_context_overflows_total", "Prompts a server found too long; each is shrunk once", ["backend"]
)
ESTIMATE = Histogram(
    "rapport_backend_token_estimate_ratio",
    "Tokens the server counted, divided by our estimate",
    ["backend"],
    buckets=(0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2),
)
CACHE = Counter("rapport_backend_cache_total", "Exact-match cache of calls without personal content", ["result"])
ROUTED = Counter("rapport_backend_tier_choices_total", "Tiers chosen for replies by the router", ["tier", "reason"])
RELOADS = Counter("rapport_backend_reloads_total", "Changes of the configuration applied while running", ["result"])
EMBEDDED_TEXTS = Counter("rapport_backend_embedded_texts_total", "Texts embedded by a backend", ["backend"])
EMBEDDING_CALLS = Counter("rapport_backend_embedding_calls_total", "Calls it took to embed them", ["backend"])
