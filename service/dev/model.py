"""The embedded chat model: llama.cpp's server with local weights, as our child on loopback."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from service.dev import children
from service.dev.homes import OwnedDirectory

STOP_STEPS = ((signal.SIGTERM, 5.0),)
CODE = Path(__file__).parents[2]


PROMPT_TOKENS = 400
"""A longer prompt would take longer to read than anybody waits: 1,000 tokens are 30 s on two quiet cores."""


@dataclass(slots=True)
class EmbeddedModel:
    """One model server for the GGUF file `weights`; its port, and so its address, outlives restarts."""

    home: Path
    weights: Path
    port: int = 0
    context: int = 4096
    """Tokens of one conversation, prompt and reply together."""
    slots: int = 2
    """Replies at the same time: one that a person waits for, one that learns."""
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _directory: OwnedDirectory = field(init=False)

    def __post_init__(self) -> None:
        self.home = self.home.absolute()
        self._directory = OwnedDirectory(self.home)

    @property
    def url(self) -> str:
        """The base address that OpenAI's clients take."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def api_key(self) -> str:
        return self._directory.secret("key.secret")

    @property
    def model(self) -> str:
        return self.weights.stem

    def backend(self) -> dict[str, object]:
        """Its entry in LLM_BACKENDS."""
        address = {"name": "embedded", "url": self.url, "api_key": self.api_key, "model": self.model}
        return {
            **address,
            "context_length": self.context,
            "max_concurrency": self.slots,
            "max_prompt_tokens": PROMPT_TOKENS,
        }

    @property
    def log(self) -> Path:
        return self.home / "model.log"

    def start(self, timeout: float = 180.0) -> Self:
        """Load the weights and answer; 3-20 s. Raises an `EmbeddedError` that says what to do."""
        self.launch()
        if self.process is not None:
            children.wait_until(self.is_ready, self.process, self.log, name="The chat model", timeout=timeout)
        return self

    def launch(self) -> None:
        """Start it, or start it again, without waiting until it is ready."""
        if self.process is None:
            self._directory.lock("the chat model's directory {path} is in use by process {pid}")
            children.end_remembered(self.home / "server.pid", STOP_STEPS)
            self.port = self._directory.port(self.port)
        arguments = (str(self.weights), self.model, str(self.port), str(self.context), str(self.slots))
        argv = (sys.executable, "-m", "service.dev.model_server", *arguments)
        passive = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "RAPPORT_MODEL_KEY": self.api_key}
        self.process = children.spawn(children.Command(argv, self.log, env={**os.environ, **passive}, cwd=CODE))
        children.remember(self.process, self.home / "server.pid")

    def is_ready(self) -> bool:
        return children.answers(f"http://127.0.0.1:{self.port}/health")

    def stop(self) -> None:
        if self.process is not None:
            children.end(self.process, STOP_STEPS)
            self.process = None
        self._directory.unlock()
