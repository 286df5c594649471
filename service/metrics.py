"""What a process counts besides turns, calls of models and limits."""

from prometheus_client import Counter, Gauge

WAKEUPS_LOST = Counter("rapport_wakeups_lost_total", "Wake-ups that the queue did not take; a sweep sends them again")
OUTBOX_SENT = Counter("rapport_outbox_sent_total", "Wake-ups that a sweep sent")
OUTBOX_REPAIRED = Counter(
    "rapport_outbox_repaired_total", "Unlearnt conversations without an outbox row; should stay 0"
)
OUTBOX_WAITING = Gauge("rapport_outbox_waiting", "Conversations that wait to be learnt from")
OUTBOX_OLDEST = Gauge("rapport_outbox_oldest_seconds", "How long the oldest of them has been due")
QUARANTINED = Gauge("rapport_quarantined_ranges", "Stretches of conversation that could not be learnt from")
TASKS_ENDED = Gauge(
    "rapport_background_tasks_ended", "Background tasks that ended by themselves; should stay 0", ["task"]
)
CONNECTIONS_DROPPED = Counter("rapport_connections_dropped_total", "Connections given up", ["why"])
