"""A row-level policy with a sub-select loses rows that a statement had to wait for: back to the settings as they are.

PostgreSQL looks at a row anew when another transaction has changed it meanwhile (EvalPlanQual), and a policy's sub-select
is not evaluated there: the row counts as another user's. An UPDATE then changes nothing, and of a statement with several
parts only those that come before are done. Shown by tests/memory/test_commit_under_locks.py.
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

PLAIN = (
    "user_id = nullif(current_setting('rapport.user_id', true), '')::uuid"
    " OR current_setting('rapport.system', true) = 'on'"
)
TABLES = (
    "users",
    "messages",
    "episodes",
    "term_counts",
    "facts",
    "fact_sources",
    "profiles",
    "postings",
    "memory_cells",
)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table in TABLES:
        op.execute(f"ALTER POLICY own ON {table} USING ({PLAIN})")


def downgrade() -> None:
    """Nothing: 0015 works with these policies too, and what it had loses rows."""
