"""A loop whose messages go to channels: a task per connection, one loop for all of them.

What a turn has received is handed to the connections' channels in one go, and wakes the
tasks that wait for it; what those tasks send is noted, and leaves in one kernel call when
all of them have run. So a message costs two steps of its task and no system call of its
own but its share of the two that any server needs.

**The cork.** A send outside a turn appends to the loop's sends. The first rings for the
flusher, a task that runs in Trio's next pass, when every task of this pass has sent what
it will, and replays the sends. While there is traffic the driver takes a turn in every
second pass instead of waiting for the epoll descriptor, which is dearer than a pass:
the pass between them is the tasks'. There is none where all has been answered in the first,
and there are more while tasks are at several messages each.
"""

# ruff: noqa: SLF001 - a session's private parts are this module's

import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import attrs
import trio

from triows import _kernels as kernels
from triows._driver import Sink
from triows._engine import (
    Closed,
    Deflated,
    Event,
    Failed,
    InflateError,
    Lost,
    Message,
    Part,
    PerMessageDeflate,
    Ponged,
    PreparedMessage,
    close_payload,
)
from triows._engine._base import parse_close
from triows._kernels import slots as s
from triows._nursery import unwrapped_nursery
from triows._options import KeepAlive, Limits
from triows._reactor._blocks import Block
from triows._reactor._callbacks import END_OF
from triows._reactor._loop import BUDGET, LAST, Loop, Octets, Sendable, nanoseconds, plain
from triows._reactor._moving import Moved, discard, put_in
from triows._reactor._outbox import Outbox
from triows._reactor._topics import Seat, Stage
from triows._reactor._worker import LINGER, InlineDriver, Odds
from triows._spec import MAX_CONTROL_PAYLOAD, CloseCode, Opcode
from triows._traps import give_way

REGION: Final = 2**20
"""Octets received in a turn at the most: its messages share what a turn costs."""

_WANTS: Final = s.ROOM | s.PONGS | s.ENDINGS
_NEVER: Final = 2**62


