"""Below which age a trustworthy source puts a user whose birth date nobody told: an app store's bracket."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    # counts only beside known_minor, which older releases write alone
    op.execute("ALTER TABLE users ADD COLUMN known_below smallint")


def downgrade() -> None:
    op.execute("ALTER TABLE users DROP COLUMN known_below")
