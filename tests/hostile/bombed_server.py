"""An echo server in a process of its own that inflates what it is sent, to be bombed.

A script. Its argument: ``reactor`` or ``stream``, for the driver of a task per connection, or
``callback``. It prints its port once it listens, and ends with its input.
"""

import math
import sys
from functools import partial

import trio

import triows

QUIET = triows.KeepAlive(interval=math.inf, timeout=math.inf)
"""No Pings: clients that are silent while thousands of bombs come look for nothing but echoes."""


async def echo(ws):
    """Send every message back."""
    async for message in ws:
        await ws.send(message)


def echo_frame(conn, payload, opcode):
    """Send a message back, in place."""
    conn.echo()


async def wait_for_the_end(port):
    """Tell the port, and wait until the input ends."""
    print(port, flush=True)
    async with trio.lowlevel.FdStream(sys.stdin.fileno()) as questions:
        async for _ in questions:
            pass


async def serve_tasks(driver):
    """Serve with a task for each connection."""
    async with trio.open_nursery() as nursery:
        serve = partial(triows.serve, echo, 0, host="127.0.0.1", driver=driver, keepalive=QUIET)
        server = await nursery.start(serve)
        await wait_for_the_end(server.port)
        nursery.cancel_scope.cancel()


async def serve_callbacks():
    """Serve with callbacks."""
    handler = triows.handler_fn(echo_frame)
    deflate = triows.Deflate()
    async with triows.open_reactor(handler, deflate=deflate, keepalive=QUIET) as reactor:
        ((_, port),) = await reactor.listen(0, host="127.0.0.1")
        await wait_for_the_end(port)


def main():
    """Serve as the argument says."""
    (kind,) = sys.argv[1:]
    if kind == "callback":
        trio.run(serve_callbacks)
    else:
        trio.run(serve_tasks, kind)


if __name__ == "__main__":
    main()
