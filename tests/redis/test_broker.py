"""Rooms over Redis: order, history, gaps, outages, presence; in one process, over real servers."""

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from uuid import uuid4

import pytest
import trio
import trio.testing

from tests.redis.server import RedisServer
from triows import Backoff, Lagged, Policy, Rooms
from triows.redis import open_redis_broker
from triows.redis._node import CHANNELS

QUICK = Backoff(first=0.02, longest=0.1)
PATIENCE = 20.0


@asynccontextmanager
async def open_rooms(server, count=2, *, prefix=None, history=10, **settings):
    """Open rooms as so many processes would."""
    prefix = prefix or f"{uuid4().hex}:"
    settings = {"prefix": prefix, "backoff": QUICK, "history": history, **settings}
    async with AsyncExitStack() as stack:
        brokers = [
            await stack.enter_async_context(open_redis_broker(server.url, **settings))
            for _ in range(count)
        ]
        yield [Rooms(history, broker) for broker in brokers]


async def take(membership, count):
    """Receive so many items, gaps as [count]."""
    taken = []
    with trio.fail_after(PATIENCE):
        while len(taken) < count:
            try:
                taken.append(await membership.receive())
            except Lagged as lagged:
                taken.append([lagged.count])
    return taken


async def wait_until(condition):
    """Wait until something is so."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - it is other processes that change it
            await trio.sleep(0.005)


async def greet(near, far):
    """Have both hear something, so that both are in step."""
    await near.publish("before")
    assert await take(near, 1) == await take(far, 1) == ["before"]


async def kill(server, *everyone):
    """End a Redis, and wait until all these know that it is away."""
    server.kill()
    for rooms in everyone:
        await wait_until(lambda rooms=rooms: not rooms._broker.statistics().is_up)


async def test_all_see_one_order(shared_redis):
    """What several publish at once, all get, in the same order."""
    async with open_rooms(shared_redis, 3) as everyone, AsyncExitStack() as stack:
        joined = [
            await stack.enter_async_context(rooms.join("a", capacity=300)) for rooms in everyone
        ]

        async def publish(rooms, who):
            for number in range(100):
                await rooms.publish("a", f"{who} {number}")

        async with trio.open_nursery() as nursery:
            for who, rooms in enumerate(everyone):
                nursery.start_soon(publish, rooms, who)
        orders = [await take(one, 300) for one in joined]
    assert orders[0] == orders[1] == orders[2]
    for who in range(3):
        mine = [one for one in orders[0] if one.startswith(f"{who} ")]
        assert mine == [f"{who} {number}" for number in range(100)]


async def test_text_and_octets(shared_redis):
    """Both arrive as what they were; nothing else can be sent."""
    async with open_rooms(shared_redis) as (here, there), there.join("a") as far:
        async with here.join("a") as near:
            for item in ("", "wörld", b"", b"\x00\xff\n"):
                await near.publish(item)
            assert await take(near, 4) == await take(far, 4) == ["", "wörld", b"", b"\x00\xff\n"]
            with pytest.raises(TypeError, match="str or bytes, not int"):
                near.publish_nowait(1)


async def test_history_and_resumption(shared_redis):
    """A newcomer in any process gets the history; one that comes back, what it has missed."""
    async with open_rooms(shared_redis, 2, history=5) as (here, there):
        async with here.join("a") as near:
            for number in range(8):
                await near.publish(str(number))
            assert await take(near, 8) == [str(number) for number in range(8)]
            position = near.position
            async with there.join("a") as far:
                assert await take(far, 5) == ["3", "4", "5", "6", "7"]
                assert far.position == position
                await far.publish("8")
                await take(near, 1)
            async with there.join("a", after=position) as back:
                assert await take(back, 1) == ["8"]
        async with here.join("a") as again:  # no one was there meanwhile
            assert await take(again, 5) == ["4", "5", "6", "7", "8"]
            assert again.position.epoch == position.epoch


async def test_rooms_are_apart(shared_redis):
    """Many rooms at once, opened and closed while things are published."""
    async with open_rooms(shared_redis) as (here, there):

        async def visit(number):
            name = f"room {number}"
            async with here.join(name) as near, there.join(name) as far:
                for item in range(20):
                    await near.publish(f"{number} {item}")
                expected = [f"{number} {item}" for item in range(20)]
                assert await take(near, 20) == await take(far, 20) == expected

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(visit, number)
        assert len(here) == len(there) == 0


# Slow subscribers.


async def test_a_slow_subscriber_loses_nothing(shared_redis):
    """One under BLOCK in another process gets all in time, from the log beyond the queue."""
    async with open_rooms(shared_redis, queue=10) as (here, there):
        async with there.join("a", capacity=3) as far, there.join("b") as other:
            for number in range(100):
                await here.publish("a", str(number))
            await here.publish("b", "not held up")
            assert await take(other, 1) == ["not held up"]
            taken = []
            for _ in range(100):
                taken += await take(far, 1)
                await trio.lowlevel.checkpoint()
            assert taken == [str(number) for number in range(100)]


async def test_publishing_waits_for_subscribers_here(shared_redis):
    """Those under BLOCK hold up who publishes in their process."""
    async with open_rooms(shared_redis) as (here, _), here.join("a", capacity=1) as near:
        await near.publish("1")
        await wait_until(lambda: near.subscription.statistics().unread_items)
        with pytest.raises(trio.WouldBlock):
            near.publish_nowait("2")
        with trio.move_on_after(0.02) as scope:
            await near.publish("2")
        assert scope.cancelled_caught
        assert await take(near, 1) == ["1"]
        await near.publish("3")
        assert await take(near, 1) == ["3"]


async def test_what_the_log_no_longer_has_is_a_gap(shared_redis):
    """Its size is told; then it goes on."""
    async with open_rooms(shared_redis, queue=5, log=10) as (here, there):
        async with there.join("a", capacity=2) as far:
            for number in range(30):
                await here.publish("a", str(number))
                if number % 5 == 4:  # what goes together is kept or forgotten together
                    await wait_until(lambda: not here._broker.statistics().waiting_octets)
            taken = []
            while not taken or taken[-1] != "29":
                taken += await take(far, 1)
        lost = sum(one[0] for one in taken if isinstance(one, list))
        numbers = [int(one) for one in taken if isinstance(one, str)]
        assert numbers == sorted(numbers)
        assert lost + len(numbers) == 30
        assert lost > 0


# Without Redis.


async def test_an_outage(mortal_redis):
    """Rooms go on in each process; afterwards all have all, once, and a common order again."""
    async with (
        open_rooms(mortal_redis) as (here, there),
        here.join("a") as near,
        there.join("a") as far,
    ):
        await greet(near, far)
        epoch = near.position.epoch
        await kill(mortal_redis, here, there)
        for number in range(5):
            assert near.publish_nowait(f"near {number}").delivered == 1
            await far.publish(f"far {number}")
        assert await take(near, 5) == [f"near {number}" for number in range(5)]
        assert await take(far, 5) == [f"far {number}" for number in range(5)]
        assert near.position.epoch != epoch
        mortal_redis.start()
        assert await take(near, 5) == [f"far {number}" for number in range(5)]
        assert await take(far, 5) == [f"near {number}" for number in range(5)]
        await near.publish("after")
        assert await take(near, 1) == await take(far, 1) == ["after"]
        assert near.position == far.position
        assert near.position.epoch == epoch
        assert near.position.number == 12
        async with there.join("a") as newcomer:
            assert len(await take(newcomer, 10)) == 10


async def test_a_room_that_is_opened_in_an_outage(mortal_redis):
    """It begins without Redis; when that is back, the history comes, and what others have said."""
    async with open_rooms(mortal_redis) as (here, there):
        async with there.join("a"):
            await there.publish("a", "before")
            await wait_until(lambda: not there._broker.statistics().waiting_octets)
        await kill(mortal_redis, here, there)
        async with here.join("a") as near, there.join("a") as far:
            await near.publish("meanwhile")
            assert await take(near, 1) == ["meanwhile"]
            mortal_redis.start()
            assert await take(far, 2) == ["before", "meanwhile"]
            assert await take(near, 1) == ["before"]
            await far.publish("after")
            assert await take(near, 1) == await take(far, 1) == ["after"]
            assert near.position == far.position


async def test_a_redis_that_is_not_there_yet(tmp_path):
    """Everything begins without it."""
    server = RedisServer(tmp_path / "late")
    async with open_rooms(server) as (here, there):
        async with here.join("a") as near, there.join("a") as far:
            await near.publish("alone")
            assert await take(near, 1) == ["alone"]
            with server:
                assert await take(far, 1) == ["alone"]


async def test_a_redis_that_hangs(mortal_redis):
    """No answer in time is an outage too; no one who publishes here waits for it."""
    async with open_rooms(mortal_redis, timeout=0.3) as (here, there), here.join("a") as near:
        async with there.join("a") as far:
            await greet(near, far)
            mortal_redis.stop()
            await wait_until(lambda: not here._broker.statistics().is_up)
            await near.publish("meanwhile")
            assert await take(near, 1) == ["meanwhile"]
            mortal_redis.kill()
            mortal_redis.start()
            assert await take(far, 1) == ["meanwhile"]


async def test_a_backlog_that_overflows(mortal_redis):
    """The oldest are dropped and counted; others see a gap of that size in their place."""
    async with open_rooms(mortal_redis, backlog=1_000) as (here, there), here.join("a") as near:
        async with there.join("a") as far:
            await greet(near, far)
            await kill(mortal_redis, here)
            for number in range(100):
                await near.publish(f"{number}")
                await take(near, 1)
            dropped = here._broker.statistics().dropped
            assert 50 < dropped < 100
            mortal_redis.start()
            rest = await take(far, 101 - dropped)
            assert rest == [[dropped], *[f"{number}" for number in range(dropped, 100)]]
            await near.publish("after")
            assert await take(near, 1) == await take(far, 1) == ["after"]
            assert near.position == far.position


async def test_a_history_ends_where_its_numbers_do(mortal_redis):
    """Who comes back to a process that reads a log with a gap is given nothing for another item."""
    async with open_rooms(mortal_redis, 3, backlog=200) as (here, there, elsewhere):
        async with here.join("a") as near, there.join("a") as far:
            await greet(near, far)
            position = far.position
            await kill(mortal_redis, here)
            for number in range(15):
                await near.publish(f"{number}")
            dropped = here._broker.statistics().dropped
            assert 0 < dropped < 15
            mortal_redis.start()
            rest = await take(far, 16 - dropped)
        async with elsewhere.join("a", after=position) as back:
            assert await take(back, 16 - dropped) == rest
            assert rest == [[dropped], *map(str, range(dropped, 15))]
            assert back.position == far.position


async def test_a_redis_that_has_lost_its_data(tmp_path):
    """The numbering begins anew, and subscribers are told that something may be missing."""
    with RedisServer(tmp_path / "forgetful") as server:
        async with open_rooms(server) as (here, there):
            async with here.join("a") as near, there.join("a") as far:
                await greet(near, far)
                await kill(server, here)
                server.start()
                assert await take(near, 1) == await take(far, 1) == [[1]]
                await near.publish("after")
                assert await take(near, 1) == await take(far, 1) == ["after"]
                assert near.position == far.position


async def test_a_log_that_has_expired(shared_redis):
    """While everyone is connected nothing is lost by that, and no gap is told."""
    prefix = f"{uuid4().hex}:"
    async with open_rooms(shared_redis, prefix=prefix) as (here, there):
        async with here.join("a") as near, there.join("a") as far:
            await greet(near, far)
            shared_redis.ask("DEL", f"{prefix}r:a", f"{prefix}l:a")
            await far.publish("after")
            assert await take(near, 1) == await take(far, 1) == ["after"]
            assert near.position == far.position
            assert near.position.number == 1


async def test_a_redis_that_has_lost_its_last_writes(tmp_path):
    """What is said then is new to all, though its numbers had been given out before."""
    with RedisServer(tmp_path / "forgetful") as server:
        async with open_rooms(server, 3) as (here, there, silent):
            async with here.join("a") as near, there.join("a") as far:
                await near.publish("kept")
                assert await take(near, 1) == await take(far, 1) == ["kept"]
                server.ask("SAVE")
                for number in range(5):
                    await near.publish(f"lost {number}")
                assert await take(near, 5) == await take(far, 5)
                before = far.position
                await kill(server, here, there, silent)
                server.start()
                for number in range(7):  # by one who has not heard of the numbers
                    await silent.publish("a", f"new {number}")
                for one in (near, far):
                    assert await take(one, 8) == [[1], *(f"new {number}" for number in range(7))]
                assert near.position == far.position
                assert near.position.epoch != before.epoch
                async with there.join("a", after=before) as back:
                    assert isinstance((await take(back, 2))[0], list)


async def test_a_redis_that_others_write_to(shared_redis):
    """What is none of ours is left out, as a gap where it has a number; the broker lives."""
    prefix = f"{uuid4().hex}:"
    async with open_rooms(shared_redis, prefix=prefix) as (here, there):
        async with here.join("a") as near, there.join("a") as far:
            for said in ("", "nonsense", "epoch 1\n\x01", "epoch one\n"):
                shared_redis.ask("PUBLISH", f"{prefix}c:a", said)
            await near.publish("1")
            assert await take(near, 1) == await take(far, 1) == ["1"]
        shared_redis.ask("HINCRBY", f"{prefix}r:a", "n", "1")
        shared_redis.ask("XADD", f"{prefix}l:a", "2-0", "d", "short")
        async with there.join("a") as far:
            await far.publish("3")
            assert await take(far, 1) == ["3"]  # the history begins behind the gap
            assert far.position.number == 3


async def test_a_redis_that_has_forgotten_the_scripts(shared_redis):
    """It is taught them anew; nothing is lost by that."""
    async with open_rooms(shared_redis) as (here, there), there.join("a") as far:
        await here.publish("a", "before")
        assert await take(far, 1) == ["before"]
        shared_redis.ask("SCRIPT", "FLUSH")
        await here.publish("a", "after")
        assert await take(far, 1) == ["after"]


async def test_coming_back_while_redis_is_away(mortal_redis):
    """A position is of no use then: what there is is given, behind a gap."""
    async with open_rooms(mortal_redis) as (here, _), here.join("a") as near:
        for number in range(3):
            await near.publish(str(number))
        await take(near, 3)
        position = near.position
        await kill(mortal_redis, here)
        await near.publish("meanwhile")
        async with here.join("a", after=position) as back:
            assert await take(back, 5) == [[1], "0", "1", "2", "meanwhile"]


async def test_history_after_an_outage(mortal_redis):
    """It is in Redis's order, each item once, in whichever process."""
    async with open_rooms(mortal_redis, history=100) as (here, there):
        async with here.join("a") as near, there.join("a") as far:
            await greet(near, far)
            await kill(mortal_redis, here, there)
            for number in range(3):
                await near.publish(f"near {number}")
                await far.publish(f"far {number}")
            mortal_redis.start()
            await take(near, 6)
            await take(far, 6)
            await far.publish("after")
            assert await take(near, 1) == await take(far, 1) == ["after"]
            async with here.join("a") as new, there.join("a") as newer:
                given = await take(new, 8)
                assert given == await take(newer, 8)
                assert (given[0], given[-1], len(set(given))) == ("before", "after", 8)
                assert new.position.number == 8


