"""Where the connections of a server live that a reactor can serve: one loop for all of them."""

import os
import select
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from triows._driver import Driver, Sink
from triows._engine import PerMessageDeflate
from triows._nursery import unwrapped_nursery
from triows._options import KeepAlive, Limits
from triows._reactor import ChannelDriver, ChannelLoop, LoopStatistics, Session


def why_no_reactor() -> str:
    """Say why there is no reactor here; empty if there is."""
    if os.environ.get("TRIOWS_DRIVER") == "stream":
        return "TRIOWS_DRIVER=stream rules the reactor out"
    # Others have an epoll too, but no kernels for it are declared there (`triows._kernels`).
    if sys.platform != "linux" or not (hasattr(select, "epoll") and hasattr(os, "eventfd")):
        return "the reactor needs the epoll of Linux, which this system does not have"
    return ""


class Hub:
    """Makes the drivers of connections that share a loop.

    Args:
        loop: theirs.
    """

    def __init__(self, loop: ChannelLoop) -> None:
        self._loop = loop

    def statistics(self) -> LoopStatistics:
        """Return a snapshot of the loop."""
        return self._loop.statistics()

    def adopt(
        self, stream: trio.SocketStream, sink: Sink, deflate: PerMessageDeflate | None
    ) -> Driver:
        """Take the socket out of *stream*, past the opening handshake, and make a driver of it."""
        return Session(self._loop, stream.socket.detach(), sink, deflate)


@asynccontextmanager
async def open_hub(limits: Limits, keepalive: KeepAlive) -> AsyncIterator[Hub]:
    """Run a hub for the block; by its end the hub's connections must have ended.

    Cancelling does not reach it: the connections' own tasks end them.
    """
    loop = ChannelLoop(limits, keepalive)
    driver = ChannelDriver(loop, grace=0.0)
    scope = trio.CancelScope(shield=True)

    async def drive() -> None:
        with scope:
            await driver.run()

    async with unwrapped_nursery() as nursery:
        nursery.start_soon(drive)
        try:
            yield Hub(loop)
        finally:
            scope.cancel()
