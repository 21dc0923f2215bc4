"""`BroadcastChannel`: order, policies, history, exactness under cancellation, closing."""

import gc
import weakref

import pytest
import trio
import trio.testing

from tests.unit.conftest import CancelAt
from triows import (
    BroadcastChannel,
    Capacity,
    Delivery,
    Lagged,
    Policy,
    PreparedMessage,
    TooSlow,
)

POLICIES = [Policy.BLOCK, Policy.DROP_OLDEST, Policy.DROP_NEWEST, Policy.LATEST, Policy.DISCONNECT]
LOSSY = POLICIES[1:4]


def drain(subscription):
    """Everything that can be received now, gaps as their counts in a list of their own."""
    got = []
    while True:
        try:
            got.append(subscription.receive_nowait())
        except Lagged as gap:
            got.append([gap.count])
        except (trio.WouldBlock, trio.EndOfChannel, TooSlow) as end:
            if not isinstance(end, trio.WouldBlock):
                got.append(type(end))
            return got


# What is received.


@pytest.mark.parametrize("policy", [*POLICIES[:3], POLICIES[4]], ids=repr)
async def test_every_subscriber_gets_every_item_in_order(policy):
    """All that there is room for comes to all, as it was published."""
    channel = BroadcastChannel[int]()
    async with channel.subscribe(policy) as one, channel.subscribe(policy) as other:
        for item in range(5):
            assert channel.publish_nowait(item) == Delivery(delivered=2)
        assert drain(one) == drain(other) == [0, 1, 2, 3, 4]


async def test_a_batch_is_published_as_far_as_there_is_room():
    """All that none has to be waited for with; and nothing while others wait to publish."""
    channel = BroadcastChannel[int]()
    async with (
        channel.subscribe(Policy.BLOCK, 3) as one,
        channel.subscribe(Policy.DROP_OLDEST, 2) as other,
        trio.open_nursery() as nursery,
    ):
        assert channel.publish_batch([1, 2]) == 2
        assert channel.publish_batch([3, 4, 5]) == 1
        nursery.start_soon(channel.publish, 4)
        await trio.testing.wait_all_tasks_blocked()
        assert one.receive_nowait() == 1
        assert channel.publish_batch([5]) == 0
        await trio.testing.wait_all_tasks_blocked()
        assert drain(one) == [2, 3, 4]
        assert drain(other) == [[2], 3, 4]
        assert channel.publish_batch([5, 6]) == 2
        assert drain(one) == [5, 6]
    channel.close()
    with pytest.raises(trio.ClosedResourceError):
        channel.publish_batch([7])


async def test_a_subscriber_waits_for_an_item():
    """`receive` and ``async for`` wait, and end when the channel is closed."""
    got = []

    async def follow(*, task_status):
        async with channel.subscribe() as subscription:
            task_status.started()
            got.extend([item async for item in subscription])

    channel = BroadcastChannel[str]()
    async with trio.open_nursery() as nursery:
        await nursery.start(follow)
        for item in "abc":
            await channel.publish(item)
            await trio.testing.wait_all_tasks_blocked()
        await channel.aclose()

    assert got == ["a", "b", "c"]


async def test_what_was_published_before_and_after_is_not_received():
    """A subscription lasts as long as its block."""
    channel = BroadcastChannel[int]()
    channel.publish_nowait(1)
    async with channel.subscribe() as subscription:
        channel.publish_nowait(2)
        assert drain(subscription) == [2]
    assert channel.publish_nowait(3) == Delivery()
    with pytest.raises(trio.ClosedResourceError):
        await subscription.receive()


async def test_a_second_receiver_is_refused():
    """Two tasks that share a subscription would share out its items."""
    channel = BroadcastChannel[int]()
    async with channel.subscribe() as subscription, trio.open_nursery() as nursery:
        nursery.start_soon(subscription.receive)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await subscription.receive()
        with pytest.raises(trio.BusyResourceError):
            subscription.receive_nowait()
        nursery.cancel_scope.cancel()


