"""The way from other threads into a channel: a bounded queue, and a task that publishes from it."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio
from trio.lowlevel import enable_ki_protection

T = TypeVar("T")


class Publisher(Generic[T]):
    """What `BroadcastChannel.open_publisher` gives: publishes from any thread but Trio's.

    What one thread publishes keeps its order. Its methods raise `trio.ClosedResourceError`
    once the block is left, or the channel closed.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._changed = threading.Condition(threading.RLock())  # a signal's handler may publish
        self._token = trio.lowlevel.current_trio_token()
        self._lot = trio.lowlevel.ParkingLot()
        self._is_closed = False

    # For threads.

    def publish_nowait(self, item: T) -> None:
        """Publish an item soon.

        Raises:
            trio.WouldBlock: the channel has not taken enough of what was published before.
        """
        with self._changed:
            self._check_open()
            if len(self._items) >= self._capacity:
                raise trio.WouldBlock
            self._append(item)

    def publish(self, item: T, *, timeout: float | None = None) -> None:
        """Publish an item, blocking this thread while there is no room.

        Args:
            item: as in `BroadcastChannel.publish`.
            timeout: seconds to wait at the most; None for as long as it takes.

        Raises:
            TimeoutError: there was no room in time; nothing was published.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            self._check_open()
            while len(self._items) >= self._capacity:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError("the channel did not take what was published before")
                self._changed.wait(left)
                self._check_open()
            self._append(item)

    def _append(self, item: T) -> None:
        self._items.append(item)
        if len(self._items) == 1:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._lot.unpark_all)

    def _check_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this publisher was closed")

    # For the channel.

    @enable_ki_protection
    async def run(self, publish: Callable[[T], Awaitable[object]]) -> None:
        """Publish what comes, until `close` and nothing is left, or the channel is closed."""
        try:
            while True:
                while self._items:
                    await publish(self._items[0])
                    with self._changed:
                        self._items.popleft()
                        self._changed.notify_all()
                if self._is_closed:
                    break
                await self._lot.park()
        except trio.ClosedResourceError:
            pass  # the channel was: threads are told by the next line
        finally:
            self.close()

    def close(self) -> None:
        """Take nothing more; harmless twice."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._lot.unpark_all()