class ChannelLoop(Loop):
    """A loop of `Session` objects.

    Args:
        limits, keepalive: as in `Loop`. A peer is read however little it takes: its channel
            says when to stop.
    """

    def __init__(self, limits: Limits, keepalive: KeepAlive) -> None:
        super().__init__(0, limits, keepalive, region=REGION)
        for mark in (s.HIGH_WATER, s.LOW_WATER, s.SEND_LIMIT):
            self._words[mark] = _NEVER
        self._octets = self._region.data
        self._slot_words = self._slots.data.cast("B").cast("q")
        self._sessions_by_slot: list[Session | None] = []
        self._count = 0
        self._inquirers: dict[Session, None] = {}
        self._is_telling = False
        self.epoch = 0
        """Changes whenever what was sent has gone to the kernel or into its queues."""
        self.bell: Any = None
        """Called when there is something to send and no turn is being taken."""
        # Methods are objects too: one for all sessions.
        self.note_plain = self._note_send
        self.note_masked = self._note_masked_send

    # For sessions.

    def enter(self, descriptor: int, session: "Session") -> int:
        """Take over a socket for a session; returns its slot; raises as `Loop.add`."""
        self._count += 1
        session.number = self._count
        allows_rsv1 = session.deflate is not None
        slot = self._enter(descriptor, session.number, allows_rsv1=allows_rsv1)
        while len(self._sessions_by_slot) <= slot:
            self._sessions_by_slot.append(None)
        self._sessions_by_slot[slot] = session
        if session.terms is not None:
            session.terms.impose(self._slots[slot])
        self._slot_words[s.SLOT_SIZE * slot + s.WANTS] = _WANTS
        return slot

    def feed(self, slot: int, leftover: bytes) -> None:
        """Serve a session's octets that were received elsewhere."""
        self.settle()  # the last turn's rows have been handed over already
        with self._turning():
            for _ in self._feed(slot, leftover):
                self._serve_rows()
                self._replay()
            self._reap()

    def _note_masked_send(self, slot: int, session: int, payload: Octets, opcode: int) -> None:
        """Note a client's message, before whose payload there has to be room for a mask too."""
        self._arena += _MASK_GAP
        self._note_send(slot, session, payload, opcode)

    @property
    def received(self) -> int:
        """How many messages the last turn has handed over, if nothing was sent since."""
        return self._words[s.ROW_COUNT]

    @property
    def answered(self) -> int:
        """How many messages were sent since, to one connection each."""
        return len(self._sends) // s.SEND_FIELDS

    @property
    def is_answering(self) -> bool:
        """Whether who sent the last of them has more messages that may be answered."""
        sends = self._sends
        session = self._sessions_by_slot[sends[s.SEND_SLOT - s.SEND_FIELDS]] if sends else None
        return session is not None and session.has_unread

    def tell_room(self, session: "Session") -> None:
        """Have `Sink.make_room` called once what was noted has left: the kernel may take it all."""
        self._inquirers[session] = None

    def word(self, slot: int, column: int) -> int:
        """Return a word of a slot."""
        return self._slot_words[s.SLOT_SIZE * slot + column]

    def want(self, slot: int, wants: int) -> None:
        """Say what else becomes rows of a session, beside what all want."""
        self._slot_words[s.SLOT_SIZE * slot + s.WANTS] = _WANTS | wants

    def pause(self, slot: int, is_paused: int) -> None:
        """Read from a peer no longer, or again."""
        self._drive(kernels.turn.PAUSE, slot, is_paused)

    def drop(self, slot: int) -> None:
        """End a connection at once."""
        self._drive(kernels.turn.DISMISS, slot, s.BROKEN)
        if not self._is_turning:
            self._ask_for_turn()  # which takes note

    def fail(self, slot: int, code: int) -> None:
        """End a connection for what the peer has sent or not taken, behind what was sent to it."""
        if not self._is_turning:
            self.settle()
        self._drive(kernels.turn.DISMISS, slot, code)
        if not self._is_turning:
            self._ask_for_turn()

    def cut_off(self, slot: int) -> None:
        """See `Loop.cut_off`."""
        session = self._sessions_by_slot[slot]
        if session is not None:
            session.cut_off()

    def take_stored(self, slot: int) -> bytes:
        """Take what there is of a message that is not whole yet."""
        size = self.word(slot, s.MESSAGE_STORED)
        if not size:
            return b""
        at = s.SLOT_SIZE * slot
        block = Block(self.word(slot, s.MESSAGE), kernels.MESSAGE_HEADROOM, size)
        self._words[s.INCOMPLETE] -= size
        for column in (s.MESSAGE, s.MESSAGE_STORED, s.MESSAGE_ROOM):
            self._slot_words[at + column] = 0
        return bytes(block.view())

    # Driving.

    def take_turns(self, timeout: float, most: int = -1) -> int:
        """Serve what is ready, one turn at the most; see `Loop.take_turns`."""
        del most
        self._is_turning = True
        try:
            if self._sends:
                self.epoch += 1
            served = super().take_turns(timeout, 1)
            if self._words[s.ROW_COUNT]:
                self._serve_rows()
            if self._inquirers:  # only now: what they send may take the rows' place
                self._tell_inquirers()
            if self._words[s.HAS_NEWS]:
                self.fan.attend()
            if self._words[s.GONE] >= 0:
                self._replay()  # a row knows its session by the slot alone
                self._reap()
            return served
        finally:
            self._is_turning = False

    def settle(self) -> None:
        """See `Loop.settle`."""
        if self._sends or self.fan.noted or self._words[s.ROW_COUNT]:
            self._replay()
        if self._words[s.GONE] >= 0:
            self._reap()

    def close(self) -> None:
        """See `Loop.close`; every session is told."""
        super().close()
        self._reap()

    def _replay(self) -> None:
        self.epoch += 1
        super()._replay()
        if self._inquirers:
            self._tell_inquirers()

    def _tell_inquirers(self) -> None:
        """Tell those that have looked at what was noted that it has left.

        They may note more, so much that it is replayed in between: who asks then is told below.
        """
        if self._is_telling:
            return
        self._is_telling = True
        try:
            while self._inquirers and not self._sends:
                inquirers, self._inquirers = self._inquirers, {}
                for session in inquirers:
                    session.make_room()
        finally:
            self._is_telling = False

    def _ask_for_turn(self) -> None:
        self.bell()

    def _serve_rows(self) -> None:
        """Hand what was received to the channels, a connection's rows in one go.

        What is sent meanwhile may grow so much that it leaves before the last row was handed over.
        No row is answered then: a Pong takes the place of payloads that lie before its Ping.
        """
        self._row = 0
        words, octets, sessions = self._words, self._octets, self._sessions_by_slot
        count = words[s.ROW_COUNT]
        flat = iter(words[s.ROWS : s.ROWS + s.ROW_FIELDS * count].tolist())
        current = -1
        events: list[Event] = []
        session: Any = None
        for slot, opcode, start, size, handle, asked in zip(*[flat] * s.ROW_FIELDS, strict=True):
            if slot != current:
                if events:
                    session.deliver(events)
                    events = []
                current = slot
                session = sessions[slot]
            if asked != s.DELIVER:
                if asked == s.INFLATE:
                    payload = Block(handle, start, size).view() if handle else octets[start:][:size]
                    session.take_deflated(opcode, payload, events)
                else:
                    session.note(asked, opcode, octets[start : start + size], events)
            elif handle or events or session._is_special:
                payload = Block(handle, start, size).view() if handle else octets[start:][:size]
                session.take(opcode, payload, events)
            elif opcode == 1:
                session.take_message(str(octets[start : start + size], "utf-8"), size)
            else:
                session.take_message(octets[start : start + size].tobytes(), size)
        if events:
            session.deliver(events)
        self._row = LAST
        # The answers are zero, which is DISCARD: no one has ever written others.

    def _reap(self) -> None:
        """Tell sessions whose slots have ended, and free the slots."""
        words, slots = self._words, self._slot_words
        slot = words[s.GONE]
        words[s.GONE] = -1
        while slot >= 0:
            at = s.SLOT_SIZE * slot
            following = slots[at + s.NEXT_FREE]
            self._release_slot(slot)
            session, self._sessions_by_slot[slot] = self._sessions_by_slot[slot], None
            if session is not None:
                session.end(slots[at + s.ENDING])
            slot = following


