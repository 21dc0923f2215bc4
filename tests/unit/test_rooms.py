"""`Rooms` and `LocalBroker`: life and members of rooms, presence, numbers, several ends."""

import pytest
import trio
import trio.testing

import triows
from tests.unit.conftest import CancelAt
from tests.unit.test_broadcast import drain
from triows import BroadcastChannel, Delivery, LocalBroker, Policy, Position, Presence, Rooms
from triows.testing import memory_pair

# Rooms and members.


async def test_a_room_lives_from_its_first_member_to_its_last():
    """Made at the first join, gone with the last member, its history too."""
    rooms = Rooms[str](history=5)
    assert "lobby" not in rooms
    async with rooms.join("lobby", "ann") as ann:
        async with rooms.join("lobby", "bob"):
            assert rooms.members("lobby") == ann.members == ("ann", "bob")
        await ann.publish("hello")
        assert "lobby" in rooms
        assert rooms.members("lobby") == ("ann",)
    assert (list(rooms), len(rooms), rooms.members("lobby")) == ([], 0, ())
    async with rooms.join("lobby") as again:
        assert drain(again) == []


async def test_members_get_what_is_published_to_their_rooms():
    """And only that; one may be in many rooms, and hears what it says itself."""
    rooms = Rooms[str]()
    async with rooms.join("a") as one, rooms.join("b") as two, rooms.join("a") as three:
        assert rooms.publish_nowait("a", "to a") == Delivery(delivered=2)
        assert await rooms.publish("b", "to b") == Delivery(delivered=1)
        assert two.publish_nowait("from two") == Delivery(delivered=1)
        assert rooms.publish_nowait("c", "to nobody") == Delivery()
        assert await rooms.publish("c", "to nobody") == Delivery()
        assert [drain(each) for each in (one, two, three)] == [
            ["to a"],
            ["to b", "from two"],
            ["to a"],
        ]
        assert sorted(rooms) == ["a", "b"]


async def test_a_room_is_received_like_a_channel():
    """``async for``, which ends when the membership is closed."""
    rooms = Rooms[int]()
    got = []
    async with rooms.join("numbers") as room, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def follow():
            with pytest.raises(trio.ClosedResourceError):
                got.extend([item async for item in room])
            got.append(await peer.receive())

        async with rooms.join("numbers") as peer:
            await peer.publish(1)
            await trio.testing.wait_all_tasks_blocked()
            await room.aclose()
            await trio.testing.wait_all_tasks_blocked()
    assert got == [1]


async def test_a_newcomer_gets_the_history():
    """As much as the rooms keep."""
    rooms = Rooms[int](history=2)
    async with rooms.join("numbers") as room:
        for item in range(4):
            room.publish_nowait(item)
        async with rooms.join("numbers") as newcomer:
            room.publish_nowait(4)
            assert drain(newcomer) == [2, 3, 4]


async def test_policies_are_the_members_own():
    """One that blocks holds up publishers, until it leaves; others lose what they may."""
    rooms = Rooms[int]()
    async with (
        trio.open_nursery() as nursery,
        rooms.join("numbers", policy=Policy.DROP_OLDEST, capacity=1) as lossy,
    ):
        async with rooms.join("numbers", capacity=1):
            rooms.publish_nowait("numbers", 0)
            with pytest.raises(trio.WouldBlock):
                lossy.publish_nowait(1)
            for item in (1, 2):
                nursery.start_soon(rooms.publish, "numbers", item)
                await trio.testing.wait_all_tasks_blocked()
            assert drain(lossy) == [0]
        await trio.testing.wait_all_tasks_blocked()
        assert drain(lossy) == [[1], 2]


@pytest.mark.parametrize("when", ["waiting", "woken"])
async def test_a_cancelled_join_has_not_happened(when):
    """At whatever checkpoint: no member, no presence, no room."""
    rooms = Rooms[int]()

    async def stay():
        async with rooms.join("lobby", "ann"):
            await trio.lowlevel.checkpoint()

    async with rooms.watch() as presence:
        for n in range(6):
            cancel = CancelAt(n, when)
            await cancel.run(stay())
            assert "lobby" not in rooms
            told = drain(presence)
            assert [one.is_here for one in told] in ([], [True, False])
    assert not cancel.was_cancelled
    assert told