async def test_leaving_publishes_what_waits(shared_redis):
    """The block's end waits for it."""
    prefix = f"{uuid4().hex}:"
    async with open_rooms(shared_redis, 1, prefix=prefix) as (there,), there.join("a") as far:
        async with open_rooms(shared_redis, 1, prefix=prefix) as (here,):
            for number in range(50):
                await here.publish("a", str(number))
        assert await take(far, 50) == [str(number) for number in range(50)]


async def test_halves_of_characters(shared_redis):
    """They are refused before anything is done."""
    async with open_rooms(shared_redis, 1) as (rooms,), rooms.join("a") as room:
        with pytest.raises(UnicodeEncodeError):
            room.publish_nowait("\ud800")
        with pytest.raises(UnicodeEncodeError):
            await rooms.publish("\ud800", "text")
        with pytest.raises(UnicodeEncodeError):
            async with rooms.join("\ud800"):
                pass
        await room.publish("fine")
        assert await take(room, 1) == ["fine"]


async def test_a_room_that_is_left_while_someone_waits_to_publish(mortal_redis):
    """Whoever waits goes on: no one is there who has no room."""
    async with open_rooms(mortal_redis) as (here, _), trio.open_nursery() as nursery:
        async with here.join("a", capacity=1) as near:
            await near.publish("1")
            await wait_until(lambda: near.subscription.statistics().unread_items)
            here._broker.publish_nowait("b", "x")
            await kill(mortal_redis, here)
            nursery.start_soon(here.publish, "a", "2")
            await trio.testing.wait_all_tasks_blocked(0.01)
        await wait_until(lambda: not nursery.child_tasks)


