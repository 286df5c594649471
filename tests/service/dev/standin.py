"""Stands in for `python -m service serve|worker|scheduler` where only the supervisor is looked at."""

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"pid": os.getpid(), "environment": dict(os.environ)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def leave(_number: int, _frame: FrameType | None) -> None:
    sys.stdout.write(f"{sys.argv[1]} leaves\n")
    sys.exit(0)


if __name__ == "__main__":
    if os.environ.get("STANDIN_FAILS") == sys.argv[1]:
        sys.stderr.write("this stand-in was told to fail\n")
        sys.exit(3)
    signal.signal(signal.SIGTERM, leave)
    sys.stdout.write(f"{sys.argv[1]} is there\n")
    sys.stdout.flush()
    if sys.argv[1] == "serve":
        ThreadingHTTPServer(("127.0.0.1", int(os.environ["RAPPORT_PORT"])), Handler).serve_forever()
    signal.pause()
