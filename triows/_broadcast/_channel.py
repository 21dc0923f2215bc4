"""The channel: what is published goes to every subscriber, each under its own policy."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Generic, Protocol, Self, TypeVar

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from triows._broadcast._attachment import Attachment, Target
from triows._broadcast._backlog import CUT_OFF, Entry, prepare
from triows._broadcast._policies import Capacity, Delivery, Policy, octets_of
from triows._broadcast._publisher import Publisher
from triows._broadcast._seat import Place, Tell
from triows._broadcast._stage import Audience, Troupe
from triows._broadcast._subscription import Subscription
from triows._nursery import unwrapped_nursery
from triows._options import check_kind
from triows._reactor import Connection
from triows._websocket import WebSocket

T = TypeVar("T")

ATTACHED: Final = Capacity(octets=2**20)
"""What may wait for an attached connection, unless it is said."""


class Member(Protocol):
    """One to whom the channel publishes by itself: a subscription, or an attachment."""

    def fits(self, size: int) -> bool:
        """Say whether publishers need not wait for it."""

    def skip(self, count: int) -> None:
        """Be told that so many items are missing."""

    def move_to(self, number: int, epoch: str) -> None:
        """Be told that another numbering begins, behind *number*."""


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
        self._members: dict[Any, Callable[[Entry], int]] = {}
        self._blocking: dict[Member, None] = {}
        self._troupe = Troupe(self._relay, self.make_room)
        self._has_attached = self._has_compiled = False
        self._waited_for: set[Attachment] = set()
        self._is_giving = False
        self._after: list[Callable[[], None]] = []
        self._is_closed = False
        self._turn = trio.Lock()
        self._room = trio.lowlevel.ParkingLot()
        self._number = 0
        self._epoch = ""
        self._to_all = Delivery()  # made once for many items, as it never changes
        self._counts = self._troupe.counts
        self._troupe.note_others(has_others=history > 0)

    # Subscribing.

    @asynccontextmanager
    @enable_ki_protection
    async def subscribe(
        self,
        policy: Policy = Policy.BLOCK,
        capacity: int | Capacity = 256,
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
            TypeError: *policy* or *capacity* is none.
            ValueError: *capacity* is less than an item; or *policy* is ``Policy.BLOCK``, and
                compiled handlers publish here, which cannot wait.

        Cancelling, on entering: there was no subscription.
        """
        check_kind("policy", policy, Policy)
        capacity = _as_capacity(capacity)
        await trio.lowlevel.checkpoint()
        self._check_open()
        self._check_compiled(policy, publishes=False)
        subscription: Subscription[T] = Subscription(self, policy, capacity)
        self._replay(subscription, after)
        if not subscription.is_cut_off:
            self._add(subscription, subscription.offer, policy)
        try:
            yield subscription
        finally:
            subscription.close()

    @enable_ki_protection
    def attach(
        self,
        target: Target,
        policy: Policy = Policy.DISCONNECT,
        capacity: int | Capacity = ATTACHED,
        *,
        after: int | None = None,
        publishes: bool = False,
        lagged: Tell | None = None,
        on_detach: Callable[[], None] | None = None,
    ) -> Attachment:
        """Send a WebSocket what is published, until it closes or is detached.

        Items must be ``str``, octets or `triows.PreparedMessage` from then on. Each is framed
        once, whoever it goes to. What is published before anything is waited for leaves in
        one system call for each connection, together with what else is due there; a
        connection sees it in the order of the calls among what was sent to it otherwise. While
        a message is sent in parts (`WebSocket.open_message`), items wait until that is whole.

        The history is sent first, as much of its end as there is *capacity* for. Use it in
        a ``with`` block, or leave it to the connection's end.

        Args:
            target: a `triows.WebSocket`, or a `triows.Connection` of a reactor.
            policy: what becomes of an item while the connection has not sent those before
                it. ``Policy.DISCONNECT`` fails it with 1013.
            capacity: what may wait; a number is one of items. Besides, a connection's own
                queue holds up to 64 KiB and a message of what was published.
            after: the `number` of the item to go on behind, instead of the whole history.
            publishes: of a `triows.Connection`: whether its compiled handler publishes to
                this channel, by ``Response.PUBLISH``.
            lagged: called with the number of items that were dropped; returns a message to
                be sent in their place. One that raises is not asked again.
            on_detach: called once it is no longer attached. What it raises is logged.

        Raises:
            trio.ClosedResourceError: the channel was closed, or the WebSocket on this side.
            ConnectionBroken: the WebSocket has ended. A `triows.Connection` that has is
                detached at once instead.
            TypeError: *publishes* is not for a WebSocket, or something is of the wrong kind.
            ValueError: *capacity* is less than an item; or a compiled handler publishes, which
                cannot wait for subscribers under ``Policy.BLOCK``.
        """
        check_kind("target", target, WebSocket, Connection)
        check_kind("policy", policy, Policy)
        self._check_open()
        self._check_compiled(policy, publishes=publishes)
        attachment = Attachment(self, policy, on_detach)
        place = Place(policy, _as_capacity(capacity), lagged, self.make_room, attachment.end)
        self._has_attached = True
        history = tuple(one for one in self._history if after is None or one.number > after)
        attachment.begin(target, place, history, publishes=publishes)
        self._has_compiled |= publishes
        if policy.name == Policy.BLOCK.name and attachment.is_attached:
            self._waited_for.add(attachment)
        return attachment

    def _check_compiled(self, policy: Policy, *, publishes: bool) -> None:
        """Refuse to have compiled handlers publish to those that have to be waited for."""
        is_blocking = policy.name == Policy.BLOCK.name
        if (is_blocking and (self._has_compiled or publishes)) or (
            publishes and (self._blocking or self._waited_for)
        ):
            raise ValueError("a compiled handler cannot wait for subscribers under Policy.BLOCK")

    def _replay(self, subscription: Subscription[Any], after: int | None) -> None:
        """Give a subscription the end of the history that it has room for.

        After a gap it begins with that.
        """
        wanted = [one for one in self._history if after is None or one.number > after]
        fitting = subscription.end_that_fits(wanted)
        before = fitting[0].number - 1 if fitting else self._number
        subscription.number, subscription.epoch = before, self._epoch
        if after is not None and before > after:
            subscription.skip(before - after)
        for entry in fitting:
            lost = subscription.offer(entry)
            self._count(1, lost)

    def _add(self, member: Any, offer: Callable[[Entry], int], policy: Policy) -> None:
        self._members[member] = offer
        if policy.name == Policy.BLOCK.name:
            self._blocking[member] = None
        self._troupe.note_others(has_others=True)

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
            TypeError, UnicodeEncodeError: it is no message, and there are WebSockets
                attached; nothing was published.
        """
        self._check_open()
        entry = self._make_entry(item)
        if self._turn.locked() or not self._has_room(entry.size):
            raise trio.WouldBlock
        return self._deliver(entry)

    @enable_ki_protection
    async def publish(self, item: T) -> Delivery:
        """Give an item to every subscriber, once all under ``Policy.BLOCK`` have room for it.

        Publishers are served in order.

        Returns:
            What became of it.

        Raises:
            What `publish_nowait` raises, but for ``WouldBlock``.

        Cancelling: ``Cancelled`` means that nothing was published; a return, that every
        subscriber has been given the item, or its policy has decided.
        """
        self._check_open()
        entry = self._make_entry(item)
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._turn.locked() or not self._has_room(entry.size):
            async with self._turn:
                while not (self._is_closed or self._has_room(entry.size)):
                    await self._room.park()
                self._check_open()
                delivery = self._deliver(entry)
        else:
            self._check_open()
            delivery = self._deliver(entry)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return delivery

    @enable_ki_protection
    def publish_batch(self, items: Sequence[T]) -> int:
        """Give items to every subscriber, in order, as long as none has to be waited for.

        Returns:
            How many were published: all of them, but where a subscriber under ``Policy.BLOCK``
            has no room for the next, or others wait to publish.

        Raises:
            trio.ClosedResourceError: the channel was closed; nothing was published.
            TypeError, UnicodeEncodeError: one is no message, and there are WebSockets attached;
                those before it were published.
        """
        self._check_open()
        if self._turn.locked():
            return 0
        done = 0
        for item in items:
            entry = self._make_entry(item)
            if not self._has_room(entry.size):
                break
            self._give(entry)
            done += 1
        self._troupe.hasten()
        return done

    @asynccontextmanager
    async def open_publisher(self, capacity: int = 1_024) -> AsyncIterator[Publisher[T]]:
        """Publish from other threads, for the time of an ``async with`` block.

        The block gets a `Publisher`. Leaving it waits until all that threads have published
        has been, as `publish` does.

        Args:
            capacity: items that threads may be ahead by.

        Raises:
            ValueError: *capacity* is less than 1.

        Cancelling: what threads have published and was not yet is thrown away.
        """
        if capacity < 1:
            raise ValueError(f"the capacity is 1 item or more, not {capacity}")
        publisher: Publisher[T] = Publisher(capacity)
        async with unwrapped_nursery() as nursery:
            nursery.start_soon(publisher.run, self.publish)
            try:
                yield publisher
            finally:
                publisher.close()

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
    def begin(self, number: int, history: Sequence[T] = (), epoch: str = "") -> None:
        """Take up a numbering: the next item is the one behind *number*.

        Args:
            number: of the last item before.
            history: the items up to it, oldest first, in place of those there are.
            epoch: the numbering's name.
        """
        self._number, self._epoch = number, epoch
        for one in self._members:
            one.move_to(number, epoch)
        self._history.clear()
        for i, item in enumerate(history, number - len(history) + 1):
            self._history.append(Entry(item, i, epoch))

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
        self._troupe.skip(count)

    def _make_entry(self, item: T) -> Entry:
        return Entry(item, 0, prepared=prepare(item) if self._has_attached else None)

    def _has_room(self, size: int) -> bool:
        if self._blocking and not all(one.fits(size) for one in self._blocking):
            return False
        return self._troupe.has_room(size)

    def _deliver(self, entry: Entry, origin: Audience | None = None) -> Delivery:
        """Give an entry to all, but to those whom it comes from."""
        count, dropped, closed = self._give(entry, origin)
        if dropped or closed:
            return Delivery(count - dropped - closed, dropped, closed)
        if self._to_all.delivered != count:
            self._to_all = Delivery(count)
        return self._to_all

    def _give(self, entry: Entry, origin: Audience | None = None) -> tuple[int, int, int]:
        """Do what `_deliver` does; returns as `Audience.publish`."""
        self._number += 1
        self._counts.published += origin is None
        entry.number, entry.epoch = self._number, self._epoch
        self._history.append(entry)
        was_giving, self._is_giving = self._is_giving, True
        try:
            count, dropped, closed = self._troupe.publish(entry, origin)
            if self._members:
                offered, lost, cut_off = self._offer(entry)
                count += offered
                dropped += lost
                closed += cut_off
        finally:
            self._is_giving = was_giving
        while self._after and not was_giving:
            self._after.pop(0)()
        return count, dropped, closed

    def _offer(self, entry: Entry) -> tuple[int, int, int]:
        """Give an entry to the channel's own members; returns as `Audience.publish`."""
        # Copies, as members may go meanwhile; of pairs they would be objects for Python to collect.
        members, offers = tuple(self._members), tuple(self._members.values())
        dropped = closed = 0
        for one, offer in zip(members, offers, strict=True):
            lost = offer(entry)
            if lost:
                self._count(0, lost)
                dropped += lost > 0
                if lost == CUT_OFF:
                    closed += 1
                    self.remove(one)
        self._counts.offered += len(members)
        return len(members), dropped, closed

    def _count(self, offered: int, lost: int) -> None:
        self._counts.offered += offered
        self._counts.dropped += max(0, lost)
        self._counts.closed += lost == CUT_OFF

    def _relay(self, origin: Audience, entries: Sequence[Entry]) -> None:
        """Give what a compiled handler has published in an audience to all others."""
        for entry in entries:
            self._deliver(entry, origin)

    # Closing.

    @enable_ki_protection
    def close(self) -> None:
        """Publish nothing more; what was published can still be received. Harmless twice.

        WebSockets are still sent what was published, and stay open.
        """
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

    @property
    def epoch(self) -> str:
        """The name of the numbering that this number is of."""
        return self._epoch

    def statistics(self) -> BroadcastStatistics:
        """Return a snapshot."""
        counts = self._troupe.collect()
        return BroadcastStatistics(
            published=counts.published,
            members=len(self._members) + len(self._troupe),
            offered=counts.offered,
            delivered=counts.offered - counts.dropped - counts.closed,
            dropped=counts.dropped,
            closed=counts.closed,
            publishers_waiting=self._turn.statistics().tasks_waiting + len(self._room),
        )

    def __repr__(self) -> str:
        count = len(self._members) + len(self._troupe)
        state = "closed" if self._is_closed else f"{count} members"
        return f"<triows.BroadcastChannel {state}>"

    def _check_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this channel was closed")

    # What subscriptions and attachments call.

    def make_room(self) -> None:
        """Let publishers that wait look again."""
        if self._room:
            self._room.unpark_all()

    def remove(self, member: Any) -> None:
        """Publish no more to a member."""
        self._members.pop(member, None)
        self._troupe.note_others(has_others=bool(self._members or self._history.maxlen))
        if self._blocking.pop(member, self) is None:
            self.make_room()

    def stage(self) -> Troupe:
        """Return what the topics of this channel know it by."""
        return self._troupe

    def make_place(self) -> Place:
        """Make the place of a reactor's connection that is attached without being asked."""
        self._has_attached = self._has_compiled = True
        return Place(Policy.DISCONNECT, ATTACHED, None, self.make_room, self.make_room)

    def admit(self, attachment: Attachment) -> None:
        """Publish to an attachment by itself."""
        self._add(attachment, attachment.offer, attachment.policy)

    def do_after(self, call: Callable[[], None]) -> None:
        """Do what may publish: not before all have what is being published, if something is."""
        if self._is_giving:
            self._after.append(call)
        else:
            call()

    def expel(self, attachment: Attachment) -> None:
        """Publish to an attachment by itself no more; publishers look whether that makes room."""
        self._waited_for.discard(attachment)
        self.remove(attachment)
        self.make_room()


def _as_capacity(capacity: int | Capacity) -> Capacity:
    check_kind("capacity", capacity, int, Capacity)
    return Capacity(items=capacity) if isinstance(capacity, int) else capacity
