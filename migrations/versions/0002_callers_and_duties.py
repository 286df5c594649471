"""API keys, revoked tokens, token quotas, notices that are due by law, and a birth date that can't be edited."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE api_keys (
    id text PRIMARY KEY,
    name text NOT NULL,
    issuer text NOT NULL,
    secret_hash bytea NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz
);
CREATE TABLE revocations (
    user_id uuid NOT NULL,
    token_id text NOT NULL,
    revoked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, token_id)
);
CREATE INDEX revocations_recent ON revocations (revoked_at);
CREATE TABLE token_usage (
    user_id uuid NOT NULL,
    day date NOT NULL,
    reserved bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    used bigint NOT NULL DEFAULT 0 CHECK (used >= 0),
    PRIMARY KEY (user_id, day)
);
CREATE TABLE notices (
    user_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    kind text NOT NULL,
    due_key text NOT NULL,
    text text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (user_id, conversation_id, kind, due_key)
);
CREATE TABLE notice_counts (
    month date NOT NULL,
    kind text NOT NULL,
    protocol text NOT NULL,
    total bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (month, kind, protocol)
)
"""

OWNED = ("revocations", "token_usage", "notices")

# The service's code never edits it; this holds whoever else has the table open. Erasure may take it away.
KEEP_BIRTH_DATE = """
CREATE FUNCTION keep_birth_date() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.birth_date IS NOT NULL AND NEW.birth_date IS DISTINCT FROM OLD.birth_date
        AND NOT (NEW.birth_date IS NULL AND NEW.deleted_at IS NOT NULL) THEN
        RAISE EXCEPTION 'a birth date once given is not edited' USING ERRCODE = 'RP001';
    END IF;
    RETURN NEW;
END $$
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    for statement in TABLES.split(";"):
        op.execute(statement)
    for table in (*OWNED, "api_keys"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    for table in OWNED:
        op.execute(
            f"CREATE POLICY own ON {table} USING (user_id = nullif(current_setting('rapport.user_id', true), '')::uuid"
            " OR current_setting('rapport.system', true) = 'on')"
        )
    op.execute("CREATE POLICY system ON api_keys USING (current_setting('rapport.system', true) = 'on')")
    op.execute(KEEP_BIRTH_DATE)
    op.execute("CREATE TRIGGER keep_birth_date BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION keep_birth_date()")


def downgrade() -> None:
    op.execute("DROP TRIGGER keep_birth_date ON users")
    op.execute("DROP FUNCTION keep_birth_date()")
    for table in ("notice_counts", "notices", "token_usage", "revocations", "api_keys"):
        op.execute(f"DROP TABLE {table}")
