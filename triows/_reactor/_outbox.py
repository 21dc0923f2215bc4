"""What other threads and tasks send to a loop's connections, on its way to the loop.

A memory channel of Trio's would do for tasks, but threads cannot use one, and its
bound is a number of items. So this is a queue under a lock, bounded in octets, that
behaves as a memory channel does: a sender that finds no room waits its turn, a
cancelled one has sent nothing, and a wake-up is made for the first item only, since
the loop takes all that there are.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

import trio

Item: TypeAlias = tuple[int, bytes | bytearray, int]
"""A session, a payload and its opcode."""

OVERHEAD: Final = 64
"""Octets that an item counts for beside its payload."""


class Outbox:
    """A queue from any thread to the one that drives a loop.

    Args:
        most: octets at which senders wait; a message enters whole once there are fewer.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._wake: Callable[[], None] | None = None
        self._items: deque[Item] = deque()
        self._octets = 0
        self._room = threading.Condition()
        self._lot = trio.lowlevel.ParkingLot()
        self._waiter: trio.lowlevel.TrioToken | None = None
        self._is_over = False

    def __bool__(self) -> bool:
        """Whether there is something to take."""
        return bool(self._items)

    def attach(self, wake: Callable[[], None]) -> None:
        """Have *wake* called, by any thread, when there is something to take again."""
        with self._room:
            self._wake = wake
            if self._items:
                wake()

    def put(self, item: Item, *, is_urgent: bool = False) -> None:
        """Append an item.

        Raises:
            trio.WouldBlock: there is no room, and it is not *urgent*.
            trio.BrokenResourceError: the loop has ended.
        """
        with self._room:
            if not is_urgent and self._octets >= self._most and not self._is_over:
                raise trio.WouldBlock
            self._append(item)

    def put_from_thread(self, item: Item, timeout: float | None) -> None:
        """Append an item, waiting for room as long as it takes, or *timeout* seconds.

        Raises:
            TimeoutError: there was no room.
            trio.BrokenResourceError: the loop has ended.
        """
        with self._room:
            has_room = self._room.wait_for(
                lambda: self._octets < self._most or self._is_over, timeout
            )
            if not has_room:
                raise TimeoutError("the loop did not take what was sent before")
            self._append(item)

    async def put_in_turn(self, item: Item) -> None:
        """Append an item, waiting for room; cancelled, it is not appended.

        Raises:
            trio.BrokenResourceError: the loop has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._put_or_note(item):
            await self._lot.park()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def take(self) -> deque[Item]:
        """Take everything; for the loop's own thread."""
        with self._room:
            items, self._items = self._items, deque()
            self._octets = 0
            self._tell_waiters()
        return items

    def close(self) -> int:
        """Refuse everything from now on; returns how many items no one will take."""
        with self._room:
            self._is_over = True
            count = len(self._items)
            self._items.clear()
            self._tell_waiters()
        return count

    def _put_or_note(self, item: Item) -> bool:
        with self._room:
            if self._octets >= self._most and not self._is_over:
                self._waiter = trio.lowlevel.current_trio_token()
                return False
            self._append(item)
            return True

    def _append(self, item: Item) -> None:
        if self._is_over:
            raise trio.BrokenResourceError("the reactor has ended")
        self._items.append(item)
        self._octets += len(item[1]) + OVERHEAD
        if len(self._items) == 1 and self._wake is not None:
            self._wake()

    def _tell_waiters(self) -> None:
        self._room.notify_all()
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            with contextlib.suppress(trio.RunFinishedError):  # and so has who waited
                waiter.run_sync_soon(self._lot.unpark_all)
