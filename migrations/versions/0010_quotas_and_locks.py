"""Quotas count the turns themselves, so that nothing reserved can be lost; a lock knows who may open it."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    op.execute("CREATE INDEX turns_of_a_day ON turns (user_id, created_at)")
    op.execute("DROP TABLE token_usage")
    op.execute(
        "ALTER TABLE conversations ADD COLUMN lock_by text NOT NULL DEFAULT 'user' CHECK (lock_by IN ('user', 'operator'))"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE conversations DROP COLUMN lock_by")
    op.execute(
        """CREATE TABLE token_usage (
            user_id uuid NOT NULL,
            day date NOT NULL,
            reserved bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
            used bigint NOT NULL DEFAULT 0 CHECK (used >= 0),
            PRIMARY KEY (user_id, day)
        )"""
    )
    op.execute("ALTER TABLE token_usage ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE token_usage FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY own ON token_usage USING (user_id = nullif(current_setting('rapport.user_id', true), '')::uuid"
        " OR current_setting('rapport.system', true) = 'on')"
    )
    op.execute("DROP INDEX turns_of_a_day")
