"""One connection: what it says is done, and what its rooms say is sent to it."""

import json
import logging
from typing import Final

import attrs
import trio

import triows
from chat.directory import Directory, Room
from chat.lines import render
from chat.pace import Pace
from chat.protocol import RULES, SUBPROTOCOL, Event, Refused, clean_text, decode, encode, read_line

REPLACED: Final = 4001
"""The close code for a connection whose session goes on over another one."""
BACKLOG: Final = triows.Capacity(items=1_000, octets=2**18)
"""What may wait for a member; one that lags further behind is closed, and may come back."""
FIRST_LINES: Final = 20
"""Messages of a room's history that a person at a terminal is shown."""

log = logging.getLogger("chat")


async def serve_member(directory: Directory, ws: triows.WebSocket) -> None:
    """Serve a connection to its end: a program's, or that of a person who types lines."""
    if directory.is_full:
        await ws.aclose(triows.CloseCode.TRY_AGAIN_LATER, "the chat is full, come back later")
        return
    member = (Member if ws.subprotocol == SUBPROTOCOL else Typist)(directory, ws)
    await member.run()


@attrs.frozen
class Stay:
    """A member's time in a room."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    is_over: trio.Event = attrs.field(factory=trio.Event)


class Member:
    """A member whose program speaks the protocol; the directory gives it its name and session."""

    def __init__(self, directory: Directory, ws: triows.WebSocket) -> None:
        self.directory = directory
        self.ws = ws
        self.nick = self.session = ""
        self._stays: dict[str, Stay] = {}
        self._pace = Pace(RULES.rate, RULES.burst)
        self._is_replaced = False
        self._is_gone = trio.Event()

    async def run(self) -> None:
        """Serve this member until its connection ends, or it is sent away."""
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    await self.converse()
                finally:
                    self._nursery.cancel_scope.cancel()
        finally:
            self.directory.depart(self)
            self._is_gone.set()
            log.info("left", extra={"nick": self.nick, "reason": str(self.ws.close_reason)})
        if self._is_replaced:
            await self.ws.aclose(REPLACED, "this session was opened elsewhere")

    async def send_away(self) -> None:
        """See `chat.directory.Member`."""
        self._is_replaced = True
        self._nursery.cancel_scope.cancel()
        await self._is_gone.wait()

    async def converse(self) -> None:
        """Do what is asked for, one thing after the other."""
        async for message in self.ws:
            if await self._pace.keep():
                await self.tell("error", code="rate", text=f"slowly: {RULES.rate:.0f} a second")
            event: Event = {}
            try:
                event = self.understand(message)
                await self.obey(event)
            except Refused as refused:
                about = {field: event[field] for field in ("room", "id") if field in event}
                await self.tell("error", code=refused.code, text=refused.text, **about)

    # What differs between programs and people.

    def understand(self, message: str | bytes) -> Event:
        """Read what was sent."""
        event = decode(message)
        if (event["type"] == "hello") == bool(self.nick):
            raise Refused("hello", "hello is what to begin with, once")
        if event["type"] == "command":
            return read_line(event["text"], event.get("room"))
        return event

    async def tell(self, kind: str, **fields: object) -> None:
        """Send an event to this member alone."""
        await self.ws.send(encode({"type": kind, **fields}))

    async def listen(self, room: Room, after: int | None) -> None:
        """Be sent what *room* says from behind message *after* on, or from its history on."""
        async with (
            room.said.subscribe(triows.Policy.DISCONNECT, BACKLOG, after=after) as said,
            room.signs.subscribe(triows.Policy.DROP_NEWEST, BACKLOG) as signs,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._relay, said)
            nursery.start_soon(self._relay, signs)

    async def _relay(self, items: triows.Subscription[str]) -> None:
        while True:
            await self.ws.send(await items.receive())

    # What may be asked for.

    async def obey(self, event: Event) -> None:
        """Do what a member asks for.

        Raises:
            Refused: it cannot be done.
        """
        match event:
            case {"type": "hello"}:
                await self.enter(event.get("nick"), event.get("session"))
            case {"type": "join"}:
                await self.join(event)
            case {"type": "say", "room": name, "text": text}:
                self._room(name).say(self.nick, clean_text(text), event.get("id"))
            case {"type": "typing", "room": name}:
                self._room(name).sign("typing", nick=self.nick)
            case {"type": "who", "room": name}:
                room = self._room(name)
                await self.tell("members", room=room.name, members=list(room.members))
            case {"type": "leave", "room": name}:
                await self._leave(self._room(name))
            case {"type": "nick", "nick": wanted}:
                await self._rename(wanted)
            case {"type": "notice", "text": text}:
                await self.tell("notice", text=text)

    async def enter(self, wanted: str | None = None, session: str | None = None) -> None:
        """Get a name and a session."""
        is_known = False
        while (before := self.directory.who_has(session)) is not None:
            await before.send_away()
            is_known = True
        self.directory.enter(self, wanted, session if is_known else None)
        log.info("came", extra={"nick": self.nick, "remote": str(self.ws.remote)})
        limits = {"text": RULES.text, "nick": RULES.nick, "room": RULES.room}
        await self.tell("welcome", nick=self.nick, session=self.session, limits=limits)

    async def join(self, event: Event) -> None:
        """Be in a room from now on, in a task of its own."""
        if len(self._stays) >= RULES.rooms:
            raise Refused("room", f"you are in {RULES.rooms} rooms, which is enough")
        room = self.directory.room(event["room"])
        if room.name in self._stays:
            raise Refused("room", f"you are in {room.name} already")
        after = event.get("after") if event.get("log") == room.log else None
        if after is not None and not 0 <= after <= room.said.number:
            after = None
        await self._nursery.start(self._stay, room, after)

    async def _stay(
        self, room: Room, after: int | None, task_status: trio.TaskStatus[None]
    ) -> None:
        self._stays[room.name] = stay = Stay()
        room.members[self.nick] = None
        room.sign("presence", event="joined", nick=self.nick)
        try:
            with stay.scope:
                members = list(room.members)
                await self.tell("joined", room=room.name, log=room.log, members=members)
                task_status.started()
                await self.listen(room, after)
        finally:
            del self._stays[room.name], room.members[self.nick]
            room.sign("presence", event="left", nick=self.nick)
            if not room.members:
                self.directory.put_aside(room)
            stay.is_over.set()

    async def _leave(self, room: Room) -> None:
        stay = self._stays[room.name]
        stay.scope.cancel()
        await stay.is_over.wait()
        await self.tell("left", room=room.name)

    async def _rename(self, wanted: str) -> None:
        was = self.directory.rename(self, wanted)
        await self.tell("nick", nick=self.nick)
        for name in self._stays:
            room = self.directory.room(name)
            del room.members[was]
            room.members[self.nick] = None
            room.sign("presence", event="renamed", nick=self.nick, was=was)

    def _room(self, name: str | None) -> Room:
        """Return a room that this member is in."""
        key = (name or "").casefold()
        if key not in self._stays:
            raise Refused("room", f"you are not in {name}" if name else "join a room first")
        return self.directory.room(key)


class Typist(Member):
    """A member who types lines and reads them, in one room at a time."""

    _place: str | None = None

    async def converse(self) -> None:
        """Come in, and do what is typed."""
        await self.enter()
        await self.join({"room": "lobby"})
        await super().converse()

    def understand(self, message: str | bytes) -> Event:
        """Read a line."""
        if isinstance(message, bytes):
            raise Refused("malformed", "text, please")
        return read_line(message, self._place if self._place in self._stays else None)

    async def join(self, event: Event) -> None:
        """Go to a room, and out of the one before."""
        before = self._place
        room = self.directory.room(event["room"])
        after = max(0, room.said.number - FIRST_LINES)
        await super().join({**event, "log": room.log, "after": after})
        self._place = room.name
        if before in self._stays:
            await self._leave(self._room(before))

    async def tell(self, kind: str, **fields: object) -> None:
        """Put an event in words."""
        await self.show({"type": kind, **fields})

    async def show(self, event: Event) -> None:
        """Put an event in words, if it needs any."""
        line = render(event)
        if line is not None:
            await self.ws.send(line)

    async def listen(self, room: Room, after: int | None) -> None:
        """Read what a room says; who is too slow is told how much that was."""
        lossy = triows.Policy.DROP_OLDEST
        async with (
            room.said.subscribe(lossy, BACKLOG, after=after) as said,
            room.signs.subscribe(lossy, BACKLOG) as signs,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._relay, said)
            nursery.start_soon(self._relay, signs)

    async def _relay(self, items: triows.Subscription[str]) -> None:
        while True:
            try:
                await self.show(json.loads(await items.receive()))
            except triows.Lagged as lagged:
                await self.tell("notice", text=f"{lagged.count} lines left out: you read slowly")
