"""Policies compare the user's id as text with the setting: a third of what reading the setting as an id costs a row.

Both ways the setting is read for each row; only parsing it, and taking the empty setting for none, is left out. The
setting is an id as PostgreSQL writes it, or nothing: another spelling of the same id sees no row. Ranges that an index
can search by were tried, and make the planner expect one row everywhere
(docs/decisions/policies-without-subqueries.md).
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

TABLES = (
    "age_assurances",
    "conversations",
    "episodes",
    "erasures",
    "fact_sources",
    "facts",
    "memory_cells",
    "messages",
    "notices",
    "outbox",
    "postings",
    "profiles",
    "quarantine",
    "revocations",
    "term_counts",
    "tombstones",
    "turns",
    "user_keys",
    "users",
)
TEXT = "user_id::text = current_setting('rapport.user_id', true) OR current_setting('rapport.system', true) = 'on'"
BEFORE = (
    "user_id = nullif(current_setting('rapport.user_id', true), '')::uuid"
    " OR current_setting('rapport.system', true) = 'on'"
)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table in TABLES:
        op.execute(f"ALTER POLICY own ON {table} USING ({TEXT})")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table in TABLES:
        op.execute(f"ALTER POLICY own ON {table} USING ({BEFORE})")
