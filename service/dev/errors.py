"""What can go wrong with servers of our own.

EmbeddedError
├── HomeInUseError        another process holds the lock of that directory
├── ServerMissingError    no package on this machine has the program
├── ServerStartError      it ended, or wasn't ready in time; carries the end of its log
├── UnfitProcessorError   pgvector dies of instructions that this machine's processor lacks
└── ModelMissingError     no weights: not local, not on the hub, not on the package index
"""


class EmbeddedError(Exception):
    """An embedded server can't be used. The message says what to do."""


class HomeInUseError(EmbeddedError):
    pass


class ServerMissingError(EmbeddedError):
    pass


class ServerStartError(EmbeddedError):
    pass


class UnfitProcessorError(EmbeddedError):
    pass


class ModelMissingError(EmbeddedError):
    pass
