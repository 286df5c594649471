"""What turns count."""

from prometheus_client import Counter, Gauge, Histogram

TURNS = Counter("rapport_turns_total", "Turns by how they ended", ["outcome"])
TURNS_REFUSED = Counter("rapport_turns_refused_total", "Turns that the gate did not accept", ["code"])
RUNNING = Gauge("rapport_turns_running", "Replies being written in this process")
TURNS_WAITING = Gauge("rapport_turns_waiting", "Turns that wait because this process is full, by what for", ["place"])
WORDS_ONLY = Counter("rapport_recalls_by_words_total", "Recalls without a vector of the question", ["why"])
TAKEOVERS = Counter("rapport_takeovers_total", "Replies of other writers that this process went on with")
REBASES = Counter("rapport_rebases_total", "Replies whose readers were given the text anew", ["reason"])
LOOP_FAILURES = Counter(
    "rapport_turn_loop_failures_total",
    "Errors of ours while turns were claimed, taken over or kept; should stay 0",
    ["what"],
)
ZOMBIE_WRITES = Counter("rapport_zombie_writes_total", "Writers of an earlier epoch that were refused")
READERS = Gauge("rapport_stream_readers", "Open reply streams")
FIRST_TOKEN = Histogram(
    "rapport_first_token_seconds",
    "Time to the first token of a reply, ours and the backend's apart",
    ["part"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
RECALL_SECONDS = Histogram(
    "rapport_recall_seconds",
    "Time of one recall",
    ["part"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2),
)
RECALLED = Histogram("rapport_recalled_items", "Memories put into a prompt", buckets=(0, 1, 2, 4, 8, 12, 20))
