"""Bring what was written before under today's keys: terms and digests keyed by a secret, texts sealed that were left open.

Releases before 0.2 keyed search terms and digests by the user's id, which anybody who has the table can do too. And a
service that ran without a master key has left its texts readable.
"""

from collections import Counter
from uuid import UUID

from memory import chains, facts, slots
from memory.errors import KeyUnavailableError
from memory.imported import kept_id
from memory.indexing import sparse, term_weights
from memory.postgres import Connection, Database, be_patient
from memory.turns import TEXTS_OF_REQUEST
from memory.vault import PREFIX, index_key, ring_of, sealed, sealed_in, under

PATIENCE = 120.0
BATCH = 500

TEXTS: tuple[tuple[str, str, str], ...] = (
    # table (which is the place in the vault), the id that is bound in, column
    ("messages", "id", "content"),
    ("messages", "id", "reasoning"),
    ("episodes", "message_id", "text"),
    ("facts", "id", "text"),
    ("facts", "id", "quote"),
    ("fact_sources", "message_id", "quote"),
    ("conversations", "id", "title"),
    ("conversations", "id", "persona"),
    ("conversations", "id", "summary"),
    ("turns", "id", "checkpoint"),
    ("profiles", "user_id", "text"),
)


async def users(database: Database) -> list[UUID]:
    async with database.system() as connection:
        return [row["user_id"] for row in await connection.fetch("SELECT user_id FROM users ORDER BY user_id")]


async def masters_in_use(connection: Connection) -> set[str]:
    """Names of the master keys that users' keys are sealed under. Ask over `Database.system`."""
    return {row["master"] for row in await connection.fetch("SELECT DISTINCT master FROM user_keys")}


async def keyed_by_id(connection: Connection) -> int:
    """Users whose terms and digests wait for this. Ask over `Database.system`."""
    return int(await connection.fetchval("SELECT count(*) FROM user_keys WHERE NOT keyed"))


async def reseal(database: Database, user_id: UUID) -> Counter[str]:
    """Bring one user's rows under the secret, in one transaction; gives the rows changed, by what they are.

    Safe to repeat: it mends what is not as it should be. Other processes may hold the key as it was for `KEY_SECONDS`,
    and index new messages by it: so come again after that. Raises `KeyUnavailableError` without a vault.
    """
    vault = database.vault
    if vault is None:
        raise KeyUnavailableError("Without RAPPORT_MASTER_KEY there is no key to bring anything under.")
    done: Counter[str] = Counter()
    async with database.as_user(user_id) as connection:
        await be_patient(connection, PATIENCE)
        await connection.execute("SELECT FROM users WHERE user_id = $1 FOR UPDATE", user_id, timeout=PATIENCE)
        converted = await connection.fetchval(
            "UPDATE user_keys SET keyed = true WHERE user_id = $1 AND NOT keyed RETURNING true", user_id
        )
        ring_of(connection).current = await vault.fresh(connection, user_id)
        if converted:
            done["users"] += 1
            done["tombstones"] += await _tombstones(connection, user_id)
            await _origins(connection, user_id)
        done["episodes"] += await _episodes(connection, user_id)
        done["facts"] += await _facts(connection, user_id)
        done["digests"] += await _fingerprints(connection, user_id) + await _chains(connection, user_id)
        done["digests"] += await _imports(connection, user_id)
        for table, row, column in TEXTS:
            done["texts"] += await _texts(connection, user_id, table, row, column)
        done["texts"] += await _requests(connection, user_id)
    vault.forget(user_id)
    return +done


async def _tombstones(connection: Connection, user_id: UUID) -> int:
    key = await index_key(connection, user_id)
    rows = await connection.fetch("SELECT digest FROM tombstones WHERE user_id = $1", user_id)
    digests = [row["digest"] for row in rows]
    await connection.execute(
        """UPDATE tombstones t SET digest = v.new FROM unnest($2::bytea[], $3::bytea[]) AS v(old, new)
        WHERE t.user_id = $1 AND t.digest = v.old""",
        user_id,
        digests,
        [under(key, user_id, digest) for digest in digests],
    )
    return len(digests)