@pytest.mark.parametrize("when", ["waiting", "woken"])
async def test_a_cancelled_publish_to_a_room_has_published_nothing(when):
    """At whatever checkpoint, where a member has to be waited for."""
    for n in range(7):
        rooms = Rooms[int]()
        async with rooms.join("room", capacity=1) as room:
            room.publish_nowait(0)
            cancel = CancelAt(n, when)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel.run, room.publish(1))
                await trio.testing.wait_all_tasks_blocked()
                got = drain(room)
                await trio.testing.wait_all_tasks_blocked()
            got += drain(room)
            assert (1 in got) is not cancel.was_cancelled
    assert not cancel.was_cancelled


async def test_what_waits_is_published_to_those_who_have_begun_the_room_anew():
    """Where the member that it waited for was the last, and others came at once."""
    rooms = Rooms()
    deliveries = []

    async def publish(item):
        deliveries.append(await rooms.publish("den", item))

    async with trio.open_nursery() as nursery:
        async with rooms.join("den", capacity=1):
            await rooms.publish("den", 0)
            for item in range(1, 9):
                nursery.start_soon(publish, item)
                await trio.testing.wait_all_tasks_blocked()
        async with rooms.join("den") as newcomer:
            assert deliveries == []
            await trio.testing.wait_all_tasks_blocked()
            assert drain(newcomer) == list(range(1, 9))
    assert deliveries == [Delivery(1)] * 8


@pytest.mark.parametrize("driver", ["stream", "reactor"])
async def test_websockets_are_in_rooms(driver, warm, nursery):
    """Attached they are members, and sent what is published, until they leave or close."""
    rooms = Rooms[str]()

    async def visit(ws):
        name = ws.request.target.removeprefix("/")
        with rooms.attach("lobby", ws, name), rooms.attach("hall", ws):
            async for message in ws:
                rooms.publish_nowait(message[:5].strip(), message)

    async def start(*, task_status):
        await triows.serve(visit, 0, driver=driver, task_status=task_status)

    with trio.fail_after(10):
        server = await nursery.start(start)
        url = f"ws://127.0.0.1:{server.port}/"
        async with rooms.watch("lobby") as presence:
            async with triows.open_websocket(url + "ann") as ann:
                assert await presence.receive() == Presence("lobby", "ann", True)
                async with triows.open_websocket(url + "bob") as bob:
                    assert await presence.receive() == Presence("lobby", "bob", True)
                    assert rooms.members("lobby") == ("ann", "bob")
                    assert len(rooms.members("hall")) == 2
                    for message in ("lobby hello", "hall  hello"):
                        await ann.send(message)
                        assert await ann.receive() == await bob.receive() == message
                assert await presence.receive() == Presence("lobby", "bob", False)
            assert await presence.receive() == Presence("lobby", "ann", False)
        assert len(rooms) == 0
        nursery.cancel_scope.cancel()


async def test_one_who_cannot_be_attached_has_not_joined(warm):
    """The room is not made for it."""
    rooms = Rooms[str]()
    async with memory_pair() as (client, _):
        pass
    with pytest.raises(trio.ClosedResourceError):
        rooms.attach("lobby", client)
    assert "lobby" not in rooms


async def test_a_member_that_cannot_be_hashed_has_not_joined(warm):
    """Neither is the room made for it, nor is its connection left attached."""
    rooms = Rooms[str]()
    async with memory_pair() as (client, _):
        with pytest.raises(TypeError, match="unhashable"):
            rooms.attach("lobby", client, member=["ann"])
        with pytest.raises(TypeError, match="unhashable"):
            async with rooms.join("lobby", ["ann"]):
                pass
        assert len(rooms) == 0


# Presence.


async def test_a_watcher_is_told_who_comes_and_goes():
    """After what `members` says first; a member that is there twice counts once."""
    rooms = Rooms[str]()
    async with (
        rooms.join("lobby", "ann"),
        rooms.watch("lobby") as lobby,
        rooms.watch() as everywhere,
    ):
        assert rooms.members("lobby") == ("ann",)
        async with rooms.join("lobby", "bob"), rooms.join("lobby", "bob"), rooms.join("x", "ann"):
            pass
        bob = [Presence("lobby", "bob", True), Presence("lobby", "bob", False)]
        assert drain(lobby) == bob
        in_x = [Presence("x", "ann", True), Presence("x", "ann", False)]
        assert drain(everywhere) == [bob[0], *in_x, bob[1]]


