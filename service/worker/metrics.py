"""What the scheduler counts."""

from prometheus_client import Counter

RUNS = Counter("rapport_scheduled_runs_total", "Scheduled jobs by how they ended", ["job", "outcome"])
