"""`rapport doctor`: examines every configured model server and says in plain words what will not work."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.llm.capabilities import Capabilities, CapabilityStore
from service.llm.config import BackendConfig
from service.llm.errors import BackendError, ModelNotFoundError
from service.llm.findings import (
    Finding,
    dialect_finding,
    embedding_finding,
    eviction_findings,
    found_servers,
    missing_model,
    model_findings,
    no_reply,
    reply_findings,
    unreachable,
)
from service.llm.models import loaded_models, native_type
from service.llm.openai_compatible import OpenAICompatibleBackend
from service.llm.probing import examine as probe

NOTHING = (
    "No model server is configured. Set LMSTUDIO_URL=http://localhost:1234, or OPENAI_API_KEY=…, or LLM_BACKENDS; "
    "`rapport up` without any of them runs a small model of its own."
)
USUAL = ("http://localhost:1234", "http://localhost:11434", "http://localhost:8080")
_MARKS = {"ok": "[green]✓[/green]", "note": "[cyan]·[/cyan]", "warn": "[yellow]![/yellow]", "fail": "[red]✗[/red]"}


@dataclass(frozen=True, slots=True)
class Examination:
    """One backend's findings, and the record they were read from."""

    name: str
    url: str
    model: str
    findings: tuple[Finding, ...]
    capabilities: Capabilities = field(default_factory=Capabilities)

    @property
    def works(self) -> bool:
        return all(finding.grade != "fail" for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Report:
    backends: tuple[Examination, ...]
    found: tuple[str, ...] = ()
    """Servers at the usual addresses of this machine, where none is configured."""

    @property
    def works(self) -> bool:
        return bool(self.backends) and all(backend.works for backend in self.backends)

    @property
    def advice(self) -> str:
        """What to do where no server is configured."""
        return "\n".join(part for part in (NOTHING, found_servers(self.found)) if part)

    def data(self) -> dict[str, Any]:
        backends = [{**asdict(backend), "works": backend.works} for backend in self.backends]
        return {"works": self.works, "backends": backends, **({} if backends else {"advice": self.advice})}


async def examine(
    configs: Sequence[BackendConfig], *, store: CapabilityStore | None = None, embeddings: str = ""
) -> Report:
    """Examine the servers one after the other: two of them may be one machine. `embeddings` is what EMBEDDINGS says."""
    if not configs:
        return Report((), tuple(await _usual_servers()))
    chosen, _, model = embeddings.partition("/")
    named = [
        config.model_copy(update={"embedding_model": model}) if model and config.name == chosen else config
        for config in configs
    ]
    return Report(
        tuple(
            [
                await _examined(config, store, embeds=config.name == chosen, rivals=_rivals(config, named))
                for config in named
            ]
        )
    )


def main(
    configs: Sequence[BackendConfig], *, home: Path | None = None, as_json: bool = False, embeddings: str = ""
) -> int:
    """Print the report; 0 when every server can be used, else 1."""
    store = CapabilityStore(home / "capabilities.json", time.time) if home is not None else None
    report = asyncio.run(examine(configs, store=store, embeddings=embeddings))
    if as_json:
        print(orjson.dumps(report.data(), option=orjson.OPT_INDENT_2).decode())  # noqa: T201 - this is the command's output
    else:
        show(report, Console())
    return 0 if report.works else 1


def show(report: Report, console: Console) -> None:
    """Print the report for a person."""
    if not report.backends:
        console.print(escape(report.advice), highlight=False)
    for backend in report.backends:
        model = f" · {backend.model}" if backend.model else ""
        console.print(f"\n[bold]{escape(backend.name)}[/bold]  {escape(backend.url)}{escape(model)}", highlight=False)
        table = Table.grid(padding=(0, 1))
        for finding in backend.findings:
            table.add_row(f" {_MARKS[finding.grade]}", finding.topic, escape(finding.text))
            if finding.advice:
                table.add_row("", "", f"[italic]→ {escape(finding.advice)}[/italic]")
        console.print(table, highlight=False)
    if report.backends:
        failed = [backend.name for backend in report.backends if not backend.works]
        console.print(
            f"\n[red]Not usable: {', '.join(failed)}[/red]" if failed else "\n[green]Every backend can be used.[/green]"
        )


def _rivals(config: BackendConfig, configs: Sequence[BackendConfig]) -> tuple[str, ...]:
    """The backends that ask the same server for another model than this one."""
    return tuple(
        other.name for other in configs if config.url and other.url == config.url and other.model != config.model
    )


async def _examined(
    config: BackendConfig, store: CapabilityStore | None, *, embeds: bool, rivals: tuple[str, ...]
) -> Examination:
    if config.kind == "scripted":
        note = Finding("model", "note", "scripted: for tests and demos; its replies are rules, not a model's")
        return Examination(config.name, "", config.model or "scripted", (note,))
    backend = OpenAICompatibleBackend(config)
    try:
        return await _questioned(backend, store, embeds=embeds, rivals=rivals)
    finally:
        await backend.aclose()


async def _questioned(
    backend: OpenAICompatibleBackend, store: CapabilityStore | None, *, embeds: bool, rivals: tuple[str, ...]
) -> Examination:
    config = backend.config
    started = time.monotonic()
    try:
        listed = tuple(await backend.models())
    except BackendError as error:
        return Examination(config.name, config.url, config.model, (unreachable(config, error),))
    found = [Finding("reachable", "ok", f"answers in {(time.monotonic() - started) * 1000:.0f} ms")]
    found += await _keys(config)
    try:
        model = await backend.resolve_model()
        record = await probe(backend, model)
    except ModelNotFoundError as error:
        return Examination(config.name, config.url, config.model, (*found, missing_model(error, listed)))
    except BackendError as error:
        return Examination(config.name, config.url, backend.model, (*found, no_reply(config, error)))
    if store is not None:
        store.put(config.url, model, record)
    loaded = await _loaded(backend) if record.server == "lmstudio" else ()
    found += [
        *model_findings(config, model, listed, record, loaded),
        *eviction_findings(config, record, await _embedder_type(backend), rivals),
        *reply_findings(record),
        *([asked] if (asked := dialect_finding(backend.dialect(model))) else []),
        embedding_finding(config, record, chosen=embeds),
    ]
    return Examination(config.name, config.url, model, tuple(found), record)


async def _embedder_type(backend: OpenAICompatibleBackend) -> str:
    """Return what LM Studio takes the embedding model for, empty when it is another server or doesn't say."""
    try:
        return native_type(
            await backend.get("/api/v1/models", root=True, timeout=3.0),
            backend.config.embedding_model.partition("@")[0],
        )
    except BackendError:
        return ""


async def _usual_servers() -> list[str]:
    """The addresses of LM Studio, Ollama and llama.cpp on this machine at which something lists models."""
    found = []
    for url in USUAL:
        backend = OpenAICompatibleBackend(BackendConfig(name="usual", url=url))
        with contextlib.suppress(BackendError):
            await backend.get("/models", timeout=1.0)
            found.append(url)
        await backend.aclose()
    return found


async def _keys(config: BackendConfig) -> list[Finding]:
    """Try each further key: a revoked one is found here and not at night."""
    found = []
    for number, key in enumerate(config.api_keys[1:], 2):
        other = OpenAICompatibleBackend(config, api_key=key)
        try:
            await other.models()
        except BackendError as error:
            found.append(
                Finding("key", "warn", f"key {number} of {len(config.api_keys)}: {error}", "replace or remove it")
            )
        finally:
            await other.aclose()
    return found


async def _loaded(backend: OpenAICompatibleBackend) -> tuple[str, ...]:
    for path in ("/api/v1/models", "/api/v0/models"):
        try:
            if found := loaded_models(await backend.get(path, root=True, timeout=3.0)):
                return tuple(model.key for model in found)
        except BackendError:
            continue
    return ()
