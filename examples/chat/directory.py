"""Who is where, and what was said last: rooms, names and sessions.

Refuses to know how it is said; that is `chat.member`'s.
"""

import itertools
import secrets
import time
from collections import OrderedDict, deque
from typing import Final, Protocol

import attrs

import triows
from chat.protocol import RULES, Event, Refused, clean_name, encode

IDLE_ROOMS: Final = 100
"""Empty rooms whose history is kept, those left last."""


@attrs.define(eq=False)
class Room:
    """A room: what is said in it, and the signs of life around that."""

    name: str
    history: int
    log: str = attrs.field(factory=lambda: secrets.token_hex(4))
    """Names the numbering of its messages: a room that is made anew begins another one."""
    members: dict[str, None] = attrs.field(factory=dict)
    said: triows.BroadcastChannel[str] = attrs.field(init=False)
    signs: triows.BroadcastChannel[str] = attrs.field(factory=triows.BroadcastChannel)
    """Who comes, goes and types: nothing that one needs to be told later."""
    _ids: deque[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.said = triows.BroadcastChannel(self.history)
        self._ids = deque(maxlen=self.history + 1)

    def say(self, nick: str, text: str, message_id: str | None) -> None:
        """Publish a message, unless it was published before."""
        if message_id in self._ids:
            return
        event: Event = {
            "type": "message",
            "room": self.name,
            "log": self.log,
            "seq": self.said.number + 1,
            "time": round(time.time(), 3),
            "nick": nick,
            "text": text,
        }
        if message_id is not None:
            self._ids.append(message_id)
            event["id"] = message_id
        self.said.publish_nowait(encode(event))

    def sign(self, kind: str, **fields: str) -> None:
        """Publish what is true for the moment."""
        self.signs.publish_nowait(encode({"type": kind, "room": self.name, **fields}))


class Member(Protocol):
    """Someone who is here, as far as the directory cares."""

    nick: str
    session: str

    async def send_away(self) -> None:
        """End this connection, as there is another one of the same session; wait for that."""


class Directory:
    """The chat's memory, which all its members share.

    Args:
        history: messages of each room that newcomers are given, 0 or more.
        max_clients: members at once, 1 or more.
    """

    def __init__(self, history: int = 200, max_clients: int = 10_000) -> None:
        self._history = history
        self._max_clients = max_clients
        self._members: dict[str, Member] = {}  # by name, as names are compared
        self._sessions: dict[str, Member] = {}
        self._rooms: dict[str, Room] = {}
        self._idle: OrderedDict[str, Room] = OrderedDict()
        self._numbers = itertools.count(1)

    @property
    def is_full(self) -> bool:
        """Whether there is no place for another member."""
        return len(self._members) >= self._max_clients

    def say_goodbye(self) -> None:
        """Tell everyone that the chat is about to go."""
        for room in self._rooms.values():
            room.sign("bye", text="The server is shutting down.")

    # Names and sessions.

    def who_has(self, session: str | None) -> Member | None:
        """Return who is here with a session."""
        return self._sessions.get(session or "")

    def enter(self, member: Member, wanted: str | None, session: str | None) -> None:
        """Give a newcomer the name that it wants, or one like it, and a session.

        Args:
            member: who comes.
            wanted: the name.
            session: one that goes on; None for a new one.

        Raises:
            Refused: the name is none.
        """
        base = "guest" if wanted is None else clean_name(wanted, RULES.nick)
        nick = self._numbered(base) if wanted is None else base
        while nick.casefold() in self._members:
            nick = self._numbered(base)
        member.nick = nick
        member.session = session or secrets.token_urlsafe(12)
        self._members[nick.casefold()] = self._sessions[member.session] = member

    def _numbered(self, name: str) -> str:
        return f"{name[: RULES.nick - 7]}-{next(self._numbers)}"

    def depart(self, member: Member) -> None:
        """Forget a member; harmless twice."""
        for index, key in (
            (self._members, member.nick.casefold()),
            (self._sessions, member.session),
        ):
            if index.get(key) is member:
                del index[key]

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
        """Return a room, made if there is none of that name.

        Raises:
            Refused: the name is none.
        """
        key = clean_name(name, RULES.room).casefold()
        if key in self._idle:
            self._rooms[key] = self._idle.pop(key)
        elif key not in self._rooms:
            self._rooms[key] = Room(key, self._history)
        return self._rooms[key]

    def put_aside(self, room: Room) -> None:
        """Keep a room that no one is in any more for a while: its history."""
        self._idle[room.name] = self._rooms.pop(room.name)
        if len(self._idle) > IDLE_ROOMS:
            self._idle.popitem(last=False)
