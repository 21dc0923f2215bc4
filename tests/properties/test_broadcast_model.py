"""Random publishes, subscribes, receives and cancellations, against a naive model of every policy.

The channel runs in a Trio of its own thread; each rule is one call there, after which every
task waits. So what a rule leads to is settled before the next, and the model can be plain.
"""

import contextlib
import threading
from collections import deque
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from triows import (
    BroadcastChannel,
    Capacity,
    Delivery,
    Lagged,
    Policy,
    TooSlow,
)

GAP = "gap"


def key_of(item: bytes) -> int:
    """The key of an item: its last octet."""
    return item[-1] % 3


POLICIES = {
    "block": Policy.BLOCK,
    "oldest": Policy.DROP_OLDEST,
    "newest": Policy.DROP_NEWEST,
    "latest": Policy.LATEST,
    "by key": Policy.LATEST(key_of),
    "disconnect": Policy.DISCONNECT,
}

SUBSCRIBERS = st.tuples(
    st.sampled_from(sorted(POLICIES)),
    st.integers(1, 4),
    st.sampled_from([float("inf"), 1, 6, 12]),
)
ITEMS = st.binary(min_size=1, max_size=8)


@attrs.define(eq=False)
class Naive:
    """What a subscriber must get: items, and gaps as [GAP, count]."""

    kind: str
    most: int
    most_octets: float
    queue: list[Any] = attrs.field(factory=list)
    is_cut_off: bool = False
    is_waiting: bool = False
    got: list[Any] = attrs.field(factory=list)

    def items(self) -> list[bytes]:
        """What waits, without gaps."""
        return [one for one in self.queue if isinstance(one, bytes)]

    def fits(self, item: bytes) -> bool:
        """Whether an item finds room."""
        waiting = self.items()
        return not waiting or (
            len(waiting) < self.most and sum(map(len, waiting)) + len(item) <= self.most_octets
        )

    def lose(self, at: int) -> None:
        """Drop the item at an index and leave a gap of one in its place, or at the front."""
        del self.queue[at]
        place = at if self.kind == "newest" else 0
        self.queue.insert(place, [GAP, 1])

    def offer(self, item: bytes) -> int:
        """Take an item under the policy; returns how many were lost, -1 to be cut off."""
        lost = 0
        if self.kind in ("latest", "by key"):
            same = [
                i
                for i, one in enumerate(self.queue)
                if isinstance(one, bytes) and (self.kind == "latest" or key_of(one) == key_of(item))
            ]
            if same:
                lost = 1
                others = [
                    one
                    for i, one in enumerate(self.queue)
                    if isinstance(one, bytes) and i != same[0]
                ]
                self.queue[same[0]] = item
            else:
                others = self.items()
                self.queue.append(item)
            while others and not (
                len(others) < self.most and sum(map(len, others)) + len(item) <= self.most_octets
            ):
                first = others.pop(0)
                at = next(i for i, one in enumerate(self.queue) if one is first)
                self.lose(at)
                lost += 1
        elif self.fits(item):
            self.queue.append(item)
        elif self.kind == "disconnect":
            self.is_cut_off = True
            lost = -1
        elif self.kind == "newest":
            self.queue.append([GAP, 1])
            lost = 1
        else:
            assert self.kind == "oldest"
            while not self.fits(item):
                at = next(i for i, one in enumerate(self.queue) if isinstance(one, bytes))
                self.lose(at)
                lost += 1
            self.queue.append(item)
        self.merge()
        return lost

    def skip(self, count: int) -> None:
        """Leave a gap behind everything, or before it where order is by key."""
        at = 0 if self.kind in ("latest", "by key") else len(self.queue)
        self.queue.insert(at, [GAP, count])
        self.merge()

    def merge(self) -> None:
        """Make one gap of those that follow each other."""
        merged: list[Any] = []
        for one in self.queue:
            if merged and isinstance(one, list) and isinstance(merged[-1], list):
                merged[-1] = [GAP, merged[-1][1] + one[1]]
            else:
                merged.append(one)
        self.queue = merged

    def settle(self) -> None:
        """Give a receiver that waits what has come."""
        if self.is_waiting and (self.queue or self.is_cut_off):
            self.is_waiting = False
            self.got.append(self.queue.pop(0) if self.queue else TooSlow)


@attrs.define(eq=False)
class Member:
    """A subscription, its model, and the scopes that end what goes on with it."""

    model: Naive
    subscription: Any = None
    leave: Any = None
    scope: Any = None
    got: list[Any] = attrs.field(factory=list)


@attrs.define(eq=False)
class Publishing:
    """A publish that waits."""

    item: bytes
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    result: Delivery | None = None