async def _origins(connection: Connection, user_id: UUID) -> None:
    key = await index_key(connection, user_id)
    rows = await connection.fetch("SELECT id, origin FROM facts WHERE user_id = $1 AND origin <> ''", user_id)
    for row in rows:
        program, _, digest = row["origin"].partition(":")
        await connection.execute(
            "UPDATE facts SET origin = $3 WHERE user_id = $1 AND id = $2",
            user_id,
            row["id"],
            f"{program}:{under(key, user_id, bytes.fromhex(digest)).hex()}",
        )


EPISODES = """
SELECT message_id, coalesce(speaker, '') AS speaker, text, terms FROM episodes
WHERE user_id = $1 AND ($2::uuid IS NULL OR message_id > $2) ORDER BY message_id LIMIT $3
"""
RETERM = """
UPDATE episodes e SET terms = v.terms::int[], lexical = v.lexical::sparsevec
FROM unnest($2::uuid[], $3::text[], $4::text[]) AS v(message_id, terms, lexical)
WHERE e.user_id = $1 AND e.message_id = v.message_id
"""
# the triggers count what comes and goes, not what changes
RECOUNT = (
    "DELETE FROM term_counts WHERE user_id = $1",
    """INSERT INTO term_counts (user_id, term, episodes)
    SELECT $1, term, count(*) FROM episodes, unnest(terms || 0) AS term WHERE user_id = $1 GROUP BY term ORDER BY term""",
    "DELETE FROM postings WHERE user_id = $1",
    """INSERT INTO postings (user_id, term, message_id, weight)
    SELECT e.user_id, found.term, e.message_id, found.weight FROM episodes e, terms_of(e.lexical) AS found
    WHERE e.user_id = $1 AND e.many ON CONFLICT DO NOTHING""",
)


async def _episodes(connection: Connection, user_id: UUID) -> int:
    key = await index_key(connection, user_id)
    after: UUID | None = None
    changed = 0
    while rows := await connection.fetch(EPISODES, user_id, after, BATCH):
        after = rows[-1]["message_id"]
        wrong = []
        for row in rows:
            weights = term_weights(key, f"{row['speaker']} {row['text']}")
            if sorted(weights) != sorted(row["terms"]):
                terms = "{" + ",".join(map(str, sorted(weights))) + "}"
                wrong.append((row["message_id"], terms, sparse(weights)))
        if wrong:
            await connection.execute(RETERM, user_id, *map(list, zip(*wrong, strict=True)), timeout=PATIENCE)
            changed += len(wrong)
    if changed:
        for statement in RECOUNT:
            await connection.execute(statement, user_id, timeout=PATIENCE)
    return changed


async def _facts(connection: Connection, user_id: UUID) -> int:
    key = await index_key(connection, user_id)
    rows = await connection.fetch("SELECT id, kind, text, key, slot FROM facts WHERE user_id = $1", user_id)
    changed = 0
    for row in rows:
        said = facts.key_of(key, row["kind"], row["text"])
        if said == row["key"]:
            continue
        slot = slots.stored(slots.slot_of(row["kind"], row["text"]), key)
        await connection.execute(
            "UPDATE facts SET key = $3, slot = $4, lexical = $5::text::sparsevec WHERE user_id = $1 AND id = $2",
            user_id,
            row["id"],
            said,
            slot if row["slot"] else "",
            sparse(term_weights(key, row["text"])),
        )
        changed += 1
    return changed


async def _fingerprints(connection: Connection, user_id: UUID) -> int:
    """Digests of repeated requests, from before they were keyed."""
    key = await index_key(connection, user_id)
    changed = 0
    for table in ("messages", "turns"):
        rows = await connection.fetch(
            f"SELECT id, fingerprint FROM {table} WHERE user_id = $1 AND length(fingerprint) = $2",
            user_id,
            chains.PLAIN,
        )
        changed += len(rows)
        await connection.execute(
            f"""UPDATE {table} t SET fingerprint = v.new FROM unnest($2::uuid[], $3::bytea[]) AS v(id, new)
            WHERE t.user_id = $1 AND t.id = v.id""",
            user_id,
            [row["id"] for row in rows],
            [chains.keyed(key, user_id, row["fingerprint"]) for row in rows],
            timeout=PATIENCE,
        )
    return changed


