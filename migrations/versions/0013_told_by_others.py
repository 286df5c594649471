"""Where a fact comes from that another program told; and whose search terms are keyed by a secret."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    # "mem0:<its id there>": what was told by another program, and is no one's own words
    op.execute("ALTER TABLE facts ADD COLUMN origin text NOT NULL DEFAULT ''")
    op.execute("CREATE INDEX facts_told ON facts (user_id, origin) WHERE origin <> ''")
    # false: this user's terms and digests are keyed by the user's id, as before; `rapport memory reseal` turns it true
    op.execute("ALTER TABLE user_keys ADD COLUMN keyed boolean NOT NULL DEFAULT false")


def downgrade() -> None:
    op.execute("ALTER TABLE user_keys DROP COLUMN keyed")
    op.execute("DROP INDEX facts_told")
    op.execute("ALTER TABLE facts DROP COLUMN origin")
