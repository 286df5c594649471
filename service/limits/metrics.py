"""What the limits count."""

from prometheus_client import Counter, Gauge

RATE_LIMITED = Counter("rapport_rate_limited_total", "Requests refused because of a limit", ["kind", "window"])
LIMIT_FALLBACKS = Counter("rapport_limit_fallbacks_total", "Checks without the shared counters", ["kind", "outcome"])
OPEN_STREAMS = Gauge("rapport_stream_permits", "Streams that this instance holds a permit for")
