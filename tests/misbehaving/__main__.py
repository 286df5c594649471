"""python -m tests.misbehaving --port 0: prints {"ready": "http://127.0.0.1:PORT"} and serves until SIGTERM."""

import argparse
import asyncio
import contextlib
import json
import signal

from aiohttp import web

from tests.misbehaving.server import application


async def serve(port: int) -> None:
    runner = web.AppRunner(application(), handler_cancellation=True, shutdown_timeout=0.2, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    chosen = runner.addresses[0][1]
    print(json.dumps({"ready": f"http://127.0.0.1:{chosen}"}), flush=True)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.misbehaving")
    parser.add_argument("--port", type=int, default=0)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
