"""What the live state counts."""

from prometheus_client import Counter

REDIS_FAILURES = Counter("rapport_redis_failures_total", "Commands to Redis that failed or timed out", ["error"])
LIVE_STATE = Counter("rapport_live_state_reads_total", "Reads of the live state by what they found", ["found"])
APPENDS = Counter("rapport_reply_appends_total", "Appends to reply logs by their answer", ["answer"])
OWNER_MISMATCHES = Counter("rapport_owner_mismatches_total", "Values in Redis that were another user's; should stay 0")
