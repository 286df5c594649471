"""A database that holds no vectors yet takes the embedding model it is begun with; later ones come by re-embedding."""

from memory.postgres import Connection

MODELS = "SELECT name, dimensions FROM embedding_models ORDER BY state"
ADOPT = """
UPDATE embedding_models SET name = $1, dimensions = $2, source = $3, since = now()
WHERE state = 'current' AND NOT EXISTS (SELECT FROM embedding_models WHERE state <> 'current')
    AND NOT EXISTS (SELECT FROM episodes WHERE embedding IS NOT NULL OR embedding_b IS NOT NULL)
    AND NOT EXISTS (SELECT FROM facts WHERE embedding IS NOT NULL OR embedding_b IS NOT NULL)
RETURNING 1
"""


async def models_in(connection: Connection) -> dict[str, int]:
    """The models whose vectors the database has room for, with their width; the current one first."""
    return {row["name"]: row["dimensions"] for row in await connection.fetch(MODELS)}


async def adopt(connection: Connection, name: str, dimensions: int, source: str) -> bool:
    """Make this the model of a database without vectors, to be opened as `source`; False when there are some."""
    return bool(await connection.fetchval(ADOPT, name, dimensions, source))