@attrs.frozen(kw_only=True)
class Terms:
    """What holds for one connection, where not all of a loop are alike."""

    is_client: bool
    """Whether this side is: it masks, and waits for its peer to drop the transport."""
    limits: Limits
    keepalive: KeepAlive

    def impose(self, row: Any) -> None:
        """Write it into the connection's slot, before anything is received."""
        row[kernels.EXPECT_MASK] = not self.is_client
        row[kernels.MAX_MESSAGE] = self.limits.max_message
        row[kernels.MAX_FRAGMENTS] = self.limits.max_fragments
        row[s.PING_AFTER] = nanoseconds(self.keepalive.interval)
        row[s.GIVE_UP_AFTER] = nanoseconds(self.keepalive.timeout)
        row[s.FINISH_MESSAGE_IN] = nanoseconds(self.limits.message_timeout)
        row[s.FINISH_CLOSE_IN] = nanoseconds(self.limits.close_timeout)


class Session:
    """A connection of a `ChannelLoop`, as its channel sees it: a `triows._driver.Driver`.

    Args:
        loop: that is to serve it.
        descriptor: of the socket, past the opening handshake; owned from now on, and by the loop
            once it serves it.
        sink: takes the events.
        deflate: what messages are compressed with, if that was agreed on.
        terms: its own; by default it is a server's end, on those of the loop.
        on_end: called when it has ended and the sink knows.
    """

    __slots__ = (
        "_compresses_parts",
        "_deflater",
        "_descriptor",
        "_early",
        "_epoch",
        "_gives_parts",
        "_has_closed",
        "_held",
        "_is_cut",
        "_is_paused",
        "_is_special",
        "_is_within",
        "_loop",
        "_note",
        "_noted",
        "_on_end",
        "_queue_size",
        "_sink",
        "_slot",
        "deflate",
        "number",
        "on_enter",
        "outcome",
        "take_message",
        "terms",
    )

    def __init__(
        self,
        loop: ChannelLoop,
        descriptor: int,
        sink: Sink,
        deflate: PerMessageDeflate | None = None,
        *,
        terms: Terms | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._on_end = on_end
        self.terms = terms
        is_client = terms is not None and terms.is_client
        self._note = loop.note_masked if is_client else loop.note_plain
        self._descriptor = descriptor
        self._sink = sink
        self.take_message: Any = None
        """Gives the channel a message, where nothing else is to be given before; for the loop."""
        self._slot = -1
        self._queue_size = 0  # where the loop keeps it
        self._early: list[tuple[Sendable, int]] | None = []
        self._epoch = self._noted = 0
        self._gives_parts = self._has_closed = self._is_special = self._is_within = False
        self._is_cut = self._is_paused = self._compresses_parts = False
        self.deflate = deflate
        self._deflater = None if deflate is None else deflate.deflater
        self._held: list[bytes] | None = None
        self.number = 0
        self.on_enter: tuple[Callable[[], None], ...] = ()
        """Called once the loop serves it."""
        self.outcome: Closed | Failed | Lost | None = None
        """How the connection ended, or None while it has not."""

    @property
    def is_open(self) -> bool:
        """Whether something can be queued."""
        return self.outcome is None and not self._has_closed

    @property
    def is_deaf(self) -> bool:
        """Whether nothing more will be delivered."""
        return self.outcome is not None

    @property
    def unsent(self) -> int:
        """Octets that the transport has not taken yet."""
        loop = self._loop
        if self._slot >= 0 and self._noted and self._epoch == loop.epoch:
            loop.tell_room(self)
        return self._unsent

    @property
    def _unsent(self) -> int:
        """The same, for who need not be told when it becomes less."""
        if self._slot < 0:
            return self._noted
        loop = self._loop
        noted = self._noted if self._epoch == loop.epoch else 0
        return loop._slot_words[self._queue_size] + noted

    @property
    def has_unread(self) -> bool:
        """Whether messages are there that no one has taken yet."""
        return self._sink.has_unread

    def make_room(self) -> None:
        """Tell the channel that octets have left; for the loop."""
        self._sink.make_room()

    # What goes out.

    def send(self, opcode: int, payload: Octets) -> None:
        """Queue a message."""
        deflated = None if self._deflater is None else self._deflater.compress(payload)
        if deflated is None:
            self._send(opcode, payload)
        else:
            self._send(opcode | s.COMPRESSED, deflated)

    def _send(self, opcode: int, payload: Octets) -> None:
        loop = self._loop
        if self._epoch != loop.epoch and self._early is None:  # what is early waits until it is not
            self._epoch = loop.epoch
            self._noted = 0
        self._noted += len(payload) + _HEADER
        if self._early is None:
            self._note(self._slot, self.number, payload, opcode)
        else:
            self._early.append((payload, opcode))

    def offer(self, opcode: int, payload: Octets, mark: int) -> bool:
        """Queue a message if that needs no waiting: `is_open`, `unsent` and `send` in one."""
        if self.outcome is not None or self._has_closed or self._unsent >= mark:
            return False
        if self._deflater is None:
            self._send(opcode, payload)
        else:
            self.send(opcode, payload)
        return True

    def send_prepared(self, message: PreparedMessage) -> None:
        """Queue a message that goes to others too."""
        if self._early is not None and self._descriptor < 0:  # it comes with what compresses
            self._noted += len(message) + _HEADER
            self._early.append((message, message.opcode))
            return
        deflated = None if self._deflater is None else self._deflater.compress(message)
        if deflated is None:
            self._send(message.opcode, message.payload)
        else:
            self._send(message.opcode | s.COMPRESSED, deflated)

    def send_part(
        self, opcode: int, payload: bytes, *, is_last: bool, compress: bool = True
    ) -> None:
        """Queue a part of a message."""
        first = int(Opcode.CONTINUATION)
        if not self._is_within:
            if not is_last and self._slot >= 0:
                self._loop.fan.hold(self._slot)
            self._compresses_parts = compress and self._deflater is not None
            first = opcode | s.COMPRESSED if self._compresses_parts else opcode
        self._is_within = not is_last
        if self._compresses_parts and self._deflater is not None:
            payload = self._deflater.compress_part(payload, is_last=is_last)
        self._send(first if is_last else first | s.UNFINISHED, payload)
        if is_last:
            if self._slot >= 0:
                self._loop.fan.let_go(self._slot)
            self._sink.make_room()

    @property
    def is_mid_message(self) -> bool:
        """Whether no other message may be sent before a part that is to come."""
        return self._is_within

    def ping(self, payload: bytes) -> None:
        """Queue a Ping; ValueError if it is too long."""
        if len(payload) > MAX_CONTROL_PAYLOAD:
            raise ValueError(f"a Ping has at most {MAX_CONTROL_PAYLOAD} octets, not {len(payload)}")
        self._send(Opcode.PING, payload)

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake; ValueError if that may not be sent."""
        payload = close_payload(code, reason)
        if self.is_open:
            self._send(Opcode.CLOSE, payload)
            self._end_sending()

    def fail(self, error: InflateError) -> None:
        """Give the connection up because of a message that cannot be inflated."""
        self.outcome = Failed(error.code, error.reason)
        self._end_sending()
        self.deliver((self.outcome,))
        if self._slot >= 0:
            self._loop.fail(self._slot, error.fault)

    def _end_sending(self) -> None:
        self._has_closed = True
        if self._deflater is not None:
            self._deflater.discard()

    @property
    def may_join(self) -> bool:
        """Whether `join` is possible, now or later: a client masks for its server alone."""
        return self.terms is None or not self.terms.is_client

    def join(
        self, stage: Stage, seat: Seat, greeting: Iterable[PreparedMessage]
    ) -> Callable[[], None] | None:
        """Make it a member of a channel's topic, if the loop serves it already.

        Args:
            stage: the channel.
            seat: its place there.
            greeting: sent first.

        Returns:
            What lets it go.
        """
        if self._slot < 0 or not self.may_join:
            return None
        fan = self._loop.fan
        for message in greeting:
            self.send_prepared(message)
        return partial(fan.leave, fan.join(stage, self._slot, self.number, seat))

    def cut_off(self) -> None:
        """Fail the connection for being too slow, with 1013."""
        if self.outcome is None:
            self.outcome = Failed(*kernels.ENDINGS[kernels.SLOW_PEER])
            self._end_sending()
            self._sink.deliver((self.outcome,))
            if self._slot >= 0:
                self._loop.fail(self._slot, kernels.SLOW_PEER)

    def abort(self, why: str) -> None:
        """Drop the transport without further ado."""
        self._is_cut = self._is_special = True
        if self.outcome is None:
            self.outcome = Lost(why)
            self._sink.deliver((self.outcome,))
        if self._slot >= 0:
            self._loop.drop(self._slot)

    # What comes in.

    def pause(self) -> None:
        """Stop reading; the peer will be held back by TCP."""
        self._is_paused = True
        if self._slot >= 0:
            self._loop.pause(self._slot, 1)

    def resume(self) -> None:
        """Read again."""
        self._is_paused = False
        if self._slot >= 0:
            self._loop.pause(self._slot, 0)

    def begin_parts(self) -> Part | Deflated | None:
        """Deliver the message under way, or the next one, in parts."""
        self._gives_parts = self._is_special = True
        if self._slot < 0:
            return None
        loop = self._loop
        loop.want(self._slot, s.PARTS)
        held = self._with_held(loop.take_stored(self._slot))
        opcode = loop.word(self._slot, kernels.MESSAGE_OPCODE)
        kind = Deflated if loop.word(self._slot, kernels.MESSAGE_RSV) else Part
        return kind(held, opcode, is_last=False) if held else None

    def end_parts(self) -> None:
        """Deliver the next message whole, after all."""
        self._gives_parts = False
        self._is_special = self._is_cut
        if self._slot >= 0:
            self._loop.want(self._slot, 0)

    def deliver(self, events: Iterable[Event]) -> None:
        """Give the channel what came; for the loop."""
        if not self._is_cut:
            self._sink.deliver(events)

    def note(self, asked: int, opcode: int, payload: memoryview, events: list[Event]) -> None:
        """Take a row that is no message; for the loop."""
        if asked == s.CLOSED_BY_PEER:
            self._conclude(parse_close(bytes(payload)), events)
        elif opcode < 0:
            self._conclude(Failed(*END_OF[opcode]), events)
        elif opcode == Opcode.PONG and asked == s.NOTICE:
            events.append(Ponged(bytes(payload)))
        elif opcode == s.ROOM_MADE and asked == s.NOTICE:
            self._sink.make_room()

    def take(self, opcode: int, payload: memoryview, events: list[Event]) -> None:
        """Take a message that was in a block, or while parts are wanted, or a part; likewise."""
        octets = bytes(payload)
        is_last = opcode < s.PART
        kind = opcode if is_last else opcode - s.PART
        if self._gives_parts:
            events.append(Part(octets, kind, is_last))
            if is_last:
                self.end_parts()
        elif not is_last:  # the loop did not know yet that no more parts are wanted
            self._hold(octets)
            self._is_special = True
        else:
            octets = self._with_held(octets)
            self._is_special = self._is_cut
            payload_: str | bytes = str(octets, "utf-8") if kind == Opcode.TEXT else octets
            events.append(Message(payload_, len(octets)))

    def take_deflated(self, opcode: int, payload: memoryview, events: list[Event]) -> None:
        """Take a compressed message, or a part of one; likewise."""
        octets = bytes(payload)
        is_last = opcode < s.PART
        kind = opcode if is_last else opcode - s.PART
        if self._gives_parts or (not self._held and is_last):
            events.append(Deflated(octets, kind, is_last))
            if self._gives_parts and is_last:
                self.end_parts()
        elif not is_last:  # the loop did not know yet that no more parts are wanted
            self._hold(octets)
        else:
            events.append(Deflated(self._with_held(octets), kind))

    def _hold(self, octets: bytes) -> None:
        """Keep a part until its message is whole."""
        if self._held is None:
            self._held = []
        self._held.append(octets)

    def _with_held(self, octets: bytes) -> bytes:
        """Return what was held with what follows it, and hold nothing more."""
        held, self._held = self._held, None
        return octets if held is None else b"".join((*held, octets))

    def _conclude(self, outcome: Closed | Failed, events: list[Event]) -> None:
        if self.outcome is None:
            self.outcome = outcome
            events.append(outcome)

    def end(self, ending: int) -> None:
        """Take note that the loop has dropped the transport."""
        self._slot = -1
        if self.outcome is None:
            failure = END_OF.get(ending)
            self.learn(Failed(*failure) if failure else Lost("the transport ended"))
        self._sink.make_room()
        self._tell_end()

    def _tell_end(self) -> None:
        self._sink.end()
        if self._on_end is not None:
            self._on_end()

    # Before it has come here from another loop.

    def inherit(self, opcode: int, payload: memoryview) -> None:
        """Take a message that the other loop had received already."""
        events: list[Event] = []
        self.take(opcode, payload, events)
        self.deliver(events)

    def learn(self, outcome: Closed | Failed | Lost) -> None:
        """Take note of what ends the connection there."""
        if self.outcome is None:
            self.outcome = outcome
            self._sink.deliver((outcome,))

    def conclude(self, code: int, reason: str) -> None:
        """Take note that the connection has ended there; the arguments are `Handler.on_close`'s."""
        is_lost = code == CloseCode.ABNORMAL
        self.learn(Lost("the transport ended") if is_lost else Closed(code, reason))
        self._sink.make_room()
        self._tell_end()

    def move(self, moved: Moved) -> None:
        """Go on here, with all that the connection had there."""
        self.deflate = moved.deflate
        self._deflater = None if moved.deflate is None else moved.deflate.deflater
        self._descriptor = int(moved.row[s.DESCRIPTOR])
        is_over = self.outcome is not None
        if not self._take_place(moved):
            self._tell_end()
        elif is_over:
            self._loop.drop(self._slot)
        else:
            self._sink.make_room()

    def _take_place(self, moved: Moved) -> bool:
        early, self._early = self._early, None
        self._epoch = self._noted = 0
        self.take_message = self._sink.take_message
        try:
            self._slot = self._loop.enter(self._descriptor, self)
        except OSError as error:
            discard(moved)
            self._lose(error)
            return False
        self._descriptor = -1  # the loop has it
        self._queue_size = s.SLOT_SIZE * self._slot + s.QUEUE_SIZE
        put_in(self._loop, self._slot, moved)
        self._loop.want(self._slot, s.PARTS if self._gives_parts else 0)
        self._loop.pause(self._slot, self._is_paused)
        for payload, opcode in early or ():
            if isinstance(payload, PreparedMessage):
                self.send_prepared(payload)
            elif opcode in (Opcode.TEXT, Opcode.BINARY):
                self.send(opcode, payload)
            else:
                self._send(opcode, payload)
        self._begin_here()
        return True

    def _begin_here(self) -> None:
        """Let channels go on in the loop, which serves the connection from now on."""
        if self._is_within:
            self._loop.fan.hold(self._slot)
        for call in self.on_enter:
            call()

    def _lose(self, error: OSError) -> None:
        self.learn(Lost(f"the connection could not be watched: {error.strerror}"))

    # The life of the connection.

    def start(self, leftover: bytes) -> bool:
        """Give the socket to the loop, and serve what came behind the opening handshake."""
        if self._enter(leftover):
            self._sink.make_room()
        else:
            self._tell_end()
        return True

    async def run(self, leftover: bytes) -> None:
        """Do nothing: there is no task to a session."""
        del leftover
        raise AssertionError("a session is started")

    def _enter(self, leftover: bytes) -> bool:
        """Give the socket to the loop; returns whether it is there."""
        early, self._early = self._early, None
        self.take_message = self._sink.take_message
        if self.outcome is not None:
            os.close(self._descriptor)
            return False
        try:
            self._slot = self._loop.enter(self._descriptor, self)
        except OSError as error:
            self._lose(error)
            return False
        self._descriptor = -1  # the loop has it
        self._queue_size = s.SLOT_SIZE * self._slot + s.QUEUE_SIZE
        for payload, opcode in early or ():
            self._note(self._slot, self.number, plain(payload), opcode)
        self._begin_here()
        if leftover:
            self._loop.feed(self._slot, leftover)
        return True


_HEADER: Final = 4
_MASK_GAP: Final = bytes(4)


class ChannelDriver(InlineDriver):
    """Drives a `ChannelLoop` in a task of Trio's, beside those of its connections."""

    _loop: ChannelLoop

    def __init__(self, loop: ChannelLoop, grace: float) -> None:
        super().__init__(loop, grace, Outbox(1))
        self._sleeper: trio.lowlevel.Task | None = None
        self._has_rung = False
        self._is_corked = False
        self._answer_odds = Odds()
        loop.bell = self._ring

    async def _serve_and_tick(self) -> None:
        async with unwrapped_nursery() as nursery:
            nursery.start_soon(self._tick)
            nursery.start_soon(self._flush)
            await self._serve()
            nursery.cancel_scope.cancel()

    async def _serve(self) -> None:
        loop, fan = self._loop, self._loop.fan
        while self._goes_on():
            if loop.has_events:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(loop.fileno())
            for _ in range(CYCLES):
                if not await self._take_turn():
                    break
                # The first pass is for the tasks that were woken, the second sends; it is one too
                # many where they have run before this one, and answered all that was received.
                self._is_corked = True
                await give_way()
                if not 0 < loop.received <= loop.answered + fan.gathered:
                    await give_way()
                    await self._let_answer()
                if fan.noted:
                    await self._let_publish(loop.received)
                self._is_corked = False
            self._take_calls()

    async def _take_turn(self) -> int:
        """Take a turn, if need be in a moment; returns what `ChannelLoop.take_turns` does."""
        loop = self._loop
        is_wide = loop.fan.noted and loop.fan.weight >= WORTH_A_PASS
        began = time.perf_counter() if is_wide else 0.0
        served = loop.take_turns(0.0, 1)  # asking whether there is time to wait costs as much
        if served:
            return served
        if is_wide:
            return await self._look_out(time.perf_counter() - began)
        if self._may_linger():
            served = loop.take_turns(LINGER, 1)
            self._odds.learn(is_hit=served > 0)
        return served

    async def _let_answer(self) -> None:
        """Let tasks that several messages came for answer them, so that it leaves in one go.

        Each answers one in every other pass. As Trio changes the order of tasks from pass to
        pass, two may bring nothing; after three, none is to be expected. It takes as long as a
        turn may at the most, and less where they are few, since others wait meanwhile.
        """
        loop = self._loop
        until = time.perf_counter() + BUDGET
        answered, in_vain, passes = loop.answered, 0, MOST_PASSES
        while loop.is_answering and in_vain < 3 and passes > 0 and time.perf_counter() < until:
            await give_way()
            passes -= 1
            before, answered = answered, loop.answered
            in_vain = in_vain + 1 if answered == before else 0

    async def _look_out(self, spent: float) -> int:
        """Look out for answers to what many were sent, which took *spent* seconds.

        Those who have got it may well say something next. To fall asleep and be woken takes
        longer than that, and what is run then is no longer in the processor's caches: so some
        passes go by looking, in which other tasks can run. They take a small part of the time
        that was spent, and are left out the more often the more often they were in vain.
        """
        served = 0
        if self._answer_odds.are_good():
            until = time.perf_counter() + LOOK_OUT * spent
            while not served and time.perf_counter() < until:
                await give_way()
                served = self._loop.take_turns(0.0, 1)
            self._answer_odds.learn(is_hit=served > 0)
        return served

    # The flusher.

    def _ring(self) -> None:
        """Have the sends replayed in the next pass, unless a turn is to come anyway."""
        if self._is_corked:
            return
        if self._sleeper is None:
            self._has_rung = True
        else:
            trio.lowlevel.reschedule(self._sleeper)
            self._sleeper = None

    @trio.lowlevel.enable_ki_protection
    async def _flush(self) -> None:
        while True:
            if not self._has_rung:
                self._sleeper = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._forget)
            self._has_rung = False
            await self._let_answer()
            if self._loop.fan.noted and not self._loop.fan.is_whole:
                await self._let_publish(MANY)
            self._loop.settle()

    async def _let_publish(self, expected: int) -> None:
        """Give tasks some passes more to publish, where to send it all costs far more than these.

        A task that publishes what it receives does so once a pass: they are done when all that
        was received has been published. Others may never be, or publish something else. As
        Trio changes the order of tasks from pass to pass, one pass that brings nothing says
        nothing, two do.

        Args:
            expected: messages that tasks may be about to publish.
        """
        fan = self._loop.fan
        passes = MORE_PASSES if fan.weight >= WORTH_A_PASS else 0
        brought_nothing = 0
        while (before := fan.gathered) < expected and brought_nothing < 2 and passes > 0:
            await give_way()
            passes -= 1
            brought_nothing = 0 if fan.gathered > before else brought_nothing + 1

    def _forget(self, _: object) -> trio.lowlevel.Abort:
        self._sleeper = None
        return trio.lowlevel.Abort.SUCCEEDED


MOST_PASSES: Final = 32
"""In which tasks answer 16 messages each: to send so many in one go costs little enough."""

MORE_PASSES: Final = 8
WORTH_A_PASS: Final = 64
"""Members to be sent to, some of a microsecond each, for which another pass is waited."""

MANY: Final = 2**62
"""Messages, where no one knows how many."""

LOOK_OUT: Final = 1 / 6
"""Of the time that sending to many took: so long answers are looked out for."""

CYCLES: Final = 100
"""Turns after which a driver looks whether it is cancelled, and at its calls."""
