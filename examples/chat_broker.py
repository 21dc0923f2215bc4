"""A chat: rooms, names, presence, history, and a page to use it with, all on one port."""

import argparse
import gc
import signal
import sys
from functools import partial
from typing import Any

import trio

import chat
import triows


async def run(directory: chat.Directory, host: str, port: int, **options: Any) -> None:
    serve = partial(
        triows.serve,
        partial(chat.serve_member, directory),
        port,
        host=host,
        on_request=chat.Front(),
        subprotocols=[chat.SUBPROTOCOL],
        limits=triows.Limits(max_message=chat.LARGEST, receive_queue_messages=32),
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
    async with chat.open_chat(args.history, args.max_clients, args.redis) as directory:
        await run(directory, args.host, args.port, driver=args.driver)


def main() -> None:
    args = chat.read_options((__doc__ or "").splitlines()[0])
    chat.log_as_json()
    try:
        trio.run(start, args)
    except* (OSError, ValueError, ModuleNotFoundError) as errors:  # of what it was told
        sys.exit(f"chat_broker.py: {chat.reason_of(errors)}")


if __name__ == "__main__":
    main()
