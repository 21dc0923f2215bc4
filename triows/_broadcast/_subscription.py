"""A subscriber's end of a broadcast channel, and the one task that waits there."""

from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from triows._broadcast._backlog import CUT_OFF, KINDS, Entry
from triows._broadcast._policies import Capacity, Policy, TooSlow

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class SubscriptionStatistics:
    """A snapshot of one subscription: counts since it began."""

    unread_items: int
    unread_octets: int
    received: int
    dropped: int
    """Items that its policy has dropped; those that were lost before the channel are not in it."""


class Publisher(Protocol):
    """What a subscription needs of its channel."""

    @property
    def is_closed(self) -> bool:
        """Whether nothing more will be published."""

    def make_room(self) -> None:
        """Take note that a subscriber whom publishers wait for has room, or has gone."""

    def remove(self, subscription: "Subscription[Any]") -> None:
        """Publish to it no more."""


class Subscription(trio.abc.ReceiveChannel[T], Generic[T]):
    """What `BroadcastChannel.subscribe` gives: ``async for item in subscription``.

    One task at a time may receive.
    """

    __slots__ = (
        "_backlog",
        "_channel",
        "_end",
        "_is_blocking",
        "_is_closed",
        "_is_reserved",
        "_sleeper",
        "dropped",
        "epoch",
        "number",
        "received",
    )

    def __init__(self, channel: Publisher, policy: Policy, capacity: Capacity) -> None:
        self._channel = channel
        self._backlog = KINDS[policy.name](capacity, policy)
        self._is_blocking = policy.name == Policy.BLOCK.name
        self._sleeper: trio.lowlevel.Task | None = None
        self._is_reserved = self._is_closed = False
        self._end: Exception | None = None
        self.received = self.dropped = 0
        self.number = 0
        """The number of the item received last, or that it was subscribed behind."""
        self.epoch = ""
        """The name of the numbering that this number is of."""

    # The subscriber's side.

    @enable_ki_protection
    async def receive(self) -> T:
        """Receive the next item.

        Raises:
            Lagged: items were dropped before it; call again for it.
            trio.EndOfChannel: the channel was closed, and everything before that received.
            TooSlow: the subscriber was cut off, likewise.
            trio.ClosedResourceError: the subscription was left, or closed.
            trio.BusyResourceError: another task is receiving.
            Exception: what the policy's key has raised, which ended the subscription.

        Cancelling loses nothing.
        """
        self._reserve()
        try:
            if self._must_wait:
                await trio.lowlevel.checkpoint_if_cancelled()
                self._sleeper = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._forget_sleeper)
            else:
                await trio.lowlevel.checkpoint()
            return self._take()
        finally:
            self._is_reserved = False

    @enable_ki_protection
    def receive_nowait(self) -> T:
        """Receive the next item if there is one.

        Raises:
            trio.WouldBlock: there is none yet.

        And what `receive` raises.
        """
        self._reserve()
        try:
            if self._must_wait:
                raise trio.WouldBlock
            return self._take()
        finally:
            self._is_reserved = False

    @enable_ki_protection
    def close(self) -> None:
        """Leave the channel, and throw away what was not received; harmless twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self._backlog.clear()
        self._channel.remove(self)
        self._wake()

    async def aclose(self) -> None:
        """Do what `close` does, and pass a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def statistics(self) -> SubscriptionStatistics:
        """Return a snapshot."""
        return SubscriptionStatistics(
            unread_items=self._backlog.items,
            unread_octets=self._backlog.octets,
            received=self.received,
            dropped=self.dropped,
        )

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"{self._backlog.items} unread"
        return f"<triows.Subscription {state}>"

    # The channel's side.

    def fits(self, size: int) -> bool:
        """Say whether publishers need not wait for it with an item of *size* octets."""
        return self._backlog.fits(size)

    def offer(self, entry: Entry) -> int:
        """Take an item; returns how many were lost by that, or CUT_OFF."""
        try:
            lost = self._backlog.offer(entry)
        except Exception as error:  # noqa: BLE001 - the key's, which is the subscriber's own
            self._end = error
            lost = CUT_OFF
        if lost > 0:
            self.dropped += lost
        elif lost < 0 and self._end is None:
            self._end = TooSlow()
        self._wake()
        return lost

    def end_that_fits(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return the end of *entries* that there is room for at first."""
        return self._backlog.end_that_fits(entries)

    @property
    def is_cut_off(self) -> bool:
        """Whether nothing more is to be offered to it."""
        return self._end is not None

    def skip(self, count: int) -> None:
        """Be told that *count* items were lost before they came to the channel."""
        self._backlog.skip(count)
        self._wake()

    def move_to(self, number: int, epoch: str) -> None:
        """Be behind *number* in another numbering, if it has received everything until now."""
        if self._backlog.is_empty:
            self.number, self.epoch = number, epoch

    def wake(self) -> None:
        """Look again: the channel was closed."""
        self._wake()

    # Inside.

    @property
    def _must_wait(self) -> bool:
        return (
            self._backlog.is_empty
            and self._end is None
            and not (self._is_closed or self._channel.is_closed)
        )

    def _reserve(self) -> None:
        if self._is_reserved:
            raise trio.BusyResourceError("another task is receiving from this subscription")
        self._is_reserved = True

    def _take(self) -> T:
        if self._is_closed:
            raise trio.ClosedResourceError("this subscription was left")
        if self._backlog.is_empty:
            raise self._end or trio.EndOfChannel
        entry = self._backlog.take()
        self.received += 1
        self.number, self.epoch = entry.number, entry.epoch
        if self._is_blocking:
            self._channel.make_room()
        item: T = entry.item
        return item

    def _wake(self) -> None:
        if self._sleeper is not None:
            trio.lowlevel.reschedule(self._sleeper)
            self._sleeper = None

    def _forget_sleeper(self, _: object) -> trio.lowlevel.Abort:
        self._sleeper = None
        return trio.lowlevel.Abort.SUCCEEDED