async def _chains(connection: Connection, user_id: UUID) -> int:
    """Chains from before they were keyed are made anew from the words. Where the words aren't those any more (they were
    forgotten), the chain goes, and those that follow it: a history with them is then not recognised."""
    key = await index_key(connection, user_id)
    conversations = await connection.fetch(
        "SELECT DISTINCT conversation_id AS id FROM messages WHERE user_id = $1 AND length(chain) = $2",
        user_id,
        chains.PLAIN,
    )
    changed = 0
    for conversation in conversations:
        rows = await connection.fetch(
            """SELECT id, parent_id, role, content, chain FROM messages
            WHERE user_id = $1 AND conversation_id = $2 AND length(chain) = $3 ORDER BY seq""",
            user_id,
            conversation["id"],
            chains.PLAIN,
        )
        made: dict[UUID | None, tuple[bytes, bytes]] = {None: (b"", b"")}
        for row in rows:
            before = made.get(row["parent_id"])
            digest = chains.said_digest(row["role"], row["content"])
            if before is not None and chains.follow(before[0], digest) == row["chain"]:
                made[row["id"]] = row["chain"], chains.follow(before[1], chains.keyed(key, user_id, digest) or digest)
        await connection.execute(
            """UPDATE messages m SET chain = v.new FROM unnest($3::uuid[], $4::bytea[]) AS v(id, new)
            WHERE m.user_id = $1 AND m.conversation_id = $2 AND m.id = v.id""",
            user_id,
            conversation["id"],
            [row["id"] for row in rows],
            [made[row["id"]][1] if row["id"] in made else None for row in rows],
            timeout=PATIENCE,
        )
        changed += len(rows)
    return changed


async def _imports(connection: Connection, user_id: UUID) -> int:
    """What recognises an import that comes again, from before it was keyed."""
    key = await index_key(connection, user_id)
    conversations = await connection.fetch(
        "SELECT id, import_key FROM conversations WHERE user_id = $1 AND length(import_key) = 20", user_id
    )
    for row in conversations:
        await connection.execute(
            "UPDATE conversations SET import_key = $3 WHERE user_id = $1 AND id = $2",
            user_id,
            row["id"],
            chains.keyed(key, user_id, row["import_key"]),
        )
    messages = await connection.fetch(
        "SELECT id, external_id FROM messages WHERE user_id = $1 AND external_id ~ '^[0-9a-f]{40}-[0-9]+$'",
        user_id,
        timeout=PATIENCE,
    )
    await connection.execute(
        """UPDATE messages m SET external_id = v.new FROM unnest($2::uuid[], $3::text[]) AS v(id, new)
        WHERE m.user_id = $1 AND m.id = v.id""",
        user_id,
        [row["id"] for row in messages],
        [kept_id(key, user_id, row["external_id"]) for row in messages],
        timeout=PATIENCE,
    )
    return len(conversations) + len(messages)


async def _texts(connection: Connection, user_id: UUID, table: str, row_id: str, column: str) -> int:
    """Seal what stands open in one column. Rows that share the id (a fact's sources) hold texts of their own."""
    rows = await connection.fetch(
        f"""SELECT ctid::text AS place, tableoid AS part, {row_id} AS row_id, {column} AS text FROM {table}
        WHERE user_id = $1 AND {column} <> '' AND strpos({column}, $2) <> 1""",
        user_id,
        PREFIX,
    )
    for row in rows:
        await connection.execute(
            f"UPDATE {table} SET {column} = $2 WHERE user_id = $1 AND ctid = $3::text::tid AND tableoid = $4",
            user_id,
            await sealed(connection, user_id, table, row["row_id"], row["text"]),
            row["place"],
            row["part"],
        )
    return len(rows)


async def _requests(connection: Connection, user_id: UUID) -> int:
    rows = await connection.fetch(
        "SELECT id, request FROM turns WHERE user_id = $1 AND request ?| $2::text[]", user_id, list(TEXTS_OF_REQUEST)
    )
    changed = 0
    for row in rows:
        if any(str(row["request"][name]).startswith(PREFIX) for name in TEXTS_OF_REQUEST):
            continue
        request = await sealed_in(connection, user_id, "turns", row["id"], row["request"], TEXTS_OF_REQUEST)
        await connection.execute(
            "UPDATE turns SET request = $3 WHERE user_id = $1 AND id = $2", user_id, row["id"], request
        )
        changed += 1
    return changed
