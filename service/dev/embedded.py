"""What the stores' embedded servers have in common: one child, in a directory that is its owner's alone."""

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from service.dev.accounts import Account, service_account
from service.dev.homes import OwnedDirectory


@dataclass(slots=True)
class EmbeddedServer(ABC):
    """One server with its data in `home`.

    `port` 0: the port used last time, or a free one. `settings` are server settings that override ours.
    """

    home: Path
    port: int = 0
    settings: Mapping[str, object] = field(default_factory=dict)
    account: Account | None = field(default_factory=service_account)
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _directory: OwnedDirectory = field(init=False)

    def __post_init__(self) -> None:
        self.home = self.home.absolute()
        self._directory = OwnedDirectory(self.home, self.account)

    @abstractmethod
    def start(self, timeout: float = 60.0) -> Self:
        """Start it, or take over after a crash. Raises an `EmbeddedError` that says what to do."""

    @abstractmethod
    def stop(self) -> None:
        """End it in good order."""

    def restart(self) -> None:
        """After it ended: start it again where it was."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """As a crash does it: SIGKILL. `start` recovers."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        self._directory.unlock()
