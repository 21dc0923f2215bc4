"""Where the connections live that a reactor can serve: one loop for many of them.

A server has a loop of its own, in its nursery. All clients of a run of Trio's share one,
which no one has to make room for: a system task drives it, from the first of them to the
last. It runs no code of its users, and an error of its own ends its connections and nothing
else: an exception that left a system task would end the run.
"""

import logging
import os
import select
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal, TypeAlias

import trio

from triows._driver import Driver, Sink
from triows._engine import PerMessageDeflate
from triows._nursery import unwrapped_nursery
from triows._options import NO_KEEPALIVE, KeepAlive, Limits
from triows._reactor import ChannelDriver, ChannelLoop, LoopStatistics, Session, Terms

logger = logging.getLogger("triows")

DriverName: TypeAlias = Literal["auto", "stream", "reactor"]


def why_no_reactor() -> str:
    """Say why there is no reactor here; empty if there is."""
    if os.environ.get("TRIOWS_DRIVER") == "stream":
        return "TRIOWS_DRIVER=stream rules the reactor out"
    # Others have an epoll too, but no kernels for it are declared there (`triows._kernels`).
    if sys.platform != "linux" or not (hasattr(select, "epoll") and hasattr(os, "eventfd")):
        return "the reactor needs the epoll of Linux, which this system does not have"
    return ""


def check_driver(driver: str) -> bool:
    """Return whether the reactor is to serve what it can.

    Raises:
        ValueError: there is no such driver.
        RuntimeError: the reactor was asked for, and there is none here.
    """
    if driver not in {"auto", "stream", "reactor"}:
        raise ValueError(f"there is no driver {driver!r}: 'auto', 'stream' or 'reactor'")
    if driver == "reactor" and why_no_reactor():
        raise RuntimeError(why_no_reactor())
    return driver != "stream" and not why_no_reactor()


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


class SharedHub:
    """The loop of all clients of a run, and of what else needs one; see `shared_hub`."""

    def __init__(self) -> None:
        self._loop = ChannelLoop(SHARED_LIMITS, NO_KEEPALIVE)
        self._driver = ChannelDriver(self._loop, grace=0.0)
        self._scope = trio.CancelScope()
        self._count = 0

    def adopt(
        self, descriptor: int, sink: Sink, terms: Terms, deflate: PerMessageDeflate | None
    ) -> Session:
        """Make a driver of a socket past the opening handshake, which holds the hub.

        Args:
            descriptor: of the socket, owned by the driver from now on; -1 for one that moves
                here from another loop (`Session.move`).
            sink: takes its events.
            terms: the connection's.
            deflate: what messages are compressed with, if that was agreed on.
        """
        self._count += 1
        return Session(self._loop, descriptor, sink, deflate, terms=terms, on_end=self._let_go)

    def _let_go(self) -> None:
        self._count -= 1
        if not self._count:
            _forget(self)
            self._scope.cancel()

    @trio.lowlevel.enable_ki_protection
    async def drive(self) -> None:
        """Serve until the last connection has ended; for a system task."""
        try:
            with self._scope:
                await self._driver.run()
        except Exception:
            logger.exception("the loop of the clients failed: their connections have ended")
        finally:
            _forget(self)


SHARED_LIMITS: Final = Limits(max_incomplete=2**62)
"""Of the loop, but not of its connections, which come with `Terms` of their own."""

_shared: trio.lowlevel.RunVar[SharedHub | None] = trio.lowlevel.RunVar("triows hub", None)


def shared_hub() -> SharedHub:
    """Return the hub of this run, started if there is none; it ends with its last connection."""
    hub = _shared.get()
    if hub is None:
        hub = SharedHub()
        trio.lowlevel.spawn_system_task(hub.drive, name="triows clients")
        _shared.set(hub)
    return hub


def _forget(hub: SharedHub) -> None:
    if _shared.get() is hub:
        _shared.set(None)


def shared_driver(
    stream: trio.SocketStream, sink: Sink, terms: Terms, deflate: PerMessageDeflate | None
) -> Driver:
    """Take the socket out of *stream*, past the opening handshake, and make a driver of it."""
    return shared_hub().adopt(stream.socket.detach(), sink, terms, deflate)
