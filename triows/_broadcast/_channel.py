"""The channel: what is published goes to every subscriber, each under its own policy."""

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from triows._broadcast._backlog import CUT_OFF, Entry
from triows._broadcast._policies import Capacity, Delivery, Policy, octets_of
from triows._broadcast._subscription import Subscription

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class BroadcastStatistics:
    """A snapshot of a channel: counts since it was made.

    What subscribers were offered adds up: offered = delivered + dropped + closed.
    """

    published: int
    members: int
    """Subscribers now."""
    offered: int
    """Each item counted for each subscriber that there was; those replayed too."""
    delivered: int
    """Those of them that were received, or wait to be, or were left by their subscriber."""
    dropped: int
    closed: int
    """Items for which a subscriber was cut off."""
    publishers_waiting: int


class BroadcastChannel(trio.abc.AsyncResource, Generic[T]):
    """Gives every subscriber every item, in the same order.

    Closed by leaving ``async with channel``, or ``with channel``. For one Trio run at a
    time, like any channel.

    Args:
        history: the items published last that a new subscriber is given first; 0 for none.

    Raises:
        ValueError: *history* is negative.
    """

    def __init__(self, history: int = 0) -> None:
        if history < 0:
            raise ValueError(f"the history is of 0 items or more, not {history}")
        self._history: deque[Entry] = deque(maxlen=history)
        self._members: dict[Subscription[Any], None] = {}
        self._blocking: dict[Subscription[Any], None] = {}
        self._is_closed = False
        self._turn = trio.Lock()
        self._room = trio.lowlevel.ParkingLot()
        self._number = self._published = 0
        self._offered = self._dropped = self._cut_off = 0

    # Subscribing.

    @asynccontextmanager
    @enable_ki_protection
    async def subscribe(
        self,
        policy: Policy = Policy.BLOCK,
        capacity: int | Capacity = Capacity(),  # noqa: B008 - frozen
        *,
        after: int | None = None,
    ) -> AsyncIterator[Subscription[T]]:
        """Receive what is published, for the time of an ``async with`` block.

        The block gets a `Subscription`, which is given the history first, as much of its
        end as there is *capacity* for, then every item published from now on.

        Args:
            policy: what becomes of an item that there is no room for.
            capacity: what may wait to be received; a number is one of items.
            after: the `Subscription.number` to go on behind, instead of the whole history.
                Where the history does not reach back to it, receiving starts with `Lagged`.

        Raises:
            trio.ClosedResourceError: the channel was closed.
            ValueError: *capacity* is less than an item.

        Cancelling, on entering: there was no subscription.
        """
        if isinstance(capacity, int):
            capacity = Capacity(items=capacity)
        await trio.lowlevel.checkpoint()
        self._check_open()
        subscription: Subscription[T] = Subscription(self, policy, capacity)
        self._replay(subscription, after)
        self._add(subscription, policy)
        try:
            yield subscription
        finally:
            subscription.close()

    def _replay(self, subscription: Subscription[Any], after: int | None) -> None:
        """Give a subscription the end of the history that it has room for.

        After a gap it begins with that.
        """
        wanted = [one for one in self._history if after is None or one.number > after]
        fitting = subscription.end_that_fits(wanted)
        before = fitting[0].number - 1 if fitting else self._number
        subscription.number = before
        if after is not None and before > after:
            subscription.skip(before - after)
        for entry in fitting:
            lost = subscription.offer(entry)
            self._count(1, lost)

    def _add(self, subscription: Subscription[Any], policy: Policy) -> None:
        if not subscription.is_cut_off:
            self._members[subscription] = None
            if policy.name == Policy.BLOCK.name:
                self._blocking[subscription] = None

    # Publishing.

    @enable_ki_protection
    def publish_nowait(self, item: T) -> Delivery:
        """Give an item to every subscriber, without waiting for any.

        Returns:
            What became of it.

        Raises:
            trio.WouldBlock: a subscriber under ``Policy.BLOCK`` has no room, or others wait
                to publish; nothing was published.
            trio.ClosedResourceError: the channel was closed; nothing was published.
        """
        self._check_open()
        size = octets_of(item)
        if self._turn.locked() or not self._has_room(size):
            raise trio.WouldBlock
        return self._deliver(item, size)

    @enable_ki_protection
    async def publish(self, item: T) -> Delivery:
        """Give an item to every subscriber, once all under ``Policy.BLOCK`` have room for it.

        Publishers are served in order.

        Returns:
            What became of it.

        Raises:
            trio.ClosedResourceError: the channel was closed; nothing was published.

        Cancelling: ``Cancelled`` means that nothing was published; a return, that every
        subscriber has been given the item, or its policy has decided.
        """
        size = octets_of(item)
        self._check_open()
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._turn.locked() or not self._has_room(size):
            async with self._turn:
                while not self._is_closed and not self._has_room(size):
                    await self._room.park()
                self._check_open()
                delivery = self._deliver(item, size)
        else:
            self._check_open()
            delivery = self._deliver(item, size)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return delivery

    def has_room(self, item: T) -> bool:
        """Say whether every subscriber under ``Policy.BLOCK`` has room for an item."""
        return self._has_room(octets_of(item))

    @enable_ki_protection
    async def wait_for_room(self, item: T) -> None:
        """Wait until `has_room`, or the channel is closed; that is then so for no one alone.

        Cancelling does no harm.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not (self._is_closed or self.has_room(item)):
            await self._room.park()
        await trio.lowlevel.cancel_shielded_checkpoint()

    # Numbers that others give: for brokers.

    @enable_ki_protection
    def begin(self, number: int, history: Sequence[T] = ()) -> None:
        """Take up a numbering: the next item is the one behind *number*.

        Args:
            number: of the last item before.
            history: the items up to it, oldest first, in place of those there are.
        """
        self._number = number
        self._history.clear()
        for i, item in enumerate(history, number - len(history) + 1):
            self._history.append(Entry(item, octets_of(item), i))

    @enable_ki_protection
    def skip(self, count: int) -> None:
        """Tell every subscriber that items were lost before they came here, by `Lagged`.

        The history begins anew.

        Args:
            count: how many, 1 or more; they have their numbers.

        Raises:
            ValueError: *count* is less.
            trio.ClosedResourceError: the channel was closed.
        """
        if count < 1:
            raise ValueError(f"{count} items cannot have been lost")
        self._check_open()
        self._history.clear()
        self._number += count
        for one in self._members:
            one.skip(count)

    def _has_room(self, size: int) -> bool:
        return all(one.fits(size) for one in self._blocking)

    def _deliver(self, item: T, size: int) -> Delivery:
        self._published += 1
        self._number += 1
        entry = Entry(item, size, self._number)
        self._history.append(entry)
        members = tuple(self._members)
        dropped = closed = 0
        for one in members:
            lost = one.offer(entry)
            if lost:
                self._count(0, lost)
                dropped += lost > 0
                if lost == CUT_OFF:
                    closed += 1
                    self.remove(one)
        self._offered += len(members)
        return Delivery(len(members) - dropped - closed, dropped, closed)

    def _count(self, offered: int, lost: int) -> None:
        self._offered += offered
        self._dropped += max(0, lost)
        self._cut_off += lost == CUT_OFF

    # Closing.

    @enable_ki_protection
    def close(self) -> None:
        """Publish nothing more; what was published can still be received. Harmless twice."""
        self._is_closed = True
        for one in self._members:
            one.wake()
        self._history.clear()
        self._room.unpark_all()

    async def aclose(self) -> None:
        """Do what `close` does, and pass a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def __enter__(self) -> Self:
        """Return this channel, which the block's end closes."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more will be published."""
        return self._is_closed

    @property
    def number(self) -> int:
        """The number of the item published last; the first is 1."""
        return self._number

    def statistics(self) -> BroadcastStatistics:
        """Return a snapshot."""
        return BroadcastStatistics(
            published=self._published,
            members=len(self._members),
            offered=self._offered,
            delivered=self._offered - self._dropped - self._cut_off,
            dropped=self._dropped,
            closed=self._cut_off,
            publishers_waiting=self._turn.statistics().tasks_waiting + len(self._room),
        )

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"{len(self._members)} members"
        return f"<triows.BroadcastChannel {state}>"

    def _check_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this channel was closed")

    # What subscriptions call.

    def make_room(self) -> None:
        """Let publishers that wait look again."""
        if self._room:
            self._room.unpark_all()

    def remove(self, subscription: Subscription[Any]) -> None:
        """Publish no more to a subscription."""
        self._members.pop(subscription, None)
        if self._blocking.pop(subscription, self) is None:
            self.make_room()