# Policies.


async def test_drop_oldest_keeps_the_end():
    """The newest items stay; the gap is told before them."""
    channel = BroadcastChannel[int]()
    async with channel.subscribe(Policy.DROP_OLDEST, 3) as subscription:
        deliveries = [channel.publish_nowait(item) for item in range(5)]
        assert deliveries == [Delivery(delivered=1)] * 3 + [Delivery(dropped=1)] * 2
        assert drain(subscription) == [[2], 2, 3, 4]
        channel.publish_nowait(5)
        assert drain(subscription) == [5]
        assert subscription.statistics().dropped == 2


async def test_drop_newest_keeps_the_beginning():
    """The oldest items stay; the gap is told behind them."""
    channel = BroadcastChannel[int]()
    async with channel.subscribe(Policy.DROP_NEWEST, 3) as subscription:
        for item in range(5):
            channel.publish_nowait(item)
        assert subscription.receive_nowait() == 0
        channel.publish_nowait(5)
        assert drain(subscription) == [1, 2, [2], 5]


async def test_latest_keeps_one_of_each_key():
    """An item takes the place of its key's, which no one is told of as of a gap."""
    channel = BroadcastChannel[tuple[str, int]]()
    policy = Policy.LATEST(lambda item: item[0])
    async with channel.subscribe(policy, 2) as subscription:
        assert channel.publish_nowait(("a", 1)) == Delivery(delivered=1)
        channel.publish_nowait(("b", 1))
        assert channel.publish_nowait(("a", 2)) == Delivery(dropped=1)
        assert drain(subscription) == [("a", 2), ("b", 1)]


async def test_latest_has_a_capacity_too():
    """A key too many drops the one that has waited longest: that is a gap."""
    channel = BroadcastChannel[str]()
    async with channel.subscribe(Policy.LATEST(str.lower), 2) as subscription:
        for item in "abAc":
            channel.publish_nowait(item)
        assert drain(subscription) == [[1], "b", "c"]


async def test_latest_without_a_key_keeps_the_last():
    """All items replace each other."""
    channel = BroadcastChannel[int]()
    async with channel.subscribe(Policy.LATEST) as subscription:
        for item in range(5):
            channel.publish_nowait(item)
        assert drain(subscription) == [4]


async def test_an_item_that_has_grown_makes_other_keys_go():
    """The bound in octets holds for a replacement too."""
    channel = BroadcastChannel[bytes]()
    capacity = Capacity(items=9, octets=6)
    async with channel.subscribe(Policy.LATEST(lambda item: item[0]), capacity) as subscription:
        for item in (b"aa", b"bb", b"c", b"bbbbbb"):
            channel.publish_nowait(item)
        assert drain(subscription) == [[2], b"bbbbbb"]
        assert subscription.statistics().unread_octets == 0


async def test_a_key_that_raises_ends_its_own_subscription():
    """The publisher and the others are not concerned; the subscriber gets the exception."""
    channel = BroadcastChannel[str]()
    async with channel.subscribe(Policy.LATEST(int)) as strict, channel.subscribe() as other:
        channel.publish_nowait("1")
        assert channel.publish_nowait("x") == Delivery(delivered=1, closed=1)
        assert strict.receive_nowait() == "1"
        with pytest.raises(ValueError, match="invalid literal"):
            await strict.receive()
        assert drain(other) == ["1", "x"]


async def test_disconnect_cuts_the_slow_off():
    """What came before can be received, then TooSlow; nothing is published to it any more."""
    channel = BroadcastChannel[int]()
    async with channel.subscribe(Policy.DISCONNECT, 2) as subscription:
        for item in range(2):
            channel.publish_nowait(item)
        assert channel.publish_nowait(2) == Delivery(closed=1)
        assert channel.publish_nowait(3) == Delivery()
        assert drain(subscription) == [0, 1, TooSlow]
        with pytest.raises(TooSlow):
            await subscription.receive()


