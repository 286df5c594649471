"""Renewing a lease touches no index: with `lease_until` in one, each renewal wrote to all five of `turns`.

Thousands of replies at once left tens of thousands of dead rows between two runs of autovacuum, and every renewal read them
all: its cost grew with the square of the open replies (docs/performance.md, "10,000 open streams"). The table keeps room on
its pages for what renewals leave, which the next visit of a page clears away. Who looks for leases that ran out reads all
running turns instead: there are never more than are being written.
"""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    op.execute("DROP INDEX turns_running")
    op.execute("CREATE INDEX turns_running ON turns (user_id, id) WHERE status = 'running'")
    op.execute("ALTER TABLE turns SET (fillfactor = 70)")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    op.execute("ALTER TABLE turns RESET (fillfactor)")
    op.execute("DROP INDEX turns_running")
    op.execute("CREATE INDEX turns_running ON turns (lease_until) WHERE status = 'running'")