async def test_who_joins_without_a_name_is_the_membership():
    """So each is someone."""
    rooms = Rooms[str]()
    async with rooms.join("lobby") as one, rooms.join("lobby") as other:
        assert rooms.members("lobby") == (one, other)
        assert one.member is one


async def test_watchers_come_and_go_without_each_other():
    """One that is cancelled while another comes leaves that one watching."""
    rooms = Rooms[str]()

    async def give_up():
        with trio.CancelScope() as scope:
            scope.cancel()
            async with rooms.watch("lobby"):
                pytest.fail("entered")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        async with rooms.watch("lobby") as presence, rooms.join("lobby", "ann"):
            assert len(drain(presence)) == 1


async def test_a_slow_watcher_holds_up_no_one():
    """It is told that it has missed something."""
    rooms = Rooms[str]()
    async with rooms.watch("lobby", capacity=1) as presence:
        async with rooms.join("lobby", "ann"):
            pass
        assert drain(presence) == [[1], Presence("lobby", "ann", False)]


# Positions and brokers.


async def test_a_member_that_comes_back_goes_on_where_it_was():
    """Though the room was empty meanwhile, if the broker keeps its log."""
    rooms = Rooms[int](history=10, broker=LocalBroker(history=10, idle_rooms=1))
    async with rooms.join("numbers") as room:
        for item in range(3):
            room.publish_nowait(item)
        room.receive_nowait()
        position = room.position
    rooms.publish_nowait("numbers", 3)
    async with rooms.join("numbers", after=position) as room:
        assert drain(room) == [1, 2, 3]


async def test_a_log_that_is_kept_too_briefly_is_a_gap():
    """A position of a room's earlier life is told as such, with what there is."""
    rooms = Rooms[int](history=10, broker=LocalBroker(history=10, idle_rooms=1))
    async with rooms.join("numbers") as room:
        room.publish_nowait(0)
        position = room.position
    async with rooms.join("other"):
        pass
    async with rooms.join("numbers") as room:
        room.publish_nowait(1)
        assert room.position.epoch != position.epoch
        async with rooms.join("numbers", after=position) as back:
            assert drain(back) == [[1], 1]


async def test_rooms_that_share_a_broker_share_what_is_published():
    """In one order; a member that blocks in one holds up publishers to both."""
    broker = LocalBroker(history=3)
    here, there = Rooms[int](3, broker), Rooms[int](3, broker)
    async with here.join("room", capacity=1) as slow, trio.open_nursery() as nursery:
        assert slow.publish_nowait(0) == Delivery(delivered=1)
        async with there.join("room") as other:
            assert drain(other) == [0]
            assert len(here.members("room")) == 1
            with pytest.raises(trio.WouldBlock):
                there.publish_nowait("room", 1)
            nursery.start_soon(other.publish, 1)
            await trio.testing.wait_all_tasks_blocked()
            assert drain(slow) == [0]
            await trio.testing.wait_all_tasks_blocked()
            assert drain(slow) == drain(other) == [1]
        assert slow.publish_nowait(2) == Delivery(delivered=1)


@pytest.mark.parametrize("settings", [{"history": -1}, {"idle_rooms": -1}])
def test_a_broker_keeps_no_negative_numbers_of_things(settings):
    """The mistake is named."""
    with pytest.raises(ValueError, match="-1"):
        LocalBroker(**settings)


class Far:
    """A broker whose other side numbers what it is given, later, and may lose some of it."""

    def __init__(self):
        self.ends = {}
        self.published = []

    def open(self, room, end):
        """Begin behind seven items, of which one is kept."""
        self.ends[room] = end
        end.begin(Position("far", 7), ["before"])
        return self

    async def wait_ready(self):
        """Have begun already."""
        await trio.lowlevel.checkpoint()

    def close(self):
        """Forget the end."""
        self.ends.clear()

    def publish_nowait(self, room, item):
        """Take it, and say nothing."""
        self.published.append((room, item))
        return Delivery()

    async def publish(self, room, item):
        """As above."""
        await trio.lowlevel.checkpoint()
        return self.publish_nowait(room, item)