# Presence.


async def test_presence(mortal_redis):
    """Who is announced is known to all, until the block is left, or the process dies."""
    async with open_rooms(mortal_redis, timeout=0.3) as (here, there):
        one, two = here._broker, there._broker
        await wait_until(lambda: one._nodes[0]._connection and two._nodes[0]._connection)
        async with one.announce("a", "ann"), two.announce("a", "bob"), two.announce("a", "bob"):
            assert sorted(await one.members("a")) == ["ann", "bob"]
            assert await one.members("b") == []
            async with trio.open_nursery() as nursery:
                async with two.announce("a", "ann"):
                    assert sorted(await two.members("a")) == ["ann", "bob"]
                nursery.cancel_scope.cancel()
            assert sorted(await one.members("a")) == ["ann", "bob"]
            await trio.sleep(1.0)  # longer than it holds without being said again
            assert sorted(await one.members("a")) == ["ann", "bob"]
        assert await two.members("a") == []
        mortal_redis.kill()
        with pytest.raises(ConnectionError):
            await one.members("a")


async def test_one_who_leaves_while_many_are_announced_is_not_there(shared_redis):
    """It is not said again of who was to come later, having left by then."""
    async with open_rooms(shared_redis, 1) as (here,), AsyncExitStack() as others:
        broker = here._broker
        (node,) = broker._nodes
        await wait_until(lambda: node._connection)
        for number in range(CHANNELS):
            await others.enter_async_context(broker.announce("a", str(number)))
        async with trio.open_nursery() as nursery:
            async with broker.announce("a", "last"):
                nursery.start_soon(node.announce, list(node.here))
                await trio.lowlevel.checkpoint()  # it has begun, and has no answer yet
        assert "last" not in await broker.members("a")
        assert len(await broker.members("a")) == CHANNELS


