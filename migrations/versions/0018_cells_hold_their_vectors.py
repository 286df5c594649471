"""The index that finds a cell's messages holds their vectors, so that a cell is read as one stretch of pages.

Before, each of some 2,500 messages that a search compares was fetched from wherever its row lies. Only for users with
very many memories, as before. A vector too wide for an index's page (a third of it is the limit) is left out.
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

NARROW = 1024
"""As in memory/statements.py."""
INDEXES = (
    ("episodes_cell", "cell", "embedding"),
    ("episodes_cell_b", "cell_b", "embedding_b"),
)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    for name, cell, embedding in INDEXES:
        op.execute(f"DROP INDEX {name}")
        op.execute(
            f"CREATE INDEX {name} ON episodes (user_id, {cell}) INCLUDE (conversation_id, seq, route, {embedding})"
            f" WHERE many AND vector_dims({embedding}) <= {NARROW}"
        )
        op.execute(
            f"CREATE INDEX {name}_wide ON episodes (user_id, {cell}) WHERE many AND vector_dims({embedding}) > {NARROW}"
        )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    for name, cell, _ in INDEXES:
        op.execute(f"DROP INDEX {name}, {name}_wide")
        op.execute(f"CREATE INDEX {name} ON episodes (user_id, {cell}) WHERE many")
