"""A reply may be asked for again under a key, go on behind another one, and be re-attached to upstream."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '10min'")
    op.execute("ALTER TABLE turns ADD COLUMN idempotency_key text")
    op.execute("ALTER TABLE turns ADD COLUMN fingerprint bytea")
    # where the model server can be asked for the rest of the reply that it is writing: {"backend", "id", "after", "chars"}
    op.execute("ALTER TABLE turns ADD COLUMN upstream jsonb")
    op.execute(
        "CREATE UNIQUE INDEX turns_by_key ON turns (user_id, conversation_id, idempotency_key) WHERE idempotency_key IS NOT NULL"
    )
    op.execute("ALTER TABLE messages ADD COLUMN continues uuid")
    op.execute("ALTER TABLE messages DROP CONSTRAINT messages_status_check")
    # another writer of messages may still run the old release: it knows nothing of replies that were cut
    op.execute(
        "ALTER TABLE messages ADD CONSTRAINT messages_status_check CHECK (status IN ('complete', 'stopped', 'cut')) NOT VALID"
    )


def downgrade() -> None:
    op.execute("UPDATE messages SET status = 'complete' WHERE status = 'cut'")
    op.execute("ALTER TABLE messages DROP CONSTRAINT messages_status_check")
    op.execute("ALTER TABLE messages ADD CONSTRAINT messages_status_check CHECK (status IN ('complete', 'stopped'))")
    op.execute("ALTER TABLE messages DROP COLUMN continues")
    op.execute("DROP INDEX turns_by_key")
    op.execute("ALTER TABLE turns DROP COLUMN upstream")
    op.execute("ALTER TABLE turns DROP COLUMN fingerprint")
    op.execute("ALTER TABLE turns DROP COLUMN idempotency_key")
