"""A chat: rooms, names, presence, history, and a page to use it with, all on one port."""

import argparse
import gc
import signal
from functools import partial
from typing import Any

import trio

import triows
from chat import LARGEST, SUBPROTOCOL, Directory, Front, log_as_json, open_chat, serve_member


async def run(directory: Directory, host: str, port: int, **options: Any) -> None:
    serve = partial(
        triows.serve,
        partial(serve_member, directory),
        port,
        host=host,
        on_request=Front(),
        subprotocols=[SUBPROTOCOL],
        limits=triows.Limits(max_message=LARGEST, receive_queue_messages=32),
        **options,
    )
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            server = await nursery.start(serve)
            gc.freeze()  # what is loaded now stays: the collector need not look through it again
            where = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - for show
            where = f"[{where}]" if ":" in where else where
            print(f"Open http://{where}:{server.port}", flush=True)
            await anext(signals)  # the next one ends the process at once, as Python does
        directory.say_goodbye()
        await trio.sleep(0.1)  # that it may leave; who leaves a room is sent nothing of it any more
        nursery.cancel_scope.cancel()  # which tells every client that the server goes: 1001


async def start(args: argparse.Namespace) -> None:
    async with open_chat(args.history, args.max_clients, args.redis) as directory:
        await run(directory, args.host, args.port, driver=args.driver)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8765, help="0 for a free one (%(default)s)")
    parser.add_argument("--history", type=int, default=200, help="messages shown (%(default)s)")
    parser.add_argument(
        "--max-clients", type=int, default=10_000, help="at the same time (%(default)s)"
    )
    parser.add_argument("--driver", default="auto", help="auto, reactor or stream (%(default)s)")
    parser.add_argument("--redis", metavar="URL", nargs="+", help="be one chat with all on these")
    args = parser.parse_args()
    log_as_json()
    trio.run(start, args)


if __name__ == "__main__":
    main()
