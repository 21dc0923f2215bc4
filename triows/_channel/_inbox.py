"""What came in and was not received yet, and the one task that waits for it.

A receiver that waits is woken without being handed anything: it takes its message
when it runs again, with no chance of being cancelled in between. So a wake-up and a
cancellation that cross lose nothing, in whichever order they come.

A compressed message is inflated when it is taken, by the task that takes it: a peer that
sends many bombs holds up no one but that task, between two of whose checkpoints there is
one message, and what is unread is as large as it was on the wire.
"""

import types
from collections.abc import Generator
from typing import Any

import trio
from trio.lowlevel import reschedule

from triows._channel._ending import Ending
from triows._driver import Driver
from triows._engine import Deflated, InflateError, Inflater, Message, Part
from triows._options import Limits
from triows._traps import NOTHING, checkpoint, give_way, park, parking, wake


class Inbox:
    """Unread messages, bounded in number and octets: at the bounds reading stops.

    Args:
        driver: the connection's; paused and resumed.
        limits: ``receive_queue_messages``, ``receive_queue_octets``.
        ending: knows whether more can come.
    """

    __slots__ = (
        "_driver",
        "_ending",
        "_is_skipping",
        "_most_messages",
        "_most_octets",
        "inflated",
        "is_paused",
        "is_reserved",
        "items",
        "octets",
        "parking",
        "received",
        "received_octets",
        "sleeper",
    )

    def __init__(self, driver: Driver, limits: Limits, ending: Ending) -> None:
        self._driver = driver
        self._most_octets = limits.receive_queue_octets
        self._most_messages = limits.receive_queue_messages
        self._ending = ending
        # An empty deque takes 760 octets of every idle connection; to take the first of a list
        # of 4,000 costs 0.2 µs more than of a deque.
        self.items: list[Any] = []
        """Each a `Part`, `Deflated` or `Message`, or a plain tuple of what a `Message` is of."""
        self.sleeper: trio.lowlevel.Task | None = None
        """Who waits, to be woken by `wake`, and forgotten if cancelled."""
        self.parking = parking(self._forget_sleeper)
        """What the sleeper waits with."""
        self.is_reserved = False
        self.is_paused = False
        self._is_skipping = False
        self.octets = 0
        """Octets of what is unread."""
        self.received = self.received_octets = 0
        self.inflated = 0
        """Octets that compressed messages have been inflated to."""

    def __len__(self) -> int:
        return len(self.items)

    # The driver's side.

    def admit(self, item: Message | Part | Deflated) -> None:
        """Take what was received; `wake` is to follow."""
        is_last = type(item) is Message or item[-1]
        size = item.size
        self.received += is_last
        self.received_octets += size
        if self._ending.is_closed_here:
            return
        if self._is_skipping:
            self._is_skipping = not is_last
            self._skip(item)
            return
        self.items.append(item)
        self.octets += size
        if self.octets >= self._most_octets or len(self.items) >= self._most_messages:
            self._stop_reading()

    def take_message(self, payload: str | bytes, size: int) -> None:
        """Take a whole message and wake who waits for it: `admit` and `wake` in one."""
        if self._is_skipping or self._ending.is_closed_here:
            self.admit(Message(payload, size))
            return
        self.received += 1
        self.received_octets += size
        self.items.append((payload, size))
        octets = self.octets = self.octets + size
        if octets >= self._most_octets or len(self.items) >= self._most_messages:
            self._stop_reading()
        if self.sleeper is not None:
            reschedule(self.sleeper, NOTHING)  # `wake` without the call
            self.sleeper = None

    def wake(self) -> None:
        """Let whoever waits look again: something came, or nothing will."""
        if self.sleeper is not None:
            wake(self.sleeper)
            self.sleeper = None

    # The receiver's side.

    def reserve(self) -> None:
        """Be the one who receives, until `release`.

        Raises:
            trio.BusyResourceError: another task is.
        """
        if self.is_reserved:
            raise trio.BusyResourceError("another task is receiving from this WebSocket")
        self.is_reserved = True

    def release(self) -> None:
        """Let others receive."""
        self.is_reserved = False

    @types.coroutine
    def wait(self) -> Generator[Any, Any, None]:
        """Wait until there is something to take, or nothing will come; a checkpoint.

        Cancelling takes nothing.
        """
        if self.items or not self._ending.may_hear_more:
            yield from checkpoint()
        else:
            self.sleeper = trio.lowlevel.current_task()
            outcome = yield self.parking  # `park` without the call
            if outcome is not NOTHING:
                outcome.unwrap()

    async def wait_for_parts(self) -> None:
        """As `wait`, for a message that is to come in parts, if it has not come whole.

        After it, the rest of a message whose first part is there also comes in parts.
        """
        if self.items or not self._ending.may_hear_more:
            await checkpoint()
            return
        await trio.lowlevel.checkpoint_if_cancelled()
        begun = self._driver.begin_parts()
        if begun is None:
            self.sleeper = trio.lowlevel.current_task()
            await park(parking(self._forget_parts))
        else:
            self.admit(begun)
            await give_way()

    def peek(self) -> Message | Part | Deflated | None:
        """Return what `take` would, None where there is nothing."""
        return _named(self.items[0]) if self.items else None

    def take(self) -> Message | Part | Deflated:
        """Return the first of what is unread, of which there must be some."""
        item = _named(self.items.pop(0))
        self.octets -= item.size
        if self.is_paused:
            self.read_on_if_there_is_room()
        return item

    def read_on_if_there_is_room(self) -> None:
        """Read on once half of what reading stopped at has been taken."""
        if self.octets <= self._most_octets // 2 and len(self.items) <= self._most_messages // 2:
            self._read_on()

    def inflate(self, item: Message | Part | Deflated) -> Message:
        """Inflate a whole message that was taken.

        Raises:
            What `Ending.raise_ended` does: it is malformed or too large, and the connection
                has failed because of that.
        """
        assert type(item) is Deflated  # parts come only to those who asked for them
        message = None
        try:
            message = self.inflater.message(item)
        except InflateError as error:
            self.fail(error)
        if message is None:  # here: what says why is not to hold on to the other error
            self._ending.raise_ended()
        self.note_inflated(message.size - item.size)
        return message

    @property
    def inflater(self) -> Inflater:
        """What inflates what is taken, in order."""
        deflate = self._driver.deflate
        assert deflate is not None  # or nothing would have come compressed
        return deflate.inflater

    def note_inflated(self, octets: int) -> None:
        """Count what an item has grown by."""
        self.inflated += octets
        self.received_octets += octets

    def fail(self, error: InflateError) -> None:
        """End the connection over what cannot be inflated; nothing behind that can be either."""
        self._driver.fail(error)
        self.clear()

    def skip_message(self, *, is_all_taken: bool) -> None:
        """Throw away the rest of the message that comes in parts, here and to come.

        Args:
            is_all_taken: its last item was taken, but has not been inflated to its end.
        """
        if self._driver.deflate is not None:
            self._skip(None)
        if is_all_taken:
            return
        while self.items:
            item = self.take()
            self._skip(item)
            if type(item) is Message or item[-1]:
                return
        self._is_skipping = True

    def clear(self) -> None:
        """Throw away everything, and read on: this side closes."""
        self.items.clear()
        self.octets = 0
        self._read_on()

    # Inside.

    def _forget_sleeper(self, _: object) -> trio.lowlevel.Abort:
        self.sleeper = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _forget_parts(self, _: object) -> trio.lowlevel.Abort:
        # Here, not when the task runs again: a part may come in between.
        self.sleeper = None
        self._driver.end_parts()
        return trio.lowlevel.Abort.SUCCEEDED

    def _skip(self, item: Message | Part | Deflated | None) -> None:
        """Throw an item away, or what is left of the last; but keep a context going."""
        if item is not None and type(item) is not Deflated:
            return
        inflater = self.inflater
        if not inflater.takes_over:
            inflater.discard()
            return
        try:
            if item is not None:
                inflater.feed(item.octets, is_last=item.is_last)
            while inflater.has_more:
                inflater.take(_SKIPPED)
        except InflateError as error:
            self.fail(error)

    def _stop_reading(self) -> None:
        if not self.is_paused:
            self.is_paused = True
            self._driver.pause()

    def _read_on(self) -> None:
        if self.is_paused:
            self.is_paused = False
            self._driver.resume()


_SKIPPED = 65_536
"""Octets that are inflated at once where they are thrown away."""


def _named(item: Any) -> Message | Part | Deflated:
    """Return an item as what it is."""
    named: Message | Part | Deflated = Message(*item) if type(item) is tuple else item
    return named
