"""Not collected by itself: test_fixtures.py runs it and kills it. It asks for servers and tells what belongs to them."""

import json
import os
import time
from pathlib import Path

import psutil

from tests.fixtures.servers import Servers


def test_that_waits(servers: Servers, database_url: str, redis_url: str) -> None:
    mine = [p for p in psutil.process_iter(["cmdline"]) if str(servers.root) in " ".join(p.info["cmdline"] or ())]
    assert len(mine) >= 2  # the owner and PostgreSQL; Valkey has its directory on standard input
    pids = {p.pid for one in mine for p in (one, *one.children(recursive=True))}
    unfinished = Path(os.environ["TELL"] + ".unfinished")
    unfinished.write_text(json.dumps({"pids": sorted(pids), "root": str(servers.root)}))
    unfinished.rename(os.environ["TELL"])
    time.sleep(100)
