"""Who is where, and what was said last: rooms, names and sessions.

Refuses to know how it is said; that is `chat.member`'s.
"""

import itertools
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

import attrs

import triows
from chat.forms import FORMS, PROGRAM, Form
from chat.protocol import RULES, Event, Refused, clean_name

if TYPE_CHECKING:
    from chat.machines import Machines

PATIENCE: Final = 200
"""Messages that may wait for a member that does not read them."""

SPARE: Final = 2 * PATIENCE
"""Messages that a room remembers beyond those that newcomers are shown: who is let go for being
slow, or has lost its connection, is that far behind when it comes back, and misses nothing."""

MOST_ROOMS: Final = 1_000
"""Rooms at a time, and so many times what a room remembers is what all of them hold."""

IDLE_ROOMS: Final = 100
"""Empty rooms whose history is kept, those left last."""


@attrs.define(eq=False)
class Room:
    """A room: who is in it, what is said in it, and the signs of life around that.

    It has a pair of channels for each form in which members are spoken to: what is published
    is written once for all of them, and no task carries it.
    """

    name: str
    history: int
    machines: "Machines | None" = None
    """By which what is said goes round, and comes back numbered; without, it is numbered here."""
    log: str = attrs.field(factory=lambda: secrets.token_hex(4))
    """Names the numbering of its messages: a room that is made anew begins another one."""
    members: dict[str, None] = attrs.field(factory=dict)
    awaited: int = 0
    """How many are about to come in."""
    is_over: bool = False
    """Whether nothing but its end is worth telling any more."""
    said: dict[Form, triows.BroadcastChannel[str]] = attrs.field(init=False)
    signs: dict[Form, triows.BroadcastChannel[str]] = attrs.field(init=False)
    _ids: deque[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.said = {form: triows.BroadcastChannel(self.history + SPARE) for form in FORMS}
        self.signs = {form: triows.BroadcastChannel() for form in FORMS}
        self._ids = deque(maxlen=self.history + SPARE)

    @property
    def number(self) -> int:
        """The number of the message that was said last; 0 for none."""
        return self.said[PROGRAM].number

    def say(self, nick: str, text: str, message_id: str | None) -> None:
        """Publish a message, unless it was published before.

        Raises:
            Refused: there is too much to say.
        """
        if message_id in self._ids:
            return
        event: Event = {"time": round(time.time(), 3), "nick": nick, "text": text}
        if message_id is not None:
            event["id"] = message_id
        if self.machines is None:
            self.take(event)
        else:
            self.machines.say(self, event)

    def sign(self, kind: str, **fields: str) -> None:
        """Publish what is true for the moment."""
        event = {"type": kind, "room": self.name, **fields}
        if self.machines is None:
            self.show(event)
        else:
            self.machines.sign(self, event)

    def end(self, text: str) -> None:
        """Publish what is the end here, and nothing that is true for the moment any more."""
        self.show({"type": "bye", "room": self.name, "text": text})
        self.is_over = True

    # What goes to the members: from here, or from all machines in one order.

    def begin(self, log: str, number: int, events: Sequence[Event]) -> None:
        """See `chat.machines.Room`."""
        self.log = log
        first = number - len(events) + 1
        numbered = [self._number(event, seq) for seq, event in enumerate(events, first)]
        for form, channel in self.said.items():
            channel.begin(number, [form.write(event) or "" for event in numbered], log)

    def take(self, event: Event) -> None:
        """See `chat.machines.Room`."""
        _publish(self._number(event, self.number + 1), self.said)

    def skip(self, count: int) -> None:
        """See `chat.machines.Room`."""
        for channel in self.said.values():
            channel.skip(count)

    def show(self, event: Event) -> None:
        """See `chat.machines.Room`."""
        if not self.is_over:
            _publish(event, self.signs)

    def _number(self, event: Event, seq: int) -> Event:
        if "id" in event:
            self._ids.append(event["id"])
        return {"type": "message", "room": self.name, "log": self.log, "seq": seq, **event}


def _publish(event: Event, channels: dict[Form, triows.BroadcastChannel[str]]) -> None:
    for form, channel in channels.items():
        text = form.write(event)
        if text is not None:
            channel.publish_nowait(text)


class Member(Protocol):
    """Someone who is here, as far as the directory cares."""

    nick: str
    session: str

    def send_away(self) -> None:
        """Leave everything, and then the connection: there is another one of the same session."""


class Directory:
    """The chat's memory, which all its members share.

    Args:
        history: messages of each room that newcomers are given, 0 or more.
        max_clients: connections at once, 1 or more.
        machines: the others that this one is to be one chat with.

    Attributes:
        clients: connections now.
    """

    def __init__(
        self,
        history: int = 200,
        max_clients: int = 10_000,
        machines: "Machines | None" = None,
    ) -> None:
        self._history = history
        self._machines = machines
        self._max_clients = max_clients
        self.clients = 0
        self._members: dict[str, Member] = {}  # by name, as names are compared
        self._sessions: dict[str, Member] = {}
        self._rooms: dict[str, Room] = {}
        self._idle: OrderedDict[str, Room] = OrderedDict()
        self._numbers = itertools.count(1)

    @property
    def is_full(self) -> bool:
        """Whether there is no place for another client."""
        return self.clients >= self._max_clients

    def say_goodbye(self) -> None:
        """Tell everyone that the chat is about to go, and no more who leaves because of that."""
        for room in self._rooms.values():
            room.end("The server is shutting down.")

    # Names and sessions.

    def enter(self, member: Member, wanted: str | None, session: str | None) -> None:
        """Give a newcomer the name that it wants, or one like it, and a session.

        Who had the session is sent away: it is the same person, over a new connection.

        Raises:
            Refused: the name is none.
        """
        base = "guest" if wanted is None else clean_name(wanted, RULES.nick)
        before = self._sessions.get(session or "")
        if before is not None:
            before.send_away()
        nick = self._numbered(base) if wanted is None else base
        while nick.casefold() in self._members:
            nick = self._numbered(base)
        member.nick = nick
        member.session = secrets.token_urlsafe(12) if before is None else before.session
        self._members[nick.casefold()] = self._sessions[member.session] = member

    def _numbered(self, name: str) -> str:
        return f"{name[: RULES.nick - 7]}-{next(self._numbers)}"

    def depart(self, member: Member) -> bool:
        """Forget a member; returns whether it was known."""
        if self._sessions.get(member.session) is not member:
            return False
        del self._sessions[member.session], self._members[member.nick.casefold()]
        return True

    def rename(self, member: Member, wanted: str) -> str:
        """Give a member another name; returns the one that it had.

        Raises:
            Refused: the name is none, or someone else's.
        """
        nick, was = clean_name(wanted, RULES.nick), member.nick
        if self._members.get(nick.casefold(), member) is not member:
            raise Refused("taken", f"someone else is called {nick}")
        del self._members[was.casefold()]
        self._members[nick.casefold()] = member
        member.nick = nick
        return was

    # Rooms.

    def room(self, name: str) -> Room:
        """Return a room; where there is none of that name, what would be one.

        Raises:
            Refused: the name is none, or there are rooms enough.
        """
        key = clean_name(name, RULES.room).casefold()
        for known in (self._rooms, self._idle):
            if key in known:
                return known[key]
        if len(self._rooms) >= MOST_ROOMS:
            raise Refused("room", "there are rooms enough; join one of them")
        return Room(key, self._history, self._machines)

    def take_up(self, room: Room) -> None:
        """Have a room that someone comes into."""
        self._idle.pop(room.name, None)
        self._rooms[room.name] = room

    def put_aside(self, room: Room) -> None:
        """Keep a room for a while, if no one is in it any more: its history."""
        if room.members or room.awaited or self._rooms.get(room.name) is not room:
            return
        del self._rooms[room.name]
        if self._machines is not None:
            self._machines.part(room)  # which have its history
            return
        self._idle[room.name] = room
        if len(self._idle) > IDLE_ROOMS:
            self._idle.popitem(last=False)

    async def meet(self, room: Room) -> list[str]:
        """Get a room ready to be come into; returns who is in it elsewhere."""
        if self._machines is None:
            return []
        self.take_up(room)
        room.awaited += 1
        try:
            return await self._machines.meet(room)
        finally:
            room.awaited -= 1

    async def everyone_in(self, room: Room) -> list[str]:
        """Return who is in a room, here and elsewhere."""
        others = [] if self._machines is None else await self._machines.members(room)
        return list(dict.fromkeys([*room.members, *others]))

    def list_in(self, room: Room, nick: str) -> None:
        """List someone as being in a room."""
        room.members[nick] = None
        if self._machines is not None:
            self._machines.announce(room, nick)

    def unlist_in(self, room: Room, nick: str) -> None:
        """Do so no more."""
        del room.members[nick]
        if self._machines is not None:
            self._machines.withdraw(room, nick)