async def test_a_dead_process_is_forgotten(shared_redis):
    """After three times the timeout."""
    prefix = f"{uuid4().hex}:"
    async with open_rooms(shared_redis, 1, prefix=prefix, timeout=5) as (here,):
        await wait_until(lambda: here._broker._nodes[0]._connection)
        shared_redis.ask("ZADD", f"{prefix}m:a", "1", f"{'0' * 32}long dead")
        async with here._broker.announce("a", "ann"):
            assert await here._broker.members("a") == ["ann"]


# Several nodes.


async def test_rooms_spread_over_nodes(shared_redis, mortal_redis):
    """Each room is on one node, the same for all processes; one node's outage is that node's."""
    prefix = f"{uuid4().hex}:"
    open_broker = partial(open_redis_broker, prefix=prefix, backoff=QUICK)
    names = [f"room {number}" for number in range(40)]
    urls = [shared_redis.url, mortal_redis.url]
    async with (
        open_broker(*urls) as one,
        open_broker(*reversed(urls)) as two,
        AsyncExitStack() as stack,
    ):
        here, there = Rooms(broker=one), Rooms(broker=two)
        far = {name: await stack.enter_async_context(there.join(name)) for name in names}
        for name in names:
            await here.publish(name, f"to {name}")
        for name in names:
            assert await take(far[name], 1) == [f"to {name}"]
        logs = [
            {name for name in names if server.ask("EXISTS", f"{prefix}l:{name}") == "1"}
            for server in (shared_redis, mortal_redis)
        ]
        assert logs[0] | logs[1] == set(names)
        assert not logs[0] & logs[1]
        assert min(map(len, logs)) > 5
        mortal_redis.kill()
        await wait_until(lambda: not one.statistics().is_up)
        for name in names:
            await here.publish(name, f"again to {name}")
        for name in logs[0]:
            assert await take(far[name], 1) == [f"again to {name}"]
        mortal_redis.start()
        for name in logs[1]:
            assert await take(far[name], 1) == [f"again to {name}"]


@pytest.mark.parametrize(
    ("urls", "settings"),
    [
        ([], {}),
        (["http://a"], {}),
        (["redis://"], {}),
        (["redis://a/b"], {}),
        (["redis://a"], {"log": 0}),
        (["redis://a"], {"history": -1}),
        (["redis://u:s3cret@a/b"], {}),
    ],
)
async def test_malformed_arguments(urls, settings):
    """They are refused at once, and no message shows a password."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        async with open_redis_broker(*urls, **settings):
            pass
    assert "s3cret" not in str(caught.value)


async def test_policies_are_the_subscribers_own(shared_redis):
    """One that may lose items holds no one up."""
    async with open_rooms(shared_redis) as (here, there):
        async with there.join("a", policy=Policy.DROP_OLDEST, capacity=2) as far:
            for number in range(20):
                await here.publish("a", str(number))
            await here.publish("a", "last")
            taken = []
            while not taken or taken[-1] != "last":
                taken += await take(far, 1)
            assert sum(one[0] if isinstance(one, list) else 1 for one in taken) == 21