async def test_a_waiting_publisher_waits_for_all_who_block():
    """Nothing is published to anyone until all have room; then to all."""
    channel = BroadcastChannel[int]()
    async with (
        channel.subscribe(capacity=1) as slow,
        channel.subscribe(capacity=1) as slower,
        channel.subscribe(Policy.DROP_OLDEST, 1) as other,
        trio.open_nursery() as nursery,
    ):
        channel.publish_nowait(0)
        with pytest.raises(trio.WouldBlock):
            channel.publish_nowait(1)
        nursery.start_soon(channel.publish, 1)
        for subscription in (slow, slower):
            await trio.testing.wait_all_tasks_blocked()
            assert channel.statistics().publishers_waiting == 1
            assert drain(subscription) == [0]
        await trio.testing.wait_all_tasks_blocked()
        assert (drain(slow), drain(slower), drain(other)) == ([1], [1], [[1], 1])


async def test_publishers_are_served_in_order():
    """Who waits longest publishes first, whatever the sizes, and no one slips in."""
    channel = BroadcastChannel[bytes]()
    async with (
        channel.subscribe(capacity=Capacity(octets=4)) as subscription,
        trio.open_nursery() as nursery,
    ):
        channel.publish_nowait(b"0000")
        for item in (b"1111", b"2", b"3"):
            nursery.start_soon(channel.publish, item)
            await trio.testing.wait_all_tasks_blocked()
        assert await subscription.receive() == b"0000"
        with pytest.raises(trio.WouldBlock):
            channel.publish_nowait(b"4")
        assert [await subscription.receive() for _ in range(3)] == [b"1111", b"2", b"3"]


async def test_a_slow_subscriber_that_leaves_lets_publishers_go_on():
    """Leaving makes room."""
    channel = BroadcastChannel[int]()
    async with trio.open_nursery() as nursery, channel.subscribe(capacity=1):
        channel.publish_nowait(0)
        nursery.start_soon(channel.publish, 1)
        await trio.testing.wait_all_tasks_blocked()
    assert channel.statistics().published == 2


@pytest.mark.parametrize(
    ("item", "octets"),
    [
        ("text", 4),
        ("grüße", 7),
        ("\ud800", 3),
        (b"octets", 6),
        (bytearray(3), 3),
        (memoryview(bytes(8)).cast("Q"), 8),
        (PreparedMessage("grüße"), 7),
        (10**9, 0),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],  # the same in every process
)
async def test_messages_count_in_octets(item, octets):
    """Text counts what it is in UTF-8, what is no message nothing."""
    channel = BroadcastChannel[object]()
    async with channel.subscribe() as subscription:
        channel.publish_nowait(item)
        assert subscription.statistics().unread_octets == octets


async def test_an_item_of_any_size_finds_room_where_there_is_nothing():
    """What is larger than the capacity is not lost for that."""
    channel = BroadcastChannel[bytes]()
    async with channel.subscribe(Policy.DISCONNECT, Capacity(octets=4)) as subscription:
        assert channel.publish_nowait(bytes(100)) == Delivery(delivered=1)
        assert channel.publish_nowait(b"") == Delivery(closed=1)
        assert drain(subscription) == [bytes(100), TooSlow]


async def test_one_large_item_may_drop_many():
    """A subscriber is counted once, its lost items each."""
    channel = BroadcastChannel[bytes]()
    async with channel.subscribe(Policy.DROP_OLDEST, Capacity(octets=4)) as subscription:
        for _ in range(4):
            channel.publish_nowait(b"x")
        assert channel.publish_nowait(b"long") == Delivery(dropped=1)
        assert drain(subscription) == [[4], b"long"]
    statistics = channel.statistics()
    assert (statistics.offered, statistics.delivered, statistics.dropped) == (5, 1, 4)


