"""The master key that users' text is sealed under: the operator's, or one that `rapport up` makes for this machine."""

import base64
import os
import secrets
from dataclasses import replace
from pathlib import Path

import structlog

from memory.postgres import Database, PoolConfig
from memory.replicas import ReplicatedDatabase
from memory.resealing import keyed_by_id, masters_in_use
from memory.vault import MasterKey, Vault
from service.settings import Settings
from service.startup import StartError

log = structlog.get_logger(__name__)

OFF = "off"
DEVELOPMENT = "master.key"
HOW = (
    "Set RAPPORT_MASTER_KEY to 32 random bytes (openssl rand -base64 32) or to the path of a file with them, and keep a"
    " copy: without it no text can be read again. RAPPORT_MASTER_KEY=off leaves texts readable in the database."
)


def open_vault(settings: Settings) -> Vault | None:
    """The vault that the settings ask for; None when text is to stay readable. Raises `StartError`."""
    given = settings.master_key.get_secret_value().strip()
    if given.lower() == OFF:
        return None
    if given:
        return Vault(*(_parsed(part.strip()) for part in given.split(",") if part.strip()))
    if not settings.embedded:
        raise StartError(f"Users' text is sealed under a master key, and none is set. {HOW}")
    return Vault(MasterKey.parse(_development_key(settings.home / "keys" / DEVELOPMENT)))


def open_database(settings: Settings, config: PoolConfig) -> Database:
    """The database with its vault, its statements prepared or not as the settings say."""
    return Database(replace(config, prepared=settings.prepared), open_vault(settings))


def open_replicated_database(settings: Settings, config: PoolConfig) -> Database:
    """The same, with the replicas that reads may go to."""
    if not settings.replica_urls:
        return open_database(settings, config)
    config = replace(config, prepared=settings.prepared)
    replicas = [replace(config, dsn=dsn, acquire_timeout=1.0, command_timeout=5.0) for dsn in settings.replica_urls]
    return ReplicatedDatabase(config, replicas, open_vault(settings))


def _parsed(given: str) -> MasterKey:
    try:
        path = Path(given)
        if given.startswith(("/", ".")) or path.suffix:
            given = path.read_text()
        return MasterKey.parse(given)
    except OSError as error:
        raise StartError(f"RAPPORT_MASTER_KEY names a file that can't be read: {error}.") from error
    except ValueError as error:
        raise StartError(f"RAPPORT_MASTER_KEY: {error}.") from error


def _development_key(path: Path) -> str:
    """The key of this home, made once, whichever process comes first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(os.urandom(32)) + b"\n")
        try:
            os.link(draft, path)  # fails when another process was first, and then that key is the key
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text()


async def check_vault(settings: Settings, database: Database) -> None:
    """Raises `StartError` when texts are sealed under a master key that isn't here."""
    async with database.system() as connection:
        used = await masters_in_use(connection)
        by_id = await keyed_by_id(connection)
    vault = database.vault
    if by_id:
        log.warning("search_terms_keyed_by_id", users=by_id, mend="rapport memory reseal")
    missing = used - (set() if vault is None else vault.names)
    if missing:
        log.error("master_key_missing", keys=sorted(missing))
        if not settings.embedded:
            raise StartError(
                f"Texts in this database are sealed under the master key {', '.join(sorted(missing))}, which isn't set."
                " Add it to RAPPORT_MASTER_KEY, after a comma."
            )
