"""A parent that has imported everything and forks the service's processes: `python -m tests.faults.forks`.

A fresh interpreter takes seconds to import the service, a fork milliseconds; each child is a process of its own, whose
event loop, connections and threads begin after the fork. Orders come as JSON lines on standard input, answers go out on
standard output: `{"pid": …}` for a start, `{"ended": pid, "status": …}` whenever a child has gone. It goes, and the
kernel ends its children, when its input closes.
"""

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import sys
import threading
import traceback
from typing import Any

from tests.faults import entry

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def say(answer: dict[str, Any]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def fork(order: dict[str, Any]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        clock = {name: value for name, value in os.environ.items() if "FAKE" in name}  # asked for at every look at it
        os.environ.clear()
        os.environ.update({**order["environment"], **clock})
        status = entry.run(order["role"], order.get("switch", ""))
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            say({"ended": pid, "status": os.waitstatus_to_exitcode(status)})


def main() -> None:
    entry.warm_up()
    gc.collect()
    gc.freeze()  # what is shared stays shared: a collection in a child would copy every page
    assert threading.active_count() == 1, threading.enumerate()
    say({"ready": os.getpid()})
    pending = b""
    while True:
        if select.select([0], [], [], 0.02)[0]:
            part = os.read(0, 65536)
            if not part:
                return
            pending += part
            while b"\n" in pending:
                line, _, pending = pending.partition(b"\n")
                say({"pid": fork(json.loads(line))})
        reap()


if __name__ == "__main__":
    main()
