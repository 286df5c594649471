"""Users, conversations, messages, turns, work to do, memories.

Every primary key starts with user_id, so that the tables can be spread over several databases by user;
those that grow with every message are hash-partitioned already. Row-level security is the second wall
behind the predicate that every statement carries.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

PARTITIONS = 8

TABLES = """
CREATE TABLE users (
    user_id uuid PRIMARY KEY,
    issuer text NOT NULL,
    subject text NOT NULL,
    time_zone text NOT NULL DEFAULT 'UTC',
    birth_date date,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE TABLE age_assurances (
    user_id uuid NOT NULL,
    id uuid NOT NULL,
    level text NOT NULL,
    method text NOT NULL,
    provider text NOT NULL,
    policy_version text NOT NULL,
    assertion_id text NOT NULL,
    verified_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    PRIMARY KEY (user_id, id),
    UNIQUE (user_id, provider, assertion_id)
);
CREATE TABLE conversations (
    user_id uuid NOT NULL,
    id uuid NOT NULL,
    title text NOT NULL DEFAULT '',
    route text NOT NULL,
    lock_reason text,
    lock_epoch integer NOT NULL DEFAULT 0,
    companion_name text NOT NULL DEFAULT '',
    persona text NOT NULL DEFAULT '',
    time_zone text NOT NULL DEFAULT 'UTC',
    source text NOT NULL DEFAULT 'native',
    head_id uuid,
    active_turn uuid,
    next_seq bigint NOT NULL DEFAULT 1,
    learnt_seq bigint NOT NULL DEFAULT 0,
    learn_attempts integer NOT NULL DEFAULT 0,
    summary text NOT NULL DEFAULT '',
    summary_seq bigint NOT NULL DEFAULT 0,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    PRIMARY KEY (user_id, id)
);
CREATE INDEX conversations_recent ON conversations (user_id, updated_at DESC, id DESC) WHERE deleted_at IS NULL;

CREATE TABLE messages (
    user_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    seq bigint NOT NULL,
    id uuid NOT NULL,
    parent_id uuid,
    turn_id uuid,
    role text NOT NULL CHECK (role IN ('user', 'assistant', 'system')),
    speaker text,
    content text NOT NULL,
    status text NOT NULL DEFAULT 'complete' CHECK (status IN ('complete', 'stopped')),
    client_message_id text,
    fingerprint bytea,
    external_id text,
    chain bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, conversation_id, seq),
    UNIQUE (user_id, id),
    UNIQUE (user_id, conversation_id, client_message_id)
) PARTITION BY HASH (user_id);
CREATE INDEX messages_by_chain ON messages (user_id, chain) WHERE chain IS NOT NULL;

CREATE TABLE turns (
    user_id uuid NOT NULL,
    id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    user_message_id uuid NOT NULL,
    reply_message_id uuid,
    status text NOT NULL CHECK (status IN ('running', 'completed', 'stopped', 'failed')),
    epoch integer NOT NULL DEFAULT 1,
    lease_until timestamptz,
    attempts integer NOT NULL DEFAULT 1,
    route text NOT NULL,
    lock_epoch integer NOT NULL,
    request jsonb NOT NULL DEFAULT '{}',
    checkpoint text NOT NULL DEFAULT '',
    stop_requested boolean NOT NULL DEFAULT false,
    backend text,
    model text,
    scripted boolean NOT NULL DEFAULT false,
    finish_reason text,
    usage jsonb,
    failure jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    PRIMARY KEY (user_id, id)
);
CREATE INDEX turns_running ON turns (lease_until) WHERE status = 'running';
CREATE INDEX turns_by_conversation ON turns (user_id, conversation_id, created_at DESC);

CREATE TABLE outbox (
    user_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    not_before timestamptz NOT NULL DEFAULT now(),
    dispatched_at timestamptz,
    PRIMARY KEY (user_id, conversation_id)
);
CREATE INDEX outbox_due ON outbox (not_before);

CREATE TABLE quarantine (
    user_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    from_seq bigint NOT NULL,
    to_seq bigint NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, conversation_id, from_seq)
);

CREATE TABLE episodes (
    user_id uuid NOT NULL,
    message_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    seq bigint NOT NULL,
    role text NOT NULL,
    speaker text,
    route text NOT NULL,
    said_at timestamptz NOT NULL,
    -- what the message says, with the dates that it means written out (its own words are in messages)
    text text NOT NULL,
    traits smallint NOT NULL DEFAULT 0,
    -- keyed ids of the terms, and what each is worth to BM25 before its IDF
    terms integer[] NOT NULL DEFAULT '{}',
    lexical sparsevec(1000000000) NOT NULL DEFAULT '{}/1000000000',
    embedding halfvec(384),
    PRIMARY KEY (user_id, message_id),
    UNIQUE (user_id, conversation_id, seq)
) PARTITION BY HASH (user_id);