async def receive(member: Member) -> None:
    """Receive once, however it ends."""
    try:
        member.got.append(await member.subscription.receive())
    except Lagged as gap:
        member.got.append([GAP, gap.count])
    except (TooSlow, trio.ClosedResourceError) as end:
        member.got.append(type(end))


class BroadcastMachine(RuleBasedStateMachine):
    """The channel and its model."""

    members = Bundle("members")
    publishings = Bundle("publishings")

    def __init__(self) -> None:
        super().__init__()
        self.present: list[Member] = []
        self.waiting: deque[Publishing] = deque()
        self.history: deque[bytes] = deque()
        self.offered = self.dropped = self.closed = self.published = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._serve,))
        self._thread.start()
        self._ready.wait()

    async def _serve(self) -> None:
        self.token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with trio.open_nursery() as self.nursery:
            self._ready.set()
            await self._stop.wait()
            self.nursery.cancel_scope.cancel()

    def do(self, function: Any, *arguments: Any) -> Any:
        """Call something in Trio's thread, and wait until every task waits."""

        async def settled() -> Any:
            result = await function(*arguments)
            await trio.testing.wait_all_tasks_blocked()
            return result

        return trio.from_thread.run(settled, trio_token=self.token)

    def teardown(self) -> None:
        """End, checking what everyone has got."""
        try:
            while self.waiting:
                self._cancel_publish(self.waiting[-1])
            for member in self.present:
                self.do(self._drain, member)
                assert member.got == member.model.got + member.model.queue
        finally:
            trio.from_thread.run_sync(self._stop.set, trio_token=self.token)
            self._thread.join()

    async def _drain(self, member: Member) -> None:
        if member.scope is not None:
            member.scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
        with contextlib.suppress(trio.WouldBlock, TooSlow):
            while True:
                try:
                    member.got.append(member.subscription.receive_nowait())
                except Lagged as gap:
                    member.got.append([GAP, gap.count])

    # Rules.

    @initialize(
        target=members, history=st.integers(0, 4), subscribers=st.lists(SUBSCRIBERS, min_size=3)
    )
    def open(self, history: int, subscribers: list[tuple[str, int, float]]) -> Any:
        """Make the channel, with some subscribers."""
        self.channel: BroadcastChannel[bytes] = BroadcastChannel(history)
        self.history = deque(maxlen=history)
        return multiple(*(self._subscribe(*one) for one in subscribers))

    @rule(target=members, subscriber=SUBSCRIBERS)
    def subscribe(self, subscriber: tuple[str, int, float]) -> Member:
        """Join, and be given the end of the history that there is room for."""
        return self._subscribe(*subscriber)

    @precondition(lambda self: len(self.present) > 2)
    @rule(member=consumes(members))
    def unsubscribe(self, member: Member) -> None:
        """Leave; what was not received is gone."""
        if member in self.present:
            self._calm()
            self.do(member.leave, None, None, None)
            self.present.remove(member)
            if member.model.is_waiting:
                member.model.got.append(trio.ClosedResourceError)
            assert member.got == member.model.got
            self._publish_waiting()

    @rule(items=st.lists(ITEMS, min_size=1, max_size=5))
    def publish_nowait(self, items: list[bytes]) -> None:
        """Publish to all, or to no one, one after the other."""
        for item in items:
            self._publish_nowait(item)

    def _publish_nowait(self, item: bytes) -> None:
        async def publish() -> Delivery | None:
            try:
                return self.channel.publish_nowait(item)
            except trio.WouldBlock:
                return None

        delivery = self.do(publish)
        expected = None if self.waiting or not self._has_room(item) else self._deliver(item)
        assert delivery == expected
        self._settle()

    @precondition(lambda self: len(self.waiting) < 4)
    @rule(target=publishings, item=ITEMS)
    def publish(self, item: bytes) -> Any:
        """Publish once there is room for all."""
        publishing = Publishing(item)

        async def publish() -> None:
            with publishing.scope:
                publishing.result = await self.channel.publish(item)

        async def start() -> None:
            self.nursery.start_soon(publish)

        self.do(start)
        self.waiting.append(publishing)
        self._publish_waiting()
        return publishing if publishing in self.waiting else multiple()

    @rule(publishing=consumes(publishings))
    def cancel_publish(self, publishing: Publishing) -> None:
        """Cancelled, it has published nothing."""
        if publishing in self.waiting:
            self._calm()
            self._cancel_publish(publishing)

    @rule(member=members, count=st.integers(1, 4))
    def start_receiving(self, member: Member, count: int) -> None:
        """Receive what there is, so many times, or wait for it."""
        for _ in range(count):
            self._start_receiving(member)

    def _start_receiving(self, member: Member) -> None:
        if member not in self.present or member.model.is_waiting:
            return
        self._calm()

        async def start() -> None:
            self.nursery.start_soon(run)

        async def run() -> None:
            with trio.CancelScope() as member.scope:
                await receive(member)

        self.do(start)
        member.model.is_waiting = True
        self._settle()
        self._publish_waiting()

    @rule(member=members)
    def cancel_receive(self, member: Member) -> None:
        """Cancelled, it has lost nothing."""
        if member in self.present and member.model.is_waiting:
            self._cancel_receive(member)

    @rule(count=st.integers(1, 3))
    def skip(self, count: int) -> None:
        """Items were lost before they came here."""

        async def skip() -> None:
            self.channel.skip(count)

        self.do(skip)
        self.history.clear()
        for member in self.present:
            if not member.model.is_cut_off:
                member.model.skip(count)
        self._settle()

    # What several rules do.

    def _subscribe(self, kind: str, most: int, octets: float) -> Member:
        member = Member(Naive(kind, most, octets))

        async def enter() -> None:
            capacity = Capacity(items=most, octets=octets)
            context = self.channel.subscribe(POLICIES[kind], capacity)
            member.subscription = await context.__aenter__()
            member.leave = context.__aexit__

        self.do(enter)
        fitting: list[bytes] = []
        for item in reversed(self.history):
            probe = Naive("block", most, octets, queue=list(fitting))
            if not probe.fits(item):
                break
            fitting.insert(0, item)
        for item in fitting:
            self._count(1, member.model.offer(item))
        self.present.append(member)
        return member

    def _cancel_publish(self, publishing: Publishing) -> None:
        self.do(self._cancel, publishing.scope)
        assert publishing.scope.cancelled_caught
        assert publishing.result is None
        self.waiting.remove(publishing)
        self._publish_waiting()

    def _cancel_receive(self, member: Member) -> None:
        self.do(self._cancel, member.scope)
        member.model.is_waiting = False

    async def _cancel(self, scope: trio.CancelScope) -> None:
        scope.cancel()

    def _calm(self) -> None:
        """Have no one receive whose items Trio's order of tasks decides on.

        Where several publishes that wait go on at once, one who waits for an item may be
        given the next before it has run.
        """
        if len(self.waiting) > 1:
            for member in self.present:
                if member.model.is_waiting and member.model.kind != "block":
                    self._cancel_receive(member)

    # The model.

    def _has_room(self, item: bytes) -> bool:
        return all(one.model.fits(item) for one in self.present if one.model.kind == "block")

    def _count(self, offered: int, lost: int) -> None:
        self.offered += offered
        self.dropped += max(0, lost)
        self.closed += lost < 0

    def _deliver(self, item: bytes) -> Delivery:
        self.published += 1
        self.history.append(item)
        fates = []
        for member in self.present:
            if not member.model.is_cut_off:
                fates.append(member.model.offer(item))
                self._count(1, fates[-1])
        return Delivery(
            sum(one == 0 for one in fates), sum(one > 0 for one in fates), fates.count(-1)
        )

    def _settle(self) -> None:
        for member in self.present:
            member.model.settle()

    def _publish_waiting(self) -> None:
        while self.waiting and self._has_room(self.waiting[0].item):
            publishing = self.waiting.popleft()
            assert publishing.result == self._deliver(publishing.item)
            self._settle()
        assert all(one.result is None for one in self.waiting)

    @precondition(lambda self: hasattr(self, "channel"))
    @invariant()
    def counts_add_up(self) -> None:
        """Published x members = delivered + dropped + closed, at any moment."""
        statistics = self.channel.statistics()
        assert statistics.published == self.published
        assert statistics.members == sum(not one.model.is_cut_off for one in self.present)
        assert statistics.offered == self.offered
        assert (statistics.dropped, statistics.closed) == (self.dropped, self.closed)
        assert statistics.delivered == self.offered - self.dropped - self.closed
        assert statistics.publishers_waiting == len(self.waiting)
        for member in self.present:
            assert member.got == member.model.got
            unread = member.subscription.statistics()
            assert unread.unread_items == len(member.model.items())
            assert unread.unread_octets == sum(map(len, member.model.items()))


class TestEveryPolicy(BroadcastMachine.TestCase):
    """Every policy is as its model."""

    settings = settings(max_examples=120, stateful_step_count=30)


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestEveryPolicyAtLength(BroadcastMachine.TestCase):
    """Every policy is as its model, for longer."""

    settings = settings(max_examples=250, stateful_step_count=60)