@pytest.mark.parametrize("policy", LOSSY, ids=repr)
async def test_a_subscriber_that_never_receives_holds_its_capacity(policy):
    """Items that were dropped are gone, whatever the policy."""

    class Item:
        pass

    channel = BroadcastChannel[Item]()
    async with channel.subscribe(policy(id) if policy.name == "LATEST" else policy, 10):
        items = weakref.WeakSet()
        for _ in range(100):
            item = Item()
            items.add(item)
            channel.publish_nowait(item)
        del item
        gc.collect()
        assert len(items) == 10


def test_only_latest_takes_a_key():
    """The other policies have no use for one."""
    with pytest.raises(TypeError, match="DROP_OLDEST"):
        Policy.DROP_OLDEST(str)


@pytest.mark.parametrize("capacity", [0, -1])
async def test_a_capacity_is_an_item_or_more(capacity):
    """A subscriber without room for anything is a mistake."""
    with pytest.raises(ValueError, match="1"):
        async with BroadcastChannel[int]().subscribe(capacity=capacity):
            pass


# History.


async def test_a_newcomer_gets_the_history_and_what_follows():
    """Neither gap nor double between the two."""
    channel = BroadcastChannel[int](history=3)
    for item in range(5):
        channel.publish_nowait(item)
    async with channel.subscribe() as subscription:
        channel.publish_nowait(5)
        assert drain(subscription) == [2, 3, 4, 5]


async def test_a_small_newcomer_gets_the_end_of_the_history():
    """As much as there is room for, in items and in octets; that is no gap."""
    channel = BroadcastChannel[str](history=5)
    for item in ("a", "bbb", "cc", "d"):
        channel.publish_nowait(item)
    async with (
        channel.subscribe(capacity=2) as two,
        channel.subscribe(capacity=Capacity(octets=4)) as four,
    ):
        assert drain(two) == drain(four) == ["cc", "d"]


async def test_one_who_comes_back_goes_on_where_it_was():
    """*after* takes a subscription's number; nothing twice, nothing left out."""
    channel = BroadcastChannel[int](history=3)
    async with channel.subscribe() as subscription:
        channel.publish_nowait(0)
        channel.publish_nowait(1)
        await subscription.receive()
    async with channel.subscribe(after=subscription.number) as again:
        channel.publish_nowait(2)
        assert drain(again) == [1, 2]
        assert again.number == channel.number == 3


async def test_one_who_comes_back_too_late_is_told():
    """What the history no longer has, or has no room for, is a gap."""
    channel = BroadcastChannel[int](history=3)
    for item in range(6):
        channel.publish_nowait(item)
    async with (
        channel.subscribe(after=1) as late,
        channel.subscribe(after=3, capacity=1) as small,
        channel.subscribe(after=99) as ahead,
    ):
        assert drain(late) == [[2], 3, 4, 5]
        assert drain(small) == [[2], 5]
        assert drain(ahead) == []


async def test_a_key_that_raises_on_the_history_ends_its_own_subscription():
    """As it does on what is published."""
    channel = BroadcastChannel[str](history=3)
    channel.publish_nowait("x")
    async with channel.subscribe(Policy.LATEST(int)) as subscription:
        assert channel.publish_nowait("y") == Delivery()
        with pytest.raises(ValueError, match="invalid literal"):
            await subscription.receive()


async def test_items_lost_before_the_channel_are_told_in_their_place():
    """`skip` makes a gap for everyone, behind what is unread; the history begins anew."""
    channel = BroadcastChannel[int](history=9)
    async with (
        channel.subscribe() as first,
        channel.subscribe(Policy.LATEST) as latest,
        channel.subscribe(Policy.DROP_OLDEST, 1) as oldest,
    ):
        channel.publish_nowait(1)
        channel.skip(2)
        channel.skip(1)
        channel.publish_nowait(2)
        async with channel.subscribe() as newcomer:
            assert drain(newcomer) == [2]
        assert drain(first) == [1, [3], 2]
        assert drain(latest) == [[3], 2]
        assert drain(oldest) == [[4], 2]
        channel.skip(1)
        assert drain(first) == [[1]]
    assert channel.number == 6


