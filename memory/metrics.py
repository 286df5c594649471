"""What memory counts."""

from prometheus_client import Counter, Gauge

LEARNING = Counter(
    "rapport_learning_total", "Attempts to learn from a stretch of conversation, by how they ended", ["outcome"]
)
EXTRACTED = Counter("rapport_learnt_messages_total", "Messages learnt from")
EPISODES = Counter("rapport_episodes_indexed_total", "Messages made recallable")
FACTS = Counter("rapport_facts_total", "Facts by what became of them", ["action"])
REFUSED = Counter("rapport_facts_refused_total", "Claims of a model that were not believed, by reason", ["reason"])
SUMMARIES = Counter("rapport_summaries_total", "Chunks of conversation to be summarised, by how it went", ["outcome"])
UNCERTAIN = Counter("rapport_facts_uncertain_total", "Facts made uncertain because one that they depend on changed")
JUNK_RATE = Gauge("rapport_memory_junk_ratio", "Share of current facts that the last audit found something wrong with")
JUNK = Gauge("rapport_memory_junk_facts", "Current facts that the last audit found something wrong with", ["what"])
READS = Counter("rapport_reads_total", "Reads that a replica might serve, by who served them", ["by"])
REPLICAS = Gauge("rapport_replica_usable", "Whether a replica of PostgreSQL is read from", ["replica"])
UNOPENED = Counter(
    "rapport_unopened_texts_total", "Sealed texts that did not open with their user's key; should stay 0"
)
