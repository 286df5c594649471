"""What each model server cost, by day, counted by all instances together; what waits for its vector."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    op.execute(
        """CREATE TABLE backend_spend (
            day date NOT NULL,
            backend text NOT NULL,
            cost double precision NOT NULL DEFAULT 0,
            PRIMARY KEY (day, backend)
        )"""
    )
    op.execute("CREATE INDEX facts_without_vector ON facts (user_id) WHERE embedding IS NULL")
    op.execute("CREATE INDEX episodes_without_vector ON episodes (user_id) WHERE embedding IS NULL")


def downgrade() -> None:
    op.execute("DROP INDEX episodes_without_vector")
    op.execute("DROP INDEX facts_without_vector")
    op.execute("DROP TABLE backend_spend")
