"""A key for each user, wrapped by the master key: what texts are sealed with."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    op.execute(
        """CREATE TABLE user_keys (
            user_id uuid PRIMARY KEY,
            wrapped bytea NOT NULL,
            master text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        )"""
    )
    op.execute("ALTER TABLE user_keys ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE user_keys FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY own ON user_keys USING (user_id = nullif(current_setting('rapport.user_id', true), '')::uuid"
        " OR current_setting('rapport.system', true) = 'on')"
    )


def downgrade() -> None:
    op.execute("DROP TABLE user_keys")
