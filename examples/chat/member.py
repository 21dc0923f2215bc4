"""One connection: what it says is done, and what its rooms say is sent to it."""

import contextlib
import logging
import math
from typing import Final

import trio

import triows
from chat.directory import PATIENCE, SPARE, Directory, Room
from chat.forms import PERSON, PROGRAM
from chat.pace import Pace
from chat.protocol import RULES, SUBPROTOCOL, Event, Refused, clean_text, decode, read_line

REPLACED: Final = 4001
"""The close code for a connection whose session goes on over another one."""
FIRST_LINES: Final = 20
"""Messages of a room's history that a person at a terminal is shown."""

log = logging.getLogger("chat")


async def serve_member(directory: Directory, ws: triows.WebSocket) -> None:
    """Serve a connection to its end: a program's, or that of a person who types lines."""
    if directory.is_full:
        await ws.aclose(triows.CloseCode.TRY_AGAIN_LATER, "the chat is full, come back later")
        return
    directory.clients += 1
    try:
        await (Member if ws.subprotocol == SUBPROTOCOL else Typist)(directory, ws).run()
    finally:
        directory.clients -= 1


class Member:
    """A member whose program speaks the protocol; the directory gives it its name and session."""

    form = PROGRAM

    def __init__(self, directory: Directory, ws: triows.WebSocket) -> None:
        self.directory = directory
        self.ws = ws
        self.nick = self.session = ""
        self.rooms: dict[Room, list[triows.Attachment]] = {}
        self._pace = Pace(RULES.rate, RULES.burst)
        self._scope = trio.CancelScope(deadline=trio.current_time() + RULES.hello)
        self._farewell = (int(triows.CloseCode.POLICY_VIOLATION), "no hello came")

    async def run(self) -> None:
        """Serve this member until its connection ends, it is sent away, or says no hello."""
        with self._scope:
            try:
                await self.converse()
            finally:
                self.go()
        if self._scope.cancelled_caught:
            await self.ws.aclose(*self._farewell)

    def send_away(self) -> None:
        """See `chat.directory.Member`."""
        self.go()
        self._farewell = (REPLACED, "this session was opened elsewhere")
        self._scope.cancel()

    def go(self) -> None:
        """Leave everything; harmless twice."""
        for room in list(self.rooms):
            self.leave(room)
        if self.directory.depart(self):
            log.info("left", extra={"nick": self.nick, "reason": str(self.ws.close_reason)})

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
        text = self.form.write({"type": kind, **fields})
        if text is not None:
            await self.ws.send(text)

    # What may be asked for.

    async def obey(self, event: Event) -> None:
        """Do what a member asks for.

        Raises:
            Refused: it cannot be done.
        """
        match event:
            case {"type": "say", "room": name, "text": text}:
                self.room(name).say(self.nick, clean_text(text), event.get("id"))
            case {"type": "typing", "room": name}:
                self.room(name).sign("typing", nick=self.nick)
            case {"type": "hello"}:
                await self.enter(event.get("nick"), event.get("session"))
            case {"type": "join"}:
                await self.join(event)
            case {"type": "leave", "room": name}:
                room = self.room(name)
                self.leave(room)
                await self.tell("left", room=room.name)
            case {"type": "nick", "nick": wanted}:
                await self.rename(wanted)
            case {"type": "who", "room": name}:
                room = self.room(name)
                await self.tell(
                    "members", room=room.name, members=await self.directory.everyone_in(room)
                )
            case {"type": "notice", "text": text}:
                await self.tell("notice", text=text)

    async def enter(self, wanted: str | None = None, session: str | None = None) -> None:
        """Get a name and a session."""
        self.directory.enter(self, wanted, session)
        self._scope.deadline = math.inf
        log.info("came", extra={"nick": self.nick, "remote": str(self.ws.remote)})
        limits = {"text": RULES.text, "nick": RULES.nick, "room": RULES.room}
        await self.tell("welcome", nick=self.nick, session=self.session, limits=limits)

    async def join(self, event: Event) -> None:
        """Be in a room from now on."""
        if len(self.rooms) >= RULES.rooms:
            raise Refused("room", f"you are in {RULES.rooms} rooms, which is enough")
        while True:
            room = self.directory.room(event["room"])
            if room in self.rooms:
                raise Refused("room", f"you are in {room.name} already")
            try:
                self._appear(room, await self.directory.meet(room))
                break
            except trio.WouldBlock:  # until what was sent before has been read
                await trio.sleep(0.05)
            finally:
                self.directory.put_aside(room)  # if nothing came of it
        after = event.get("after") if event.get("log") == room.log else None
        if after is None or not 0 <= after <= room.number:
            after = max(0, room.number - room.history)
        await self._listen(room, after)

    def _appear(self, room: Room, others: list[str]) -> None:
        """Be listed in a room, and told who is there, now and from now on.

        All of that at once, so that no one comes or goes in between.
        """
        members = list(dict.fromkeys([*room.members, *others, self.nick]))
        joined = {"type": "joined", "room": room.name, "log": room.log, "members": members}
        self.ws.send_nowait(self.form.write(joined) or "")
        self.directory.take_up(room)
        room.sign("presence", event="joined", nick=self.nick)
        self.directory.list_in(room, self.nick)
        self.rooms[room] = []
        attachment = room.signs[self.form].attach(self.ws, triows.Policy.DROP_NEWEST)
        self.rooms[room].append(attachment)

    async def _listen(self, room: Room, after: int) -> None:
        """Be sent what was said behind message *after*, and everything that will be.

        What there is, is sent as fast as it is read, and only so fast. Then the connection
        is attached, with no chance for a message to be said in between.
        """
        channel, form = room.said[self.form], self.form
        lossy, room_for = triows.Policy.DROP_OLDEST, room.history + SPARE
        async with channel.subscribe(lossy, room_for, after=after) as missed:
            while missed.statistics().unread_items:
                with contextlib.suppress(triows.Lagged):  # programs see it by the numbers
                    await self.ws.send(missed.receive_nowait())
            if room in self.rooms:  # else this member has been sent away meanwhile
                self.rooms[room] += [
                    channel.attach(
                        self.ws,
                        form.policy,
                        PATIENCE,
                        after=channel.number,
                        lagged=form.tell_of_gap,
                    )
                ]

    def leave(self, room: Room) -> None:
        """Be in a room no longer."""
        for attachment in self.rooms.pop(room):
            attachment.detach()
        self.directory.unlist_in(room, self.nick)
        room.sign("presence", event="left", nick=self.nick)
        self.directory.put_aside(room)

    async def rename(self, wanted: str) -> None:
        """Take another name."""
        was = self.directory.rename(self, wanted)
        for room in self.rooms:
            self.directory.unlist_in(room, was)
            self.directory.list_in(room, self.nick)
            room.sign("presence", event="renamed", nick=self.nick, was=was)
        await self.tell("nick", nick=self.nick)

    def room(self, name: str | None) -> Room:
        """Return a room that this member is in."""
        key = (name or "").casefold()
        for room in self.rooms:
            if room.name == key:
                return room
        raise Refused("room", f"you are not in {name}" if name else "join a room first")


class Typist(Member):
    """A member who types lines and reads them, in one room at a time."""

    form = PERSON

    async def converse(self) -> None:
        """Come in, and do what is typed."""
        await self.enter()
        await self.join({"room": "lobby"})
        await super().converse()

    def understand(self, message: str | bytes) -> Event:
        """Read a line."""
        if isinstance(message, bytes):
            raise Refused("malformed", "text, please")
        return read_line(message, next((room.name for room in self.rooms), None))

    async def join(self, event: Event) -> None:
        """Go to a room, and out of the one before."""
        before = list(self.rooms)
        room = self.directory.room(event["room"])
        after = max(0, room.number - FIRST_LINES)
        await super().join({**event, "log": room.log, "after": after})
        for room in before:
            self.leave(room)
