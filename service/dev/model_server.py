"""The embedded chat model's process: python -m service.dev.model_server MODEL.gguf NAME PORT CONTEXT SLOTS

An OpenAI-compatible llama.cpp server. The key that callers need is in RAPPORT_MODEL_KEY. The parent sets
OMP_WAIT_POLICY=PASSIVE and GOMP_SPINCOUNT=0, which only count before OpenMP is loaded: with its usual spinning two busy
cores get 0.5 tokens/s instead of 3.
"""

import os
import signal
import sys
import time
from types import FrameType
from typing import Any

CACHE_MIB = 256  # of saved prompts; the default is 8192

NO_OPENMP = (
    "The embedded chat model needs the system library libgomp.so.1: `apt-get install libgomp1` (Debian, Ubuntu), "
    "`dnf install libgomp` (Fedora), `apk add libgomp` (Alpine). Or set LMSTUDIO_URL, OPENAI_API_KEY or LLM_BACKENDS."
)


def _exit(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)  # llama.cpp's threads hold nothing that needs saving


def _load() -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        sys.exit(NO_OPENMP if "libgomp" in str(error) else f"xllamacpp can't be loaded: {error}")
    return xllamacpp


def main(argv: list[str]) -> None:
    path, name, *numbers = argv
    port, context, slots = (int(number) for number in numbers)
    parent = os.getppid()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    llama = _load()
    server = llama.Server(_parameters(llama, path, name, port=port, context=context, slots=slots))
    print("listening on", server.listening_address, flush=True)
    while os.getppid() == parent:
        time.sleep(0.5)


def _parameters(llama: Any, path: str, name: str, *, port: int, context: int, slots: int) -> Any:
    chosen = llama.CommonParams()
    chosen.model.path = path
    chosen.model_alias = {name}
    chosen.hostnames = ["127.0.0.1"]
    chosen.port = port
    chosen.api_keys = [os.environ["RAPPORT_MODEL_KEY"]]
    chosen.n_ctx = context * slots  # shared out over the slots
    chosen.n_parallel = slots
    threads = max(1, min(4, os.cpu_count() or 1))
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = threads
    chosen.cache_ram_mib = CACHE_MIB
    chosen.ui = chosen.endpoint_slots = chosen.endpoint_props = False
    return chosen


if __name__ == "__main__":
    main(sys.argv[1:])
