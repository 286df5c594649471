"""The command line: `rapport COMMAND`."""

import asyncio
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, TypeVar
from uuid import UUID

import typer
from pydantic import ValidationError
from rich.console import Console

from service.settings import Settings

app = typer.Typer(
    help="Rapport: a companion chat service that remembers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
database = typer.Typer(help="The database's schema.", no_args_is_help=True)
keys = typer.Typer(help="API keys of servers.", no_args_is_help=True)
memory = typer.Typer(help="What is remembered: its quality and its upkeep.", no_args_is_help=True)
bench = typer.Typer(help="Measure this service on this machine.", no_args_is_help=True)
app.add_typer(database, name="db")
app.add_typer(keys, name="key")
app.add_typer(memory, name="memory")
app.add_typer(bench, name="bench")

errors = Console(stderr=True)
Result = TypeVar("Result")


def settings() -> Settings:
    """Read the environment, and, beside a running `rapport up`, what that one chose."""
    from service.dev.environment import load_environment

    try:
        load_environment()
        return Settings()
    except ValidationError as error:
        for problem in error.errors():
            errors.print(f"[red]{'.'.join(map(str, problem['loc'])) or 'settings'}[/red]: {problem['msg']}")
        raise typer.Exit(2) from None


def configured() -> Settings:
    """Settings of a process that serves or works: with logging set up, and refused when it can't work."""
    from service.observability import logs

    chosen = settings()
    logs.configure(chosen.log_level, chosen.instance, pretty=sys.stderr.isatty())
    if not chosen.database_url.get_secret_value():
        errors.print(
            "[red]DATABASE_URL is not set.[/red] Give one, or run [bold]rapport up[/bold], which brings its own."
        )
        raise typer.Exit(2)
    return chosen


@app.command()
def up(
    print_env: Annotated[bool, typer.Option("--print-env", help="Print the environment of the running parts")] = False,
) -> None:
    """Run everything on this machine: PostgreSQL, Valkey, a model, the API, a worker and the scheduler."""
    from service.dev.supervisor import up as run

    try:
        chosen = Settings()
    except ValidationError as error:
        errors.print(str(error))
        raise typer.Exit(2) from None
    raise typer.Exit(run(chosen, print_env=print_env))


@app.command()
def serve() -> None:
    """Run one instance of the API."""
    from service.server import serve as run

    raise typer.Exit(_guarded(lambda: run(configured())))


@app.command()
def runner() -> None:
    """Write replies outside the API processes (which then have TURN_RUNNER=outside)."""
    from service.runner import run_runner

    raise typer.Exit(_guarded(lambda: run_runner(configured())))


@app.command()
def worker() -> None:
    """Learn from what was said: run the queue's worker."""
    from service.worker.main import run_worker

    raise typer.Exit(_guarded(lambda: run_worker(configured())))


@app.command()
def scheduler() -> None:
    """Sweep, expire and audit at their times. One is enough, two do no harm."""
    from service.worker.main import run_scheduler

    raise typer.Exit(_guarded(lambda: run_scheduler(configured())))


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False) -> None:
    """Examine every model server: what it can do, what won't work, and what to click or set."""
    from service.llm.doctor import main as examine

    chosen = settings()
    raise typer.Exit(
        _guarded(lambda: examine(chosen.backends, home=chosen.home, as_json=as_json, embeddings=chosen.embeddings))
    )


@app.command()
def token(
    user: Annotated[str, typer.Option("--user", help="Whose token; any name makes a user")],
    days: Annotated[float, typer.Option(help="How long it is good for")] = 30.0,
    operator: Annotated[bool, typer.Option("--operator", help="With the operator's role")] = False,
) -> None:
    """Print a bearer token for development; the token is the last word printed."""
    from service.auth.local_keys import mint

    chosen = settings()
    roles = ("user", "operator") if operator else ("user",)
    print(_guarded(lambda: mint(chosen.auth_config, user, timedelta(days=days), roles)))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What to call it, such as the server that will use it")],
    issuer: Annotated[str, typer.Option(help="Names the users it speaks for; keys of one app share it")] = "",
    scope: Annotated[list[str] | None, typer.Option(help="chat, impersonate or operator; repeatable")] = None,
    days: Annotated[float | None, typer.Option(help="How long it is good for; without an end if not given")] = None,
) -> None:
    """Print a new API key as the last word; it is kept as a hash only."""
    from service.auth.commands import create

    scopes = scope or ["chat"]
    work = create(configured(), name, issuer=issuer, scopes=scopes, days=days)
    raise typer.Exit(_guarded(lambda: asyncio.run(work)))


