"""What recall keeps beside each episode and fact: the words that it associates by, and an index for large memories."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    op.execute("ALTER TABLE episodes ADD COLUMN known_words bytea NOT NULL DEFAULT ''")
    # rows of users who have so many memories that reading them all takes too long: only these are in the two indexes
    op.execute("ALTER TABLE episodes ADD COLUMN many boolean NOT NULL DEFAULT false")
    op.execute("CREATE INDEX episodes_near ON episodes USING hnsw (embedding halfvec_cosine_ops) WHERE many")
    op.execute("CREATE INDEX episodes_terms ON episodes USING gin (terms) WHERE many")


def downgrade() -> None:
    op.execute("DROP INDEX episodes_near, episodes_terms")
    op.execute("ALTER TABLE episodes DROP COLUMN known_words, DROP COLUMN many")
