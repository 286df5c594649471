"""What a model thought before a reply, where somebody wished it kept: sealed, and apart from what was said.

Empty for everything written before, and for what a process of the old release writes beside this one.
"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    op.execute("ALTER TABLE messages ADD COLUMN reasoning text NOT NULL DEFAULT ''")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    op.execute("ALTER TABLE messages DROP COLUMN reasoning")
