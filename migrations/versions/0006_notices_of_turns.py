"""A notice belongs to the turn in whose stream it is told; its counters are spread, so that nobody waits for a row."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    op.execute("ALTER TABLE notices ADD COLUMN turn_id uuid")
    op.execute("CREATE INDEX notices_of_turn ON notices (user_id, turn_id)")
    op.execute("ALTER TABLE notice_counts ADD COLUMN shard smallint NOT NULL DEFAULT 0")
    op.execute("ALTER TABLE notice_counts DROP CONSTRAINT notice_counts_pkey")
    op.execute("ALTER TABLE notice_counts ADD PRIMARY KEY (month, kind, protocol, shard)")


def downgrade() -> None:
    op.execute(
        "CREATE TABLE merged AS SELECT month, kind, protocol, sum(total) AS total FROM notice_counts GROUP BY 1, 2, 3"
    )
    op.execute("TRUNCATE notice_counts")
    op.execute("ALTER TABLE notice_counts DROP CONSTRAINT notice_counts_pkey")
    op.execute("ALTER TABLE notice_counts DROP COLUMN shard")
    op.execute("ALTER TABLE notice_counts ADD PRIMARY KEY (month, kind, protocol)")
    op.execute("INSERT INTO notice_counts (month, kind, protocol, total) SELECT * FROM merged")
    op.execute("DROP TABLE merged")
    op.execute("DROP INDEX notices_of_turn")
    op.execute("ALTER TABLE notices DROP COLUMN turn_id")