async def test_a_numbering_can_be_taken_up():
    """`begin` says where the next item stands, and what was before it."""
    channel = BroadcastChannel[str](history=2)
    channel.begin(10, ["a", "b", "c"])
    async with channel.subscribe(after=9) as subscription:
        channel.publish_nowait("d")
        assert drain(subscription) == ["c", "d"]
        assert subscription.number == 11


@pytest.mark.parametrize("count", [0, -1])
async def test_no_items_cannot_be_skipped(count):
    """A gap is of one item or more."""
    with pytest.raises(ValueError, match="lost"):
        BroadcastChannel[int]().skip(count)


def test_a_history_is_not_negative():
    """The mistake is named."""
    with pytest.raises(ValueError, match="-1"):
        BroadcastChannel[int](history=-1)


# Cancelling.


async def published(channel):
    """Publish 1; what is cancelled is counted by the steps that it went through."""
    await channel.publish(1)


@pytest.mark.parametrize("when", ["waiting", "woken"])
@pytest.mark.parametrize("must_wait", [False, True], ids=["room", "no room"])
async def test_a_cancelled_publish_has_published_nothing(must_wait, when):
    """At whatever checkpoint: Cancelled and published exclude each other."""
    for n in range(6):
        channel = BroadcastChannel[int]()
        async with channel.subscribe(capacity=1) as subscription:
            if must_wait:
                channel.publish_nowait(0)
            cancel = CancelAt(n, when)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel.run, published(channel))
                await trio.testing.wait_all_tasks_blocked()
                got = drain(subscription)
                await trio.testing.wait_all_tasks_blocked()
            got += drain(subscription)
            assert (1 in got) is not cancel.was_cancelled
            assert channel.publish_nowait(2) == Delivery(delivered=1)
    assert not cancel.was_cancelled


@pytest.mark.parametrize("when", ["waiting", "woken"])
@pytest.mark.parametrize("is_there", [False, True], ids=["empty", "item"])
async def test_a_cancelled_receive_loses_nothing(is_there, when):
    """The item is received by the next call, or was by this one."""
    for n in range(4):
        channel = BroadcastChannel[int]()
        got = []

        async def receive(subscription, got):
            got.append(await subscription.receive())

        async with channel.subscribe() as subscription:
            if is_there:
                channel.publish_nowait(1)
            cancel = CancelAt(n, when)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel.run, receive(subscription, got))
                await trio.testing.wait_all_tasks_blocked()
                if not is_there:
                    channel.publish_nowait(1)
            assert got + drain(subscription) == [1]
            assert bool(got) is not cancel.was_cancelled


async def test_a_cancelled_subscriber_has_not_subscribed():
    """Cancelled on entering leaves nothing behind."""
    channel = BroadcastChannel[int]()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with channel.subscribe():
            pytest.fail("entered")
    assert channel.publish_nowait(1) == Delivery()


async def test_calls_are_checkpoints():
    """Each, to cancellation and to the scheduler, whether there was something to do or not."""
    channel = BroadcastChannel[int]()
    with trio.testing.assert_checkpoints():
        async with channel.subscribe() as subscription:
            pass
    async with channel.subscribe() as subscription:
        for call in (
            lambda: channel.publish(1),
            subscription.receive,
            lambda: channel.wait_for_room(1),
            subscription.aclose,
            channel.aclose,
        ):
            with trio.testing.assert_checkpoints():
                await call()


# Closing.


