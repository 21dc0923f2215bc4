"""The chat broker's protocol: programs and people who talk, in memory and in virtual time."""

import json
import logging
import random
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import triows
from chat import SUBPROTOCOL, Directory, serve_member
from chat.directory import IDLE_ROOMS
from chat.pace import Pace
from chat.protocol import FIELDS, RULES, Refused, clean_name, clean_text, decode, read_line
from chat.records import JSONLines
from triows.testing import memory_pair

ROOT = Path(__file__).parents[2]
NOISE = random.Random(7692).randbytes(500).hex()  # 1,000 characters; on a wire, half as many


class Program:
    """A client that speaks the protocol."""

    def __init__(self, ws: triows.WebSocket) -> None:
        self.ws = ws
        self.nick = ""

    async def send(self, kind: str, **fields: Any) -> None:
        """Send an event."""
        await self.ws.send(json.dumps({"type": kind, **fields}))

    async def hear(self, *kinds: str) -> dict[str, Any]:
        """Return the next event of these kinds, leaving out others."""
        with trio.fail_after(5):
            while True:
                event = json.loads(await self.ws.receive())
                if event["type"] in kinds:
                    return event

    async def hear_all(self) -> list[dict[str, Any]]:
        """Return what has come once nothing more comes."""
        await trio.sleep(0.1)
        events = []
        while True:
            try:
                events.append(json.loads(self.ws.receive_nowait()))
            except trio.WouldBlock:
                return events

    async def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send an event and return the error that it gets."""
        await self.send(kind, **fields)
        return await self.hear("error")

    async def join(self, room: str, **place: Any) -> dict[str, Any]:
        """Join a room."""
        await self.send("join", room=room, **place)
        return await self.hear("joined")


@pytest.fixture
def directory() -> Directory:
    """An empty chat."""
    return Directory(history=5, max_clients=10)


@asynccontextmanager
async def connected(
    directory: Directory, *, plain: bool = False
) -> AsyncIterator[triows.WebSocket]:
    """Connect a client in memory."""
    protocols = () if plain else (SUBPROTOCOL,)
    handler = partial(serve_member, directory)
    async with memory_pair(handler=handler, subprotocols=protocols) as (client, _):
        yield client


@asynccontextmanager
async def present(
    directory: Directory, nick: str, *rooms: str, **hello: Any
) -> AsyncIterator[Program]:
    """Connect a program that has said hello and joined rooms."""
    async with connected(directory) as ws:
        program = Program(ws)
        await program.send("hello", nick=nick, **hello)
        program.nick = (await program.hear("welcome"))["nick"]
        for room in rooms:
            await program.join(room)
        await program.hear_all()
        yield program


# Talking.


async def test_two_members_of_a_room_hear_each_other(directory, autojump_clock):
    """A message reaches everyone in the room, its author too, and no one elsewhere."""
    async with (
        present(directory, "ann", "lobby") as ann,
        present(directory, "bob", "lobby") as bob,
        present(directory, "eve", "garden") as eve,
    ):
        await ann.send("say", room="lobby", text="  hello \n there\x00 ", id="x1")
        for program in (ann, bob):
            message = await program.hear("message")
            assert {**message, "time": 0, "log": ""} == {
                "type": "message", "room": "lobby", "log": "", "seq": 1, "time": 0,
                "nick": "ann", "text": "hello \n there", "id": "x1",
            }  # fmt: skip
        assert await eve.hear_all() == []


async def test_presence(directory, autojump_clock):
    """Who comes, changes its name and leaves is told to who is there, and is listed."""
    async with present(directory, "ann", "lobby") as ann:
        async with present(directory, "bob") as bob:
            assert (await bob.join("lobby"))["members"] == ["ann", "bob"]
            assert (await ann.hear("presence"))["event"] == "joined"
            await bob.send("nick", nick="rob")
            assert (await bob.hear("nick"))["nick"] == "rob"
            renamed = await ann.hear("presence")
            assert (renamed["event"], renamed["was"], renamed["nick"]) == ("renamed", "bob", "rob")
            await ann.send("who", room="lobby")
            assert (await ann.hear("members"))["members"] == ["ann", "rob"]
        left = await ann.hear("presence")
        assert (left["event"], left["nick"]) == ("left", "rob")
        await ann.send("who", room="lobby")
        assert (await ann.hear("members"))["members"] == ["ann"]


async def test_typing_is_told_and_not_kept(directory, autojump_clock):
    """Others are told who types; who comes later is not."""
    async with present(directory, "ann", "lobby") as ann:
        async with present(directory, "bob", "lobby") as bob:
            await ann.send("typing", room="lobby")
            assert (await bob.hear("typing"))["nick"] == "ann"
        async with connected(directory) as ws:
            eve = Program(ws)
            await eve.send("hello")
            await eve.join("lobby")
            assert "typing" not in [event["type"] for event in await eve.hear_all()]


async def test_leaving_a_room(directory, autojump_clock):
    """Who leaves a room hears nothing of it any more and cannot speak there."""
    async with (
        present(directory, "ann", "lobby") as ann,
        present(directory, "bob", "lobby") as bob,
    ):
        await bob.send("leave", room="lobby")
        assert (await bob.hear("left"))["room"] == "lobby"
        assert (await ann.hear("presence"))["event"] == "joined"
        assert (await ann.hear("presence"))["event"] == "left"
        await ann.send("say", room="lobby", text="alone")
        assert await bob.hear_all() == []
        assert (await bob.ask("say", room="lobby", text="hm", id="1"))["code"] == "room"


# Names and sessions.


@pytest.mark.parametrize("wanted", ["ann", "ANN", "  \uff21nn "])
async def test_a_name_that_is_taken(directory, autojump_clock, wanted):
    """A newcomer whose name is taken gets one like it; it is the same in any spelling."""
    async with present(directory, "ann"), present(directory, wanted) as other:
        assert re.fullmatch(r"ann-\d+", other.nick, re.IGNORECASE)
        assert (await other.ask("nick", nick=wanted))["code"] == "taken"


async def test_a_name_is_free_again(directory, autojump_clock):
    """A name is free as soon as its bearer has left or taken another one."""
    async with present(directory, "ann") as ann:
        await ann.send("nick", nick="Anna")
        await ann.hear("nick")
        async with present(directory, "ann") as other:
            assert other.nick == "ann"
    async with present(directory, "anna") as other:
        assert other.nick == "anna"


async def test_a_session_goes_on_over_another_connection(directory, autojump_clock):
    """Who comes back with its session gets its name, and the old connection is closed: 4001."""
    async with connected(directory) as old:
        before = Program(old)
        await before.send("hello", nick="ann")
        session = (await before.hear("welcome"))["session"]
        await before.join("lobby")
        async with present(directory, "ann", "lobby", session=session) as now:
            assert now.nick == "ann"
            with pytest.raises(triows.ConnectionBroken) as caught:
                await before.hear("nothing")
            assert caught.value.code == 4001
            await now.send("who", room="lobby")
            assert (await now.hear("members"))["members"] == ["ann"]


async def test_someone_elses_session_cannot_be_guessed(directory, autojump_clock):
    """A session that does not exist is replaced by a new one."""
    async with connected(directory) as ws:
        program = Program(ws)
        await program.send("hello", nick="ann", session="")
        welcome = await program.hear("welcome")
        assert len(welcome["session"]) >= 16


# History.


async def test_history(directory, autojump_clock):
    """A newcomer is given the last messages, in order, then those that follow."""
    async with present(directory, "ann", "lobby") as ann:
        for number in range(7):
            await ann.send("say", room="lobby", text=str(number))
        async with present(directory, "bob") as bob:
            await bob.join("lobby")
            await ann.send("say", room="lobby", text="7")
            messages = [event for event in await bob.hear_all() if event["type"] == "message"]
    assert [message["text"] for message in messages] == ["2", "3", "4", "5", "6", "7"]
    assert [message["seq"] for message in messages] == [3, 4, 5, 6, 7, 8]


async def test_resuming(directory, autojump_clock):
    """Who comes back is given what it has missed, and nothing twice."""
    async with present(directory, "ann", "lobby") as ann:
        async with present(directory, "bob", "lobby") as bob:
            await ann.send("say", room="lobby", text="one")
            last = await bob.hear("message")
        await ann.send("say", room="lobby", text="two")
        await ann.send("say", room="lobby", text="three")
        async with present(directory, "bob") as bob:
            await bob.join("lobby", log=last["log"], after=last["seq"])
            await ann.send("say", room="lobby", text="four")
            events = await bob.hear_all()
    texts = [event["text"] for event in events if event["type"] == "message"]
    assert texts == ["two", "three", "four"]


@pytest.mark.parametrize("place", [{"log": "other", "after": 1}, {"after": 1}, {"log": "?"},
                                   {"after": 10**30}, {"after": -1}])  # fmt: skip
async def test_resuming_what_is_not_known_gives_all(directory, autojump_clock, place):
    """A place in another numbering, or in none, gives the whole history."""
    async with present(directory, "ann", "lobby") as ann:
        await ann.send("say", room="lobby", text="one")
        log = (await ann.hear("message"))["log"]
        if place.get("log") != "other" and "after" in place and place["after"] != 1:
            place = {**place, "log": log}
        async with present(directory, "bob") as bob:
            await bob.join("lobby", **place)
            assert [e["text"] for e in await bob.hear_all() if e["type"] == "message"] == ["one"]


async def test_what_is_sent_twice_is_said_once(directory, autojump_clock):
    """A message with an id that the room has had is not said again."""
    async with present(directory, "ann", "lobby") as ann:
        for text, name in (("one", "a"), ("one", "a"), ("two", "b"), ("one", "a")):
            await ann.send("say", room="lobby", text=text, id=name)
        heard = [event["text"] for event in await ann.hear_all() if event["type"] == "message"]
    assert heard == ["one", "two"]


async def test_the_history_of_an_empty_room_is_kept(directory, autojump_clock):
    """When everyone has left, what was said can still be read, in the same numbering."""
    async with present(directory, "ann", "lobby") as ann:
        await ann.send("say", room="lobby", text="one")
        first = await ann.hear("message")
    async with connected(directory) as ws:
        bob = Program(ws)
        await bob.send("hello")
        assert (await bob.join("lobby"))["log"] == first["log"]
        assert await bob.hear("message") == first


async def test_empty_rooms_are_bounded(directory, autojump_clock):
    """Of the rooms that everyone has left, only those left last are remembered."""
    async with present(directory, "ann") as ann:
        logs = {}
        for number in range(IDLE_ROOMS + 1):
            await trio.sleep(1)
            logs[number] = (await ann.join(f"room {number}"))["log"]
            await ann.send("leave", room=f"room {number}")
            await ann.hear("left")
        await trio.sleep(10)
        assert (await ann.join("room 1"))["log"] == logs[1]
        assert (await ann.join("room 0"))["log"] != logs[0]


# Limits.


async def test_a_flood_is_slowed_down_and_nothing_of_it_is_lost(directory, autojump_clock):
    """Who sends too fast is told so once, and read at the rate that is allowed."""
    async with (
        present(directory, "ann", "lobby") as ann,
        present(directory, "bob", "lobby") as bob,
    ):
        await trio.sleep(60)
        started = trio.current_time()
        for number in range(100):
            await ann.send("say", room="lobby", text=str(number))
        with trio.fail_after(60):
            for number in range(100):
                assert json.loads(await bob.ws.receive())["text"] == str(number)
        took = trio.current_time() - started
        assert took == pytest.approx((100 - RULES.burst) / RULES.rate, abs=0.3)
        assert [e["code"] for e in await ann.hear_all() if e["type"] == "error"] == ["rate"]


async def test_pace(autojump_clock):
    """A burst is free, then comes the rate; a rest earns no more than a burst."""
    pace = Pace(rate=2, burst=3)
    times = []
    for _ in range(5):
        await pace.keep()
        times.append(trio.current_time())
    assert times == [0, 0, 0, 0.5, 1]
    await trio.sleep(100)
    waits = [await pace.keep() for _ in range(5)]
    assert waits == [False, False, False, True, False]
    assert trio.current_time() == 102


async def test_members_are_bounded(directory, autojump_clock):
    """One more than there may be is told to come later, in words and with 1013."""
    async with AsyncExitStack() as stack:
        for number in range(10):
            await stack.enter_async_context(present(directory, f"guest {number}"))
        async with connected(directory) as ws:
            with pytest.raises(triows.ConnectionBroken) as caught:
                await ws.receive()
    assert caught.value.code == 1013
    assert "full" in caught.value.reason


async def test_rooms_of_a_member_are_bounded(directory, autojump_clock):
    """A member may be in so many rooms, and be there once."""
    async with present(directory, "ann") as ann:
        for number in range(RULES.rooms):
            await trio.sleep(1)
            await ann.join(f"room {number}")
        await trio.sleep(10)
        assert (await ann.ask("join", room="one more"))["code"] == "room"
        await ann.send("leave", room="room 0")
        await ann.hear("left")
        assert (await ann.ask("join", room="ROOM 1"))["code"] == "room"
        assert (await ann.join("one more"))["room"] == "one more"


@pytest.mark.parametrize(
    "message",
    [
        "", "null", "[]", "1", '"hello"', "{}", '{"type": []}', '{"type": "welcome"}', "[" * 5000,
        '{"type": "join"}', '{"type": "join", "room": 1}', '{"type": "say", "room": "lobby"}',
        '{"type": "join", "room": "x", "after": true}',
        '{"type": "join", "room": "x", "after": 1e3}',
        '{"type": "say", "room": "lobby", "text": "x", "id": "\\ud800"}',
        '{"type": "say", "room": "lobby", "text": "x", "id": "%s"}' % ("x" * 65),
        b"\xff\xfe", '{"type": "hello"}',
    ],
)  # fmt: skip
async def test_what_is_malformed_is_refused(directory, autojump_clock, message):
    """Nonsense gets an error and changes nothing."""
    async with present(directory, "ann", "lobby") as ann:
        await ann.ws.send(message)
        assert (await ann.hear("error"))["code"] in {"malformed", "hello"}
        await ann.send("say", room="lobby", text="still here")
        assert (await ann.hear("message"))["text"] == "still here"


async def test_hello_comes_first(directory, autojump_clock):
    """Nothing else can be done before it."""
    async with connected(directory) as ws:
        program = Program(ws)
        assert (await program.ask("join", room="lobby"))["code"] == "hello"


async def test_who_does_not_say_hello_is_let_go(directory, autojump_clock):
    """After ten seconds, with 1008; who has said it may be silent for as long as it likes."""
    async with connected(directory) as silent, present(directory, "ann", "lobby") as ann:
        with pytest.raises(triows.ConnectionBroken) as caught:
            await silent.receive()
        assert caught.value.code == 1008
        assert trio.current_time() == pytest.approx(RULES.hello, abs=1)
        await trio.sleep(1_000)
        await ann.send("say", room="lobby", text="still here")
        assert (await ann.hear("message"))["text"] == "still here"


@pytest.mark.parametrize("name", ["", "  ", "x" * 25, "a\nb", "a\u202eb", "a\u200bb", "\ud800"])
def test_names_that_are_refused(name):
    """Names are short and visible."""
    if name == "a\nb":
        assert clean_name(name, 24) == "a b"
        return
    with pytest.raises(Refused):
        clean_name(name, 24)


def test_texts():
    """Control characters and halves of characters go, and what remains has a length."""
    assert clean_text("\x1b[31mred\x07\ud800 \t\n ok ") == "[31mred \t\n ok"
    assert clean_text("😀" * RULES.text)
    for text in ("", " \n", "\x00", "x" * (RULES.text + 1)):
        with pytest.raises(Refused):
            clean_text(text)


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("hello", {"type": "say", "room": "here", "text": "hello"}),
        ("//hello", {"type": "say", "room": "here", "text": "/hello"}),
        ("/nick  Ann B ", {"type": "nick", "nick": "Ann B"}),
        ("/join #garden", {"type": "join", "room": "garden"}),
        ("/who", {"type": "who", "room": "here"}),
        ("/who garden", {"type": "who", "room": "garden"}),
        ("/leave", {"type": "leave", "room": "here"}),
    ],
)
def test_lines(line, event):
    """What people type becomes what programs send."""
    assert read_line(line, "here") == event


@pytest.mark.parametrize("line", ["/", "/nonsense", "/nick", "/join  "])
def test_lines_that_are_no_command(line):
    """Mistakes are told."""
    with pytest.raises(Refused):
        read_line(line, "here")


async def test_commands_of_programs(directory, autojump_clock):
    """A program may have what its user typed read by the server."""
    async with present(directory, "ann", "lobby") as ann:
        await ann.send("command", text="/help")
        assert "/join" in (await ann.hear("notice"))["text"]
        await ann.send("command", text="/join garden")
        assert (await ann.hear("joined"))["room"] == "garden"
        assert (await ann.ask("command", text="/who"))["code"] == "room"
        await ann.send("command", room="garden", text="/who")
        assert (await ann.hear("members"))["members"] == ["ann"]


def test_the_reference_has_every_event():
    """docs/reference/chat-protocol.md describes each event of a client, with its fields."""
    page = (ROOT / "docs/reference/chat-protocol.md").read_text()
    for kind, fields in FIELDS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{kind}` |"))
        for field in fields:
            assert f"`{field}`" in row, (kind, field)


def test_unknown_fields_are_left_out():
    """What has no meaning goes no further."""
    assert decode('{"type": "who", "room": "x", "nick": "y"}') == {"type": "who", "room": "x"}


# People at a terminal.


async def lines_of(ws: triows.WebSocket) -> list[str]:
    """Return the lines that have come once nothing more comes."""
    await trio.sleep(0.1)
    lines = []
    while True:
        try:
            lines += ws.receive_nowait().splitlines()
        except trio.WouldBlock:
            return lines


async def test_a_person_at_a_terminal(directory, autojump_clock):
    """Without the subprotocol lines are typed and read; both kinds talk to each other."""
    async with present(directory, "ann", "lobby") as ann, connected(directory, plain=True) as ws:
        welcome, joined, *_ = await lines_of(ws)
        assert re.fullmatch(r"\* you are guest-\d+; /help lists what you can do", welcome)
        assert re.fullmatch(r"\* you are in lobby: ann, guest-\d+", joined)
        await ws.send("/nick bob")
        await ws.send("hello")
        said = await ann.hear("message")
        assert (said["nick"], said["text"]) == ("bob", "hello")
        await ann.send("say", room="lobby", text="hi\nbob")
        lines = await lines_of(ws)
        assert "* you are bob now" in lines
        assert any(re.fullmatch(r"\* bob was guest-\d+ before", line) for line in lines)
        assert any(re.fullmatch(r"\[\d\d:\d\d\] bob: hello", line) for line in lines)
        assert re.fullmatch(r"\[\d\d:\d\d\] ann: hi", lines[-2])
        assert lines[-1] == "    bob"


async def test_a_person_goes_to_another_room(directory, autojump_clock):
    """/join takes a person out of one room and into another; /who and /help are answered."""
    async with connected(directory, plain=True) as ws, present(directory, "ann", "lobby") as ann:
        await lines_of(ws)
        await ws.send("/join garden")
        lines = await lines_of(ws)
        assert any(line.startswith("* you are in garden: guest-") for line in lines)
        assert "ann" not in " ".join(lines)
        await ann.send("who", room="lobby")
        assert (await ann.hear("members"))["members"] == ["ann"]
        await ws.send("/who")
        assert (await lines_of(ws))[0].startswith("* in garden: guest-")
        await ws.send("/help")
        assert "* /help         this" in await lines_of(ws)
        await ws.send("/nonsense")
        assert await lines_of(ws) == ["* there is no /nonsense; /help lists what there is"]
        await ws.send("/leave")
        await ws.send("to no one")
        assert "* join a room first" in await lines_of(ws)
        await ws.send("/join lobby")
        assert any("in lobby" in line for line in await lines_of(ws))


async def test_a_person_is_shown_the_history(directory, autojump_clock):
    """The last messages are shown to who comes."""
    async with present(directory, "ann", "lobby") as ann:
        await ann.send("say", room="lobby", text="before")
        async with connected(directory, plain=True) as ws:
            assert any(line.endswith("ann: before") for line in await lines_of(ws))


# Those who do not read.


def flood(directory: Directory, count: int) -> None:
    """Have so many messages of 1,000 characters said at once."""
    for number in range(count):
        directory.room("lobby").say("ann", f"{number} {NOISE}", None)


async def read_to_the_end(program: Program) -> list[dict[str, Any]]:
    """Return the messages that come until the connection ends."""
    messages = []
    with suppress(triows.ConnectionBroken):
        while True:
            messages.append(await program.hear("message"))
    return messages


async def test_a_program_that_does_not_read_is_let_go_and_loses_nothing(autojump_clock):
    """It is closed with 1013; back again, it gets what it missed, from where it was."""
    directory = Directory(history=10)
    async with present(directory, "bob", "lobby") as bob:
        flood(directory, 450)
        messages = await read_to_the_end(bob)
        assert bob.ws.close_reason.code == 1013
        assert 0 < len(messages) < 200
    async with present(directory, "bob") as bob:
        await bob.join("lobby", log=messages[-1]["log"], after=messages[-1]["seq"])
        while len(messages) < 450:
            messages.append(await bob.hear("message"))
    assert [int(message["text"].split()[0]) for message in messages] == list(range(450))


async def test_a_person_who_does_not_read_misses_lines_and_is_told(directory, autojump_clock):
    """The oldest lines are left out, and in their place it says how many."""
    async with connected(directory, plain=True) as ws:
        await lines_of(ws)
        flood(directory, 1_000)
        lines = [""]
        while " 999 " not in lines[-1]:
            lines += (await ws.receive()).splitlines()
        numbers = [int(line.split()[2]) for line in lines if "ann: " in line]
        left_out = [int(line.split()[1]) for line in lines if "left out" in line]
        assert numbers == sorted(set(numbers))
        assert len(numbers) + sum(left_out) == 1_000
        assert left_out


async def test_those_who_do_not_read_hold_no_one_up(autojump_clock):
    """Others hear everything at once, while one of each kind reads nothing."""
    directory = Directory()
    async with (
        present(directory, "deaf", "lobby"),
        connected(directory, plain=True),
        present(directory, "ann", "lobby") as ann,
        present(directory, "bob", "lobby") as bob,
    ):
        for number in range(1_000):
            directory.room("lobby").say("ann", f"{number} {NOISE}", None)
            for program in (ann, bob):
                assert (await program.hear("message"))["text"].startswith(f"{number} ")
        assert trio.current_time() < 1


# The end, and the log.


async def test_goodbye(directory, autojump_clock):
    """Everyone is told that the server goes."""
    async with present(directory, "ann", "lobby") as ann, connected(directory, plain=True) as ws:
        await lines_of(ws)
        directory.say_goodbye()
        assert "shutting down" in (await ann.hear("bye"))["text"]
        assert "* The server is shutting down." in await lines_of(ws)


async def test_nothing_is_left_behind(directory, autojump_clock):
    """When everyone has gone, however, the chat holds no one."""
    async with AsyncExitStack() as stack:
        for number in range(5):
            await stack.enter_async_context(present(directory, f"x{number}", "lobby", "garden"))
        await stack.enter_async_context(connected(directory, plain=True))
        await trio.sleep(1)
    await trio.sleep(1)
    assert not directory.is_full
    assert directory._members == directory._sessions == directory._rooms == {}


async def test_the_log_is_structured(directory, autojump_clock, caplog):
    """Who comes and goes is logged, as JSON that a hostile name cannot break out of."""
    caplog.set_level(logging.INFO, "chat")
    async with present(directory, '"}{"'):
        pass
    await trio.sleep(1)
    came, left = [json.loads(JSONLines().format(record)) for record in caplog.records]
    assert (came["event"], came["nick"], came["level"]) == ("came", '"}{"', "info")
    assert left["event"] == "left"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", came["time"])
