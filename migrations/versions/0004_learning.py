"""Where facts come from, who is learning now, what a profile says, how clean memory is, and when jobs are due."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

PARTITIONS = 8
OWNED = ("fact_sources", "profiles")
SHARED = ("memory_audits", "schedule")

STATEMENTS = (
    # one learner at a time counts attempts rightly; the watermark alone keeps facts from being written twice
    "ALTER TABLE conversations ADD COLUMN learning_until timestamptz, ADD COLUMN learn_error text",
    "ALTER TABLE outbox ADD COLUMN delays integer NOT NULL DEFAULT 0",
    # what the reconciling sweep looks for: messages that nobody has learnt from
    "CREATE INDEX conversations_behind ON conversations (updated_at) WHERE learnt_seq < next_seq - 1 AND deleted_at IS NULL",
    # slot: what can have one value at a time (its change supersedes); key: a keyed digest of what is said
    "ALTER TABLE facts ADD COLUMN slot text NOT NULL DEFAULT ''",
    "ALTER TABLE facts ADD COLUMN key bytea NOT NULL DEFAULT ''",
    "ALTER TABLE facts ADD COLUMN uncertain_because uuid",
    "CREATE INDEX facts_current ON facts (user_id, route, said_at DESC) WHERE status IN ('active', 'uncertain')",
    "CREATE INDEX facts_open_loops ON facts (user_id, due_at) WHERE kind = 'open_loop' AND status = 'active'",
    """CREATE TABLE fact_sources (
        user_id uuid NOT NULL,
        fact_id uuid NOT NULL,
        conversation_id uuid NOT NULL,
        message_id uuid NOT NULL,
        seq bigint NOT NULL,
        role text NOT NULL,
        quote text NOT NULL,
        said_at timestamptz NOT NULL,
        PRIMARY KEY (user_id, fact_id, message_id),
        FOREIGN KEY (user_id, fact_id) REFERENCES facts (user_id, id) ON DELETE CASCADE
    ) PARTITION BY HASH (user_id)""",
    "CREATE INDEX fact_sources_of ON fact_sources (user_id, conversation_id, message_id)",
    """CREATE TABLE profiles (
        user_id uuid NOT NULL,
        route text NOT NULL,
        companion text NOT NULL,
        text text NOT NULL,
        version integer NOT NULL DEFAULT 1,
        built_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (user_id, route, companion)
    )""",
    "CREATE TABLE memory_audits (ran_at timestamptz PRIMARY KEY DEFAULT clock_timestamp(), report jsonb NOT NULL)",
    """CREATE TABLE schedule (
        name text PRIMARY KEY,
        due_at timestamptz NOT NULL,
        last_started_at timestamptz,
        last_error text
    )""",
)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    for statement in STATEMENTS:
        op.execute(statement)
    for part in range(PARTITIONS):
        op.execute(
            f"CREATE TABLE fact_sources_{part} PARTITION OF fact_sources"
            f" FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {part})"
        )
    for table in (*OWNED, *SHARED):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    for table in OWNED:
        op.execute(
            f"CREATE POLICY own ON {table} USING (user_id = nullif(current_setting('rapport.user_id', true), '')::uuid"
            " OR current_setting('rapport.system', true) = 'on')"
        )
    for table in SHARED:
        op.execute(f"CREATE POLICY system ON {table} USING (current_setting('rapport.system', true) = 'on')")


def downgrade() -> None:
    for table in (*OWNED, *SHARED):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP INDEX facts_open_loops")
    op.execute("DROP INDEX facts_current")
    for column in ("uncertain_because", "key", "slot"):
        op.execute(f"ALTER TABLE facts DROP COLUMN {column}")
    op.execute("DROP INDEX conversations_behind")
    op.execute("ALTER TABLE outbox DROP COLUMN delays")
    op.execute("ALTER TABLE conversations DROP COLUMN learning_until, DROP COLUMN learn_error")
