"""Imports that can be repeated, and tombstones of what was forgotten."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    # a second import of the same conversation finds the first
    "ALTER TABLE conversations ADD COLUMN import_key bytea",
    "CREATE UNIQUE INDEX conversations_import_key ON conversations (user_id, import_key) WHERE import_key IS NOT NULL AND deleted_at IS NULL",
    "CREATE UNIQUE INDEX messages_external_id ON messages (user_id, conversation_id, external_id) WHERE external_id IS NOT NULL",
    # digests under a key of the database's own: what was forgotten can be recognised, not read
    """CREATE TABLE tombstones (
        user_id uuid NOT NULL,
        digest bytea NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (user_id, digest)
    )""",
    """CREATE TABLE erasures (
        user_id uuid NOT NULL,
        id uuid NOT NULL,
        scope text NOT NULL,
        receipt jsonb NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (user_id, id)
    )""",
)
OWNED = ("tombstones", "erasures")


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    for statement in STATEMENTS:
        op.execute(statement)
    for table in OWNED:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY own ON {table} USING (user_id = nullif(current_setting('rapport.user_id', true), '')::uuid"
            " OR current_setting('rapport.system', true) = 'on')"
        )


def downgrade() -> None:
    for table in OWNED:
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP INDEX messages_external_id")
    op.execute("DROP INDEX conversations_import_key")
    op.execute("ALTER TABLE conversations DROP COLUMN import_key")