-- in how many of a user's episodes each term is, with the episodes themselves as term 0 (kept by triggers)
CREATE TABLE term_counts (
    user_id uuid NOT NULL,
    term integer NOT NULL,
    episodes integer NOT NULL,
    PRIMARY KEY (user_id, term)
) PARTITION BY HASH (user_id);

CREATE TABLE facts (
    user_id uuid NOT NULL,
    id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('user', 'companion', 'both', 'open_loop')),
    topic text NOT NULL,
    text text NOT NULL,
    quote text NOT NULL,
    conversation_id uuid NOT NULL,
    message_id uuid NOT NULL,
    source_seq bigint NOT NULL,
    ordinal integer NOT NULL,
    extractor text NOT NULL,
    route text NOT NULL,
    said_at timestamptz NOT NULL,
    due_at timestamptz,
    valid_from timestamptz NOT NULL,
    valid_to timestamptz,
    learnt_at timestamptz NOT NULL DEFAULT now(),
    superseded_by uuid,
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'superseded', 'uncertain', 'corrected', 'forgotten')),
    pinned boolean NOT NULL DEFAULT false,
    confirmations integer NOT NULL DEFAULT 0,
    lexical sparsevec(1000000000) NOT NULL DEFAULT '{}/1000000000',
    embedding halfvec(384),
    PRIMARY KEY (user_id, id),
    UNIQUE (user_id, conversation_id, source_seq, extractor, ordinal)
) PARTITION BY HASH (user_id);
CREATE INDEX facts_listed ON facts (user_id, learnt_at DESC, id DESC);
"""

COUNT_TERMS = """
CREATE FUNCTION count_terms() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- in one order, so that two writers of the same user wait for each other instead of locking each other out
    INSERT INTO term_counts (user_id, term, episodes)
    SELECT user_id, term, count(*) FROM changed, unnest(terms || 0) AS term GROUP BY user_id, term ORDER BY user_id, term
    ON CONFLICT (user_id, term) DO UPDATE SET episodes = term_counts.episodes + excluded.episodes;
    RETURN NULL;
END $$
"""
DISCOUNT_TERMS = """
CREATE FUNCTION discount_terms() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO term_counts (user_id, term, episodes)
    SELECT user_id, term, -count(*) FROM changed, unnest(terms || 0) AS term GROUP BY user_id, term ORDER BY user_id, term
    ON CONFLICT (user_id, term) DO UPDATE SET episodes = term_counts.episodes + excluded.episodes;
    DELETE FROM term_counts USING (SELECT DISTINCT user_id FROM changed) AS whose
    WHERE term_counts.user_id = whose.user_id AND term_counts.episodes <= 0;
    RETURN NULL;
END $$
"""
TRIGGERS = (
    "CREATE TRIGGER count_terms AFTER INSERT ON episodes REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_terms()",
    "CREATE TRIGGER discount_terms AFTER DELETE ON episodes REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION discount_terms()",
)

PARTITIONED = ("messages", "episodes", "term_counts", "facts")
OWNED = (
    "users",
    "age_assurances",
    "conversations",
    "messages",
    "turns",
    "outbox",
    "quarantine",
    "episodes",
    "term_counts",
    "facts",
)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    # a database prepared by its superuser has it already, and the service's own role may not create it
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    for statement in TABLES.split(";"):
        if statement.strip():
            op.execute(statement)
    for table in PARTITIONED:
        for part in range(PARTITIONS):
            op.execute(
                f"CREATE TABLE {table}_{part} PARTITION OF {table} FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {part})"
            )
    for part in range(PARTITIONS):
        # a scan of one user's memories reads vectors and terms beside each other; only long texts are moved away
        op.execute(
            f"ALTER TABLE episodes_{part} ALTER COLUMN embedding SET STORAGE PLAIN, ALTER COLUMN lexical SET STORAGE MAIN"
        )
    for statement in (COUNT_TERMS, DISCOUNT_TERMS, *TRIGGERS):
        op.execute(statement)
    for table in OWNED:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY"
        )  # the service owns the tables, and owners pass otherwise
        op.execute(
            f"CREATE POLICY own ON {table} USING (user_id = nullif(current_setting('rapport.user_id', true), '')::uuid"
            " OR current_setting('rapport.system', true) = 'on')"
        )


def downgrade() -> None:
    for table in reversed(OWNED):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP FUNCTION count_terms, discount_terms")
