"""What other threads and tasks send to a loop's connections, on its way to the loop.

A memory channel of Trio's would do for tasks, but threads cannot use one, and its
bound is a number of items. So this is a queue under a lock, bounded in octets, that
behaves as a memory channel does: a sender that finds no room waits its turn, a
cancelled one has sent nothing, and a wake-up is made for the first item only, since
the loop takes all that there are.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

import trio

from triows._engine import PreparedMessage

Item: TypeAlias = tuple[int, bytes | bytearray | PreparedMessage, int]
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
        self._room = threading.Condition(threading.RLock())  # a signal's handler may send
        self._lots: dict[trio.lowlevel.TrioToken, trio.lowlevel.ParkingLot] = {}
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
            if not is_urgent and not self._has_room():
                raise trio.WouldBlock
            self._append(item)

    def put_from_thread(self, item: Item, timeout: float | None, check: Callable[[], None]) -> None:
        """Append an item, waiting for room as long as it takes, or *timeout* seconds.

        Args:
            item: what to append.
            timeout: seconds; None for no end.
            check: raises what else ends the waiting, after a `rouse`.

        Raises:
            TimeoutError: there was no room.
            trio.BrokenResourceError: the loop has ended.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._room:
            check()
            while not self._has_room():
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError("the loop did not take what was sent before")
                self._room.wait(left)
                check()
            self._append(item)

    async def put_in_turn(self, item: Item, check: Callable[[], None]) -> None:
        """Append an item, waiting for room; cancelled, it is not appended.

        Args:
            item: what to append.
            check: as in `put_from_thread`.

        Raises:
            trio.BrokenResourceError: the loop has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while (lot := self._put_or_find_lot(item, check)) is not None:
            await lot.park()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def rouse(self) -> None:
        """Have all that wait for room look again at what else may end that."""
        with self._room:
            self._tell_waiters()

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
            self._octets = 0
            self._tell_waiters()
        return count

    def _has_room(self) -> bool:
        return self._octets < self._most or self._is_over

    def _put_or_find_lot(
        self, item: Item, check: Callable[[], None]
    ) -> trio.lowlevel.ParkingLot | None:
        """Append an item, or return where to wait: each run of Trio's has a place of its own."""
        with self._room:
            check()
            if not self._has_room():
                token = trio.lowlevel.current_trio_token()
                return self._lots.setdefault(token, trio.lowlevel.ParkingLot())
            self._append(item)
            return None

    def _append(self, item: Item) -> None:
        if self._is_over:
            raise trio.BrokenResourceError("the reactor has ended")
        is_first = not self._items  # asked before: a signal's handler may send in between
        self._items.append(item)
        self._octets += len(item[1]) + OVERHEAD
        if is_first and self._wake is not None:
            self._wake()

    def _tell_waiters(self) -> None:
        self._room.notify_all()
        lots, self._lots = self._lots, {}
        for token, lot in lots.items():
            with contextlib.suppress(trio.RunFinishedError):  # and so has who waited
                token.run_sync_soon(lot.unpark_all)
