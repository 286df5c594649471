"""What each model server cost, by day, counted by all instances together."""

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


def downgrade() -> None:
    op.execute("DROP TABLE backend_spend")