async def test_a_broker_of_ones_own_numbers_and_delivers():
    """What it skips its members are told; numbers and history are its own."""
    broker = Far()
    rooms = Rooms[str](history=2, broker=broker)
    async with rooms.join("room") as room:
        assert room.publish_nowait("mine") == await room.publish("too") == Delivery()
        assert broker.published == [("room", "mine"), ("room", "too")]
        end = broker.ends["room"]
        assert drain(room) == ["before"]
        end.skip(3)
        assert end.has_room("mine")
        await end.wait_for_room("mine")
        assert end.deliver("mine") == Delivery(delivered=1)
        assert drain(room) == [[3], "mine"]
        assert room.position == Position("far", 11)
    assert not broker.ends


async def test_a_position_is_of_the_numbering_that_its_item_came_under():
    """One that is behind when another numbering begins is so in the old one; others are not."""
    broker = Far()
    rooms = Rooms[str](history=3, broker=broker)
    async with rooms.join("room") as behind, rooms.join("room") as quick:
        end = broker.ends["room"]
        end.deliver("last of far")
        assert drain(quick) == ["before", "last of far"]
        assert behind.receive_nowait() == "before"
        end.begin(Position("near", 2), ["a", "b"])
        assert quick.position == Position("near", 2)
        assert behind.position == Position("far", 7)
        end.deliver("first of near")
        assert behind.receive_nowait() == "last of far"
        assert behind.position == Position("far", 8)
        assert drain(behind) == ["first of near"]
        assert behind.position == Position("near", 3)
        async with rooms.join("room", after=Position("near", 2)) as back:
            assert drain(back) == ["first of near"]
    assert (behind.position, quick.position) == (Position("near", 3), Position("near", 2))


async def test_one_who_has_had_more_elsewhere_is_not_given_it_again():
    """It comes from a process that is ahead of this one, which gets to its place in time."""
    broker = Far()
    rooms = Rooms[str](history=3, broker=broker)
    async with rooms.join("room", after=Position("far", 9)) as back:
        end = broker.ends["room"]
        assert back.position == Position("far", 9)
        for item in ("8", "9", "10"):
            end.deliver(item)
        assert back.position == Position("far", 9)
        assert drain(back) == ["10"]
        assert back.position == Position("far", 10)
        end.deliver("11")
        assert await back.receive() == "11"
    async with rooms.join("room", after=Position("far", 9)) as back, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def follow():
            assert await back.receive() == "10"

        await trio.testing.wait_all_tasks_blocked()
        for item in ("8", "9", "10"):
            broker.ends["room"].deliver(item)


def test_everything_says_what_it_is():
    """For whoever prints it."""
    assert repr(Rooms[str]()) == "<triows.Rooms, 0 rooms>"
    assert "ann" in repr(Presence("lobby", "ann", True))


async def test_a_membership_says_what_it_is():
    """And what it is of."""
    rooms = Rooms[str]()
    async with rooms.join("lobby", "ann") as room:
        assert repr(room) == "<triows.Membership of 'ann' in 'lobby'>"
        assert room.subscription.statistics().unread_items == 0
    assert isinstance(BroadcastChannel[str](), trio.abc.AsyncResource)


@pytest.mark.parametrize("is_full", [False, True])
async def test_what_cannot_be_sent_to_a_websocket_is_not_in_the_rooms_log(warm, is_full):
    """Half a character, say: who publishes it is told, and numbers go on as if it had not been."""
    broker = LocalBroker(history=1 if is_full else 5)
    rooms = Rooms(5, broker)
    async with memory_pair() as (_, ws), rooms.join("den") as member:
        rooms.attach("den", ws)
        await rooms.publish("den", "one")
        with pytest.raises(UnicodeEncodeError):
            await rooms.publish("den", "\ud800")
        async with Rooms(5, broker).join("den") as newcomer:
            assert drain(newcomer) == ["one"]
        await rooms.publish("den", "two")
        assert drain(member) == ["one", "two"]
        async with Rooms(5, broker).join("den", after=member.position) as newcomer:
            await rooms.publish("den", "three")
            assert drain(newcomer) == ["three"]


async def test_what_one_of_several_cannot_send_is_a_gap_there(warm):
    """The others have had it."""
    broker = LocalBroker()
    ours, theirs = Rooms(0, broker), Rooms(0, broker)
    async with ours.join("den") as member, memory_pair() as (client, ws):
        theirs.attach("den", ws, lagged=lambda count: f"lost {count}")
        assert await ours.publish("den", "\ud800") == Delivery(1)
        await ours.publish("den", "on")
        assert drain(member) == ["\ud800", "on"]
        assert [await client.receive() for _ in range(2)] == ["lost 1", "on"]