@keys.command("list")
def list_keys() -> None:
    """List all API keys, without their secrets."""
    from service.auth.commands import show

    raise typer.Exit(_guarded(lambda: asyncio.run(show(configured()))))


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="Its id, as `rapport key list` shows it")]) -> None:
    """Make an API key worthless, on every instance within seconds."""
    from service.auth.commands import revoke

    raise typer.Exit(_guarded(lambda: asyncio.run(revoke(configured(), key_id))))


@app.command("age-assertion")
def age_assertion(
    user: Annotated[str, typer.Option("--user", help="Whose age it is about")],
    level: Annotated[str, typer.Option(help="The level of assurance, as the routes name it")] = "mature",
) -> None:
    """Print an age assertion for development, as an app's backend signs one; POST it to /v1/age-assurance."""
    from service.compliance.assertions import mint_assertion

    chosen = settings()
    print(_guarded(lambda: mint_assertion(chosen.age_config, user, level)))


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSONL of Rapport or SillyTavern, or a JSON export of mem0 or Letta", exists=True, dir_okay=False
        ),
    ],
    user: Annotated[str, typer.Option("--user", help="Whose conversation it becomes")],
    form: Annotated[str, typer.Option("--format", help="auto, rapport, sillytavern, mem0, letta or neutral")] = "auto",
    conversation: Annotated[str | None, typer.Option(help="Which one, for a file that holds several")] = None,
    title: Annotated[str, typer.Option(help="The conversation's title")] = "",
    time_zone: Annotated[
        str | None, typer.Option(help="Of times in the file that have none, such as Europe/Berlin; UTC without it")
    ] = None,
) -> None:
    """Take in a conversation that was had elsewhere; its messages can be recalled at once."""
    from service.imports.command import import_file
    from service.imports.service import ImportOptions

    options = ImportOptions(format=form, title=title, time_zone=time_zone)
    raise typer.Exit(_guarded(lambda: import_file(configured(), file, user, options, conversation=conversation)))


@database.command("upgrade")
def upgrade(revision: str = "head") -> None:
    """Bring the database to this release's schema."""
    from service.migrate import upgrade as run

    chosen = configured()
    _guarded(lambda: run(chosen.database_url.get_secret_value(), revision))
    print("The database is up to date.")


@memory.command("reseal")
def reseal() -> None:
    """Bring search terms and texts of before under the users' keys; safe to repeat, and beside a running service."""
    from service.worker.resealing import main as run

    raise typer.Exit(_guarded(lambda: asyncio.run(run(configured()))))


@memory.command("reembed")
def reembed(
    to: Annotated[str, typer.Option("--to", help="The new model, named as EMBEDDINGS takes it")] = "",
    back: Annotated[bool, typer.Option("--back", help="Switch back to the previous model")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Drop the vectors of the model that isn't current")] = False,
    prepare: Annotated[bool, typer.Option("--prepare", help="Make and compare vectors, and don't switch")] = False,
) -> None:
    """Change the embedding model while everything runs; alone, show the models. It can be stopped and begun again."""
    from service.worker.reembed import main as run

    if (bool(to), back, drop).count(True) > 1:
        errors.print("[red]Give one of --to, --back and --drop.[/red]")
        raise typer.Exit(2)
    work = run(configured(), to=to, back=back, drop=drop, prepare=prepare)
    raise typer.Exit(_guarded(lambda: asyncio.run(work)))


@memory.command("audit")
def audit(as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False) -> None:
    """Count what should not be among the facts, and print the junk rate."""
    from service.worker.audit import main as run

    raise typer.Exit(_guarded(lambda: asyncio.run(run(configured(), as_json=as_json))))


@memory.command("quarantine")
def quarantine(
    conversations: Annotated[list[UUID] | None, typer.Argument(metavar="[ID]…", help="Of these conversations")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Learn from it again now; what succeeds is put back")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
) -> None:
    """Show what could not be learnt from: where it is, since when and why; never what it says."""
    from service.worker.quarantine import main as run

    raise typer.Exit(
        _guarded(lambda: asyncio.run(run(configured(), conversations or (), retry=retry, as_json=as_json)))
    )


@bench.command("recall")
def bench_recall(
    data: Annotated[
        Path, typer.Option("--data", help="Conversations with questions and evidence", exists=True, dir_okay=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
) -> None:
    """Score recall against annotated evidence, through this service's own import and search."""
    from service.bench.recall import main as run

    raise typer.Exit(_guarded(lambda: run(data, settings().home, as_json=as_json)))


def _guarded(action: Callable[[], Result]) -> Result:
    """Say in one sentence what stands in the way; a traceback is for bugs."""
    import asyncpg

    from memory.errors import LongTermMemoryError
    from service.errors import RapportError
    from service.llm.config import BackendConfigError

    try:
        return action()
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
        errors.print(f"DATABASE_URL: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except (RapportError, LongTermMemoryError, BackendConfigError) as error:
        # unbroken lines: what is searched for in a log must be found
        errors.print(str(error), style="red", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


def main() -> None:
    app()
