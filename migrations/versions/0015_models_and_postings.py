"""Vectors of two models side by side, and what finds the memories of users who have very many."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

PARTITIONS = 8

TABLES = """
-- which model made the vectors of each of the two places that a row has for them
CREATE TABLE embedding_models (
    name text PRIMARY KEY,
    dimensions integer NOT NULL CHECK (dimensions > 0),
    slot smallint NOT NULL UNIQUE CHECK (slot IN (1, 2)),
    state text NOT NULL CHECK (state IN ('current', 'filling', 'previous')),
    -- how every process opens it: a name as EMBEDDINGS takes it, unknown of what was adopted at a start
    source text NOT NULL DEFAULT '',
    since timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX embedding_models_current ON embedding_models (state) WHERE state = 'current';
INSERT INTO embedding_models (name, dimensions, slot, state) VALUES ('all-minilm-l6-v2-int8', 384, 1, 'current');

-- for users with very many memories only: in which messages a term is, …
CREATE TABLE postings (
    user_id uuid NOT NULL,
    term integer NOT NULL,
    message_id uuid NOT NULL,
    weight real NOT NULL,
    PRIMARY KEY (user_id, term, message_id) INCLUDE (weight)
) PARTITION BY HASH (user_id);

-- … and the middles of the cells that their vectors fall into
CREATE TABLE memory_cells (
    user_id uuid NOT NULL,
    slot smallint NOT NULL,
    cell integer NOT NULL,
    middle halfvec NOT NULL,
    PRIMARY KEY (user_id, slot, cell)
);
"""
OWNED = ("postings", "memory_cells")

FUNCTIONS = (
    # 'model[0.1,0.2]' is a vector with the name of its model; without a name it is of the current one
    r"""CREATE FUNCTION vector_for(tagged text, wanted integer) RETURNS halfvec LANGUAGE sql STABLE AS $$
    SELECT substr(tagged, strpos(tagged, '['))::halfvec FROM embedding_models
    WHERE slot = wanted AND CASE WHEN left(tagged, 1) = '[' THEN state = 'current'
        ELSE name = left(tagged, strpos(tagged, '[') - 1) END
    $$""",
    """CREATE FUNCTION terms_of(lexical sparsevec) RETURNS TABLE (term integer, weight real) LANGUAGE sql IMMUTABLE AS $$
    SELECT split_part(entry, ':', 1)::integer, split_part(entry, ':', 2)::real
    FROM string_to_table(btrim(split_part(lexical::text, '/', 1), '{}'), ',') AS entry WHERE entry <> ''
    $$""",
    """CREATE FUNCTION place_in_cells() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.cell IS NULL AND NEW.embedding IS NOT NULL THEN
            NEW.cell := (SELECT cell FROM memory_cells WHERE user_id = NEW.user_id AND slot = 1
                ORDER BY middle <#> NEW.embedding LIMIT 1);
        END IF;
        IF NEW.cell_b IS NULL AND NEW.embedding_b IS NOT NULL THEN
            NEW.cell_b := (SELECT cell FROM memory_cells WHERE user_id = NEW.user_id AND slot = 2
                ORDER BY middle <#> NEW.embedding_b LIMIT 1);
        END IF;
        RETURN NEW;
    END $$""",
    """CREATE TRIGGER place_in_cells BEFORE INSERT OR UPDATE ON episodes FOR EACH ROW WHEN (NEW.many)
    EXECUTE FUNCTION place_in_cells()""",
    """CREATE OR REPLACE FUNCTION count_terms() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        -- in one order, so that two writers of the same user wait for each other instead of locking each other out
        INSERT INTO term_counts (user_id, term, episodes)
        SELECT user_id, term, count(*) FROM changed, unnest(terms || 0) AS term GROUP BY user_id, term ORDER BY user_id, term
        ON CONFLICT (user_id, term) DO UPDATE SET episodes = term_counts.episodes + excluded.episodes;
        INSERT INTO postings (user_id, term, message_id, weight)
        SELECT user_id, found.term, message_id, found.weight FROM changed, terms_of(lexical) AS found WHERE many
        ON CONFLICT DO NOTHING;
        RETURN NULL;
    END $$""",
    """CREATE OR REPLACE FUNCTION discount_terms() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO term_counts (user_id, term, episodes)
        SELECT user_id, term, -count(*) FROM changed, unnest(terms || 0) AS term GROUP BY user_id, term ORDER BY user_id, term
        ON CONFLICT (user_id, term) DO UPDATE SET episodes = term_counts.episodes + excluded.episodes;
        DELETE FROM postings USING (SELECT user_id, message_id, unnest(terms) AS term FROM changed WHERE many) AS gone
        WHERE postings.user_id = gone.user_id AND postings.term = gone.term AND postings.message_id = gone.message_id;
        -- the last message takes the middles of the vectors with it
        DELETE FROM memory_cells USING term_counts AS counted
        WHERE counted.user_id IN (SELECT user_id FROM changed WHERE many) AND counted.term = 0 AND counted.episodes <= 0
            AND memory_cells.user_id = counted.user_id;
        UPDATE users SET many_memories = false FROM term_counts AS counted
        WHERE counted.user_id IN (SELECT user_id FROM changed WHERE many) AND counted.term = 0 AND counted.episodes <= 0
            AND users.user_id = counted.user_id;
        DELETE FROM term_counts USING (SELECT DISTINCT user_id FROM changed) AS whose
        WHERE term_counts.user_id = whose.user_id AND term_counts.episodes <= 0;
        RETURN NULL;
    END $$""",
)
# the settings are read once a statement: reading and parsing them for each row took a third of recall
POLICY = (
    "user_id = (SELECT nullif(current_setting('rapport.user_id', true), '')::uuid)"
    " OR (SELECT current_setting('rapport.system', true) = 'on')"
)
READ_A_LOT = ("users", "messages", "episodes", "term_counts", "facts", "fact_sources", "profiles")


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    op.execute("DROP INDEX episodes_near, episodes_terms")
    # no width: models differ in it. Only the type's modifier changes, so that no row is rewritten
    op.execute("ALTER TABLE episodes ALTER COLUMN embedding TYPE halfvec, ADD COLUMN embedding_b halfvec")
    op.execute("ALTER TABLE episodes ADD COLUMN cell integer, ADD COLUMN cell_b integer")
    op.execute("ALTER TABLE facts ALTER COLUMN embedding TYPE halfvec, ADD COLUMN embedding_b halfvec")
    for part in range(PARTITIONS):
        # beside the other numbers; of a very wide model outside of the row, where PLAIN would refuse it
        op.execute(
            f"ALTER TABLE episodes_{part} ALTER COLUMN embedding SET STORAGE MAIN, ALTER COLUMN embedding_b SET STORAGE MAIN"
        )
    for statement in TABLES.split(";"):
        if statement.strip():
            op.execute(statement)
    for part in range(PARTITIONS):
        op.execute(
            f"CREATE TABLE postings_{part} PARTITION OF postings FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {part})"
        )
    op.execute("CREATE INDEX episodes_cell ON episodes (user_id, cell) WHERE many")
    op.execute("CREATE INDEX episodes_cell_b ON episodes (user_id, cell_b) WHERE many")
    for statement in FUNCTIONS:
        op.execute(statement)
    for table in OWNED:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own ON {table} USING ({POLICY})")
    for table in READ_A_LOT:
        op.execute(f"ALTER POLICY own ON {table} USING ({POLICY})")
    # rows that were in the indexes of before: the nightly job brings their users into the new ones
    op.execute("UPDATE users SET many_memories = false WHERE many_memories")
    op.execute("UPDATE episodes SET many = false WHERE many")


BEFORE = (
    """CREATE OR REPLACE FUNCTION count_terms() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO term_counts (user_id, term, episodes)
        SELECT user_id, term, count(*) FROM changed, unnest(terms || 0) AS term GROUP BY user_id, term ORDER BY user_id, term
        ON CONFLICT (user_id, term) DO UPDATE SET episodes = term_counts.episodes + excluded.episodes;
        RETURN NULL;
    END $$""",
    """CREATE OR REPLACE FUNCTION discount_terms() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO term_counts (user_id, term, episodes)
        SELECT user_id, term, -count(*) FROM changed, unnest(terms || 0) AS term GROUP BY user_id, term ORDER BY user_id, term
        ON CONFLICT (user_id, term) DO UPDATE SET episodes = term_counts.episodes + excluded.episodes;
        DELETE FROM term_counts USING (SELECT DISTINCT user_id FROM changed) AS whose
        WHERE term_counts.user_id = whose.user_id AND term_counts.episodes <= 0;
        RETURN NULL;
    END $$""",
)


def downgrade() -> None:
    for statement in BEFORE:
        op.execute(statement)
    op.execute("DROP TRIGGER place_in_cells ON episodes")
    op.execute("DROP FUNCTION place_in_cells, terms_of, vector_for")
    op.execute("DROP TABLE postings, memory_cells, embedding_models")
    op.execute("ALTER TABLE episodes DROP COLUMN embedding_b, DROP COLUMN cell, DROP COLUMN cell_b")
    op.execute("ALTER TABLE facts DROP COLUMN embedding_b")
    op.execute("ALTER TABLE episodes ALTER COLUMN embedding TYPE halfvec(384)")
    op.execute("ALTER TABLE facts ALTER COLUMN embedding TYPE halfvec(384)")
    op.execute("CREATE INDEX episodes_near ON episodes USING hnsw (embedding halfvec_cosine_ops) WHERE many")
    op.execute("CREATE INDEX episodes_terms ON episodes USING gin (terms) WHERE many")