async def test_what_was_published_outlives_the_channels_end():
    """Subscribers receive what there is, then the end; nothing more can be published."""
    with BroadcastChannel[int]() as channel:
        async with channel.subscribe() as subscription:
            channel.publish_nowait(1)
            channel.close()
            assert channel.is_closed
            assert drain(subscription) == [1, trio.EndOfChannel]
    for call in (channel.publish_nowait, channel.skip):
        with pytest.raises(trio.ClosedResourceError):
            call(1)
    with pytest.raises(trio.ClosedResourceError):
        await channel.publish(1)
    with pytest.raises(trio.ClosedResourceError):
        async with channel.subscribe():
            pass
    await channel.wait_for_room(1)


async def test_closing_wakes_everyone():
    """Receivers get the end, publishers ClosedResourceError, and have published nothing."""
    channel = BroadcastChannel[int]()

    async def publish(item):
        with pytest.raises(trio.ClosedResourceError):
            await channel.publish(item)

    async def receive(subscription):
        with pytest.raises(trio.EndOfChannel):
            await subscription.receive()

    async with (
        channel.subscribe(capacity=1) as full,
        channel.subscribe(capacity=9) as waiting,
        trio.open_nursery() as nursery,
    ):
        channel.publish_nowait(0)
        drain(waiting)
        nursery.start_soon(receive, waiting)
        for item in (1, 2):
            nursery.start_soon(publish, item)
        nursery.start_soon(channel.wait_for_room, 3)
        await trio.testing.wait_all_tasks_blocked()
        await channel.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert drain(full) == [0, trio.EndOfChannel]


async def test_a_subscription_that_is_closed_wakes_its_receiver():
    """ClosedResourceError, though something was unread."""
    channel = BroadcastChannel[int]()
    async with channel.subscribe() as subscription, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def receive():
            with pytest.raises(trio.ClosedResourceError):
                await subscription.receive()

        await trio.testing.wait_all_tasks_blocked()
        channel.publish_nowait(1)
        subscription.close()
        await subscription.aclose()
        assert channel.publish_nowait(2) == Delivery()


async def test_the_statistics_add_up():
    """Whatever becomes of items, offered = delivered + dropped + closed."""
    channel = BroadcastChannel[int](history=2)
    channel.publish_nowait(0)
    async with (
        channel.subscribe(Policy.DROP_OLDEST, 1) as one,
        channel.subscribe(Policy.DROP_NEWEST, 1),
        channel.subscribe(Policy.DISCONNECT, 2),
    ):
        total = Delivery()
        for item in range(1, 5):
            total += channel.publish_nowait(item)
        statistics = channel.statistics()
        assert statistics.members == 2
        assert (statistics.published, statistics.offered) == (5, 3 + 3 * 2 + 2 * 2)
        assert (statistics.delivered, statistics.dropped, statistics.closed) == (4, 8, 1)
        assert (total.dropped, total.closed) == (8, 1)
        assert drain(one) == [[4], 4]
        assert one.statistics().received == 1


async def test_everything_says_what_it_is():
    """For whoever prints it."""
    channel = BroadcastChannel[int]()
    async with channel.subscribe() as subscription:
        channel.publish_nowait(1)
        assert repr(channel) == "<triows.BroadcastChannel 1 members>"
        assert repr(subscription) == "<triows.Subscription 1 unread>"
    channel.close()
    assert repr(channel) == "<triows.BroadcastChannel closed>"
    assert repr(subscription) == "<triows.Subscription closed>"
    assert repr(Policy.BLOCK) == "Policy.BLOCK"
    assert repr(Policy.LATEST(str)) == "Policy.LATEST(<class 'str'>)"
    assert str(Lagged(3)) == "3 items were dropped before the next one"


@pytest.mark.parametrize(
    "setting", [{"policy": "drop"}, {"capacity": "10"}, {"capacity": None}], ids=str
)
async def test_settings_of_the_wrong_kind(setting):
    """They are refused by their names, and no one is subscribed."""
    channel = BroadcastChannel()
    (name,) = setting

    with pytest.raises(TypeError, match=name):
        async with channel.subscribe(**setting):
            pass
    with pytest.raises(TypeError, match="target"):
        channel.attach(5)

    assert channel.statistics().members == 0
