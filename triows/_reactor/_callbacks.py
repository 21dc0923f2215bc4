"""A loop whose messages are handled in Python, in the thread that drives it.

A turn hands over what has arrived as a table of rows, and takes, with the call that
starts the next turn, what is to be done about it: an octet for each row, and the sends
as a second table, whose payloads lie in one arena. So Python pays for its callbacks,
and for one kernel call per turn, not for parsing, copying or system calls.

**Whose memory a payload is.** Most lie in the loop's region. A view of it that is kept
shows other messages later, but stays memory. A message that was joined in a block of its
own is freed when the last view of it is gone. With *debug*, a payload is a copy, which is
overwritten when its callback has returned, so that what was kept is found out.

**What may happen while callbacks run.** A callback may do anything but drive the loop.
Sends collect; if they grow too many, what has been decided so far is replayed, which
changes no payload that is still to be handled. A turn's callbacks may take longer than
the budget: the rest of the rows wait, while others run, and no further turn is taken
before they are done.

**What came compressed** is inflated when its row's turn comes, into memory of its own, and
what is sent is compressed at once, in the order in which it is sent. Of a peer that may
compress little is received at a time, and the clock is looked at after each message.

**The end of a connection.** The kernel lists the slots that have ended, and gives none
of them to another connection before this module has taken note. ``on_close`` comes with
the peer's Close, in order with its messages, or else with the slot's end.
"""

# ruff: noqa: SLF001 - a connection's private parts are this module's

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import trio

from triows import _kernels as kernels
from triows._engine import (
    Deflated,
    Failed,
    InflateError,
    PerMessageDeflate,
    PreparedMessage,
    Request,
)
from triows._engine._base import parse_close
from triows._kernels import slots as s
from triows._options import KeepAlive, Limits
from triows._reactor._blocks import Block, octets_at
from triows._reactor._handlers import (
    CLOSED,
    CLOSING,
    FAILED,
    NO_MESSAGE,
    OPEN,
    PROMOTED,
    Connection,
    FunctionHandler,
    Handler,
    obey,
)
from triows._reactor._loop import BUDGET, LAST, Loop, Octets, Sendable, plain
from triows._reactor._moving import Moved, Promote, take_out
from triows._reactor._topics import Home, Seat
from triows._spec import CloseCode, Opcode

if TYPE_CHECKING:
    from triows._reactor._channels import Session

REGION: Final = 2**19
"""Octets received in a turn at the most: all of it stays in a cache beside what handles it."""

LOOK_EVERY: Final = 32
"""Callbacks between looks at the clock."""

POISON: Final = 0xDB

_DISCARD: Final = kernels.DISCARD
_ECHO: Final = kernels.ECHO
_DELIVER: Final = s.DELIVER

Report = Callable[[str, BaseException], None]


class Callbacks(Protocol):
    """What a `Connection` needs of what it belongs to."""

    def send(self, conn: Connection, payload: Sendable, opcode: int) -> None:
        """Send a message, or a Close."""

    def buffered(self, conn: Connection) -> int:
        """See `Connection.buffered`."""

    def join(
        self,
        conn: Connection,
        stage: Home,
        seat: Seat,
        greeting: Iterable[PreparedMessage],
        *,
        publishes: bool,
    ) -> Callable[[], None] | None:
        """Make a connection a member of a channel's topic; returns what lets it go."""

    def promote(self, conn: Connection) -> Any:
        """See `Connection.promote`."""


class CallbackLoop(Loop):
    """A loop that calls a Python handler.

    Args:
        handler: called in the thread that drives the loop.
        report: told of what callbacks raise.
        compiled: the address of a compiled handler that is asked first; 0 for none.
        debug: whether payloads are copies that are overwritten after their callbacks.
        promote: makes the WebSocket that a connection becomes, if that is possible.
        limits, keepalive: as in `Loop`.
    """

    def __init__(
        self,
        handler: Handler,
        limits: Limits,
        keepalive: KeepAlive,
        report: Report,
        *,
        compiled: int = 0,
        debug: bool = False,
        promote: Promote | None = None,
    ) -> None:
        super().__init__(compiled, limits, keepalive, region=REGION)
        self._words[s.COMPRESSED_MOST] = s.INFLATED_SIZE
        self._promote = promote
        self._heirs: dict[int, Session] = {}
        self._leaving: list[tuple[Connection, Callable[[Moved], None]]] = []
        self._handler = handler
        self._is_function = isinstance(handler, FunctionHandler)
        self._on_frame: Callable[..., Any] = (
            handler.function if isinstance(handler, FunctionHandler) else handler.on_frame
        )
        self._report = report
        self._is_debugging = debug
        octets = self._region.data
        self._octets = octets
        self._answers = octets[len(octets) - s.ROW_CAPACITY :]
        self._connections: list[Any] = []
        self._rows: Iterator[tuple[int, ...]] | None = None
        self._compiled = compiled
        self._inflated: tuple[bytearray, int] | None = None
        self._blocks: list[Block] = []
        self._gone: deque[int] = deque()
        self._newcomers: deque[tuple[Connection, bytes]] = deque()

    # What connections ask for.

    def send(self, conn: Connection, payload: Sendable, opcode: int) -> None:
        """Note a message, or a Close, to be sent with the next replay."""
        if conn._phase != OPEN:
            self._words[s.DROPPED] += 1
        elif opcode == Opcode.CLOSE and conn._answer == _ECHO:
            self._close_behind_echo(conn, plain(payload))
        elif opcode == Opcode.CLOSE:
            self._note_send(conn._slot, conn._id, plain(payload), opcode)
        else:
            self._send_message(conn, payload, opcode)
        if opcode == Opcode.CLOSE:
            self.fan.forget(conn._slot)

    def _send_message(self, conn: Connection, payload: Sendable, opcode: int) -> None:
        deflated = None if conn._deflate is None else conn._deflate.deflater.compress(payload)
        if deflated is None:
            self._note_send(conn._slot, conn._id, plain(payload), opcode)
        else:
            self._note_send(conn._slot, conn._id, deflated, opcode | s.COMPRESSED)

    def _close_behind_echo(self, conn: Connection, payload: Octets) -> None:
        if self._inflated is not None:
            self._echo_inflated(conn)
            self._note_send(conn._slot, conn._id, payload, Opcode.CLOSE)
            return
        self._answers[self._row] = _ECHO
        self._row += 1
        self._note_send(conn._slot, conn._id, payload, Opcode.CLOSE)
        self._row -= 1

    def buffered(self, conn: Connection) -> int:
        """See `Connection.buffered`."""
        return self.queued(conn._slot, conn._id)

    def join(
        self,
        conn: Connection,
        stage: Home,
        seat: Seat,
        greeting: Iterable[PreparedMessage],
        *,
        publishes: bool,
    ) -> Callable[[], None] | None:
        """Make a connection a member of a channel's topic; None if it is not open."""
        if conn._phase != OPEN:
            return None
        for message in greeting:
            self.send(conn, message, message.opcode)
        member = self.fan.join(stage, conn._slot, conn._id, seat, publishes=publishes)
        return partial(self.fan.leave, member)

    def promote(self, conn: Connection) -> Any:
        """See `Connection.promote`."""
        assert self._promote is not None
        ws, heir = self._promote(conn)
        self._heirs[conn._id] = heir
        conn._phase = PROMOTED
        self.release(conn, heir.move)
        return ws

    def release(self, conn: Connection, take: Callable[[Moved], None]) -> None:
        """Take a connection out of the loop once all that came is handled, and what was sent gone.

        Args:
            conn: it.
            take: called with what was taken out, unless the connection has ended before.
        """
        self._leaving.append((conn, take))
        if not self._is_turning and self._rows is None:
            self._finish_batch()

    def find(self, slot: int, session: int) -> Connection | None:
        """Return the connection of a session if it is in a slot."""
        conn: Connection | None = self._connections[slot]
        return conn if conn is not None and conn._id == session else None

    def _release_leaving(self) -> None:
        """Let those go that are to be released; there are no rows of theirs, and no sends."""
        leaving, self._leaving = self._leaving, []
        for conn, take in leaving:
            if self.is_session(conn._slot, conn._id):
                moved = take_out(self, conn._slot, conn._deflate)
                self._release_slot(conn._slot)
                self._connections[conn._slot] = None
                self._heirs.pop(conn._id, None)
                if self._sessions is not None:
                    self._sessions.pop(conn._id, None)
                take(moved)

    def cut_off(self, slot: int) -> None:
        """See `Loop.cut_off`."""
        conn = self._connections[slot]
        if conn._phase == OPEN:
            conn._phase = FAILED
            super().cut_off(slot)

    def _send_to_slot(self, slot: int, session: int, payload: Sendable, opcode: int) -> None:
        conn = self._connections[slot]
        if conn is not None and conn._id == session:
            self.send(conn, payload, opcode)
            if opcode == Opcode.CLOSE:
                conn._phase = max(conn._phase, CLOSING)
        else:
            self._words[s.DROPPED] += 1  # it has ended since `_sessions` was made

    # Driving.

    def add(
        self,
        descriptor: int,
        leftover: bytes = b"",
        request: Request | None = None,
        remote: Any = None,
        session: int = 0,
        *,
        deflate: PerMessageDeflate | None = None,
    ) -> None:
        """Take over a socket past its opening handshake, call ``on_open``, serve the leftover.

        In a callback, or while a turn's rows are not all handled, it is taken over, and the
        rest is done after all callbacks of the turn. See `Loop.add`.
        """
        slot = self._enter(descriptor, session, allows_rsv1=deflate is not None)
        while len(self._connections) <= slot:
            self._connections.append(None)
        conn = Connection(self, slot, session, request, remote, deflate=deflate)
        self._connections[slot] = conn
        self._newcomers.append((conn, leftover))
        if not self._is_turning and self._rows is None:
            self._finish_batch()

    def _greet(self) -> None:
        """Open what was added, in order, and serve what came with it."""
        while self._newcomers:
            conn, leftover = self._newcomers.popleft()
            try:
                call_handler(self._handler.on_open, conn)
            except BaseException as error:
                self._words[s.HANDLER_FAILURES] += 1
                conn.close(*HANDLER_FAILED)
                if not isinstance(error, Exception):
                    raise
                self._report("on_open failed", error)
            if leftover and self._sends:
                self._replay()  # a greeting goes before the answers
            for _ in self._feed(conn._slot, leftover):
                self._take_rows()
                self._call_back(math.inf)
                self._replay()

    def take_turns(self, timeout: float, most: int = -1) -> int:
        """Serve what is ready and call the handler; see `Loop.take_turns`.

        One turn at the most. Returns the events served, 1 where only callbacks were.
        """
        del most
        assert not self._is_turning, "a callback may not drive its loop"
        self._is_turning = True  # without `_turning`: this is for every few messages
        try:
            served = 1
            if self._rows is None:
                served = super().take_turns(timeout, 1)
                if self._blocks:
                    self._blocks.clear()
                self._take_rows()
                if self._words[s.HAS_NEWS]:
                    self.fan.attend()
            if self._rows is not None:
                self._call_back(BUDGET)
            if self._words[s.GONE] >= 0 or self._newcomers or self._leaving:
                self._after_callbacks()
            return served
        finally:
            self._is_turning = False

    def _after_callbacks(self) -> None:
        """Open what was added and take note of what has ended, once all rows are answered."""
        if self._rows is not None:
            return
        self._replay()  # a row knows its connection by the slot alone
        while self._newcomers or self._gone or self._leaving or self._words[s.GONE] >= 0:
            self._greet()
            self._reap()
            if self._leaving:
                self._replay()  # a greeting may have been sent
                self._release_leaving()

    def settle(self) -> None:
        """See `Loop.settle`; calls the ``on_close`` that come of it."""
        if self._sends or self.fan.noted or self._words[s.ROW_COUNT]:
            with self._turning():
                self._replay()
                self._after_callbacks()

    def leave_when_empty(self, leaves: bool) -> None:  # noqa: FBT001 - a setting
        """Do nothing: `take_turns` returns after each turn."""

    @property
    def has_events(self) -> bool:
        """Whether there is more to serve already."""
        return self._rows is not None or super().has_events

    def say_goodbye(self) -> None:
        """See `Loop.say_goodbye`."""
        self._finish_batch()
        super().say_goodbye()
        for conn in self._connections:
            if conn is not None:
                conn._phase = max(conn._phase, CLOSING)

    def close(self) -> None:
        """See `Loop.close`; calls the ``on_close`` that are due."""
        if self._is_closed:
            return
        try:
            self._finish_batch()
        finally:  # whatever a callback raised
            with self._turning():
                self._drop_rows()
                super().close()
                self._reap()
                self._clear_sends()

    def _finish_batch(self) -> None:
        """Call back for all rows, answer them, and send what came of that."""
        with self._turning():
            self._call_back(math.inf)
            self._after_callbacks()
            if self._sends or self.fan.noted:
                self._replay()

    def _replay(self) -> None:
        super()._replay()
        self._blocks.clear()

    # Callbacks.

    def _take_rows(self) -> None:
        """Make the rows of the last turn the ones to be handled."""
        words = self._words
        count = words[s.ROW_COUNT]
        if count:
            flat = iter(words[s.ROWS : s.ROWS + s.ROW_FIELDS * count].tolist())
            self._rows = zip(*[flat] * s.ROW_FIELDS, strict=True)
            self._row = 0

    def _call_back(self, budget: float) -> None:  # noqa: PLR0912 - a call costs a tenth of it
        """Call the handler for the rows, for so many seconds; those left stay in `_rows`."""
        if self._rows is None:
            return
        until = time.monotonic() + budget
        connections, answers, octets = self._connections, self._answers, self._octets
        on_frame, is_function, fan = self._on_frame, self._is_function, self.fan
        is_plain = not self._is_debugging
        index = self._row - 1
        try:
            for slot, opcode, start, size, handle, asked in self._rows:
                self._row = index = index + 1
                if asked != _DELIVER:
                    if self._note(index) and time.monotonic() > until:
                        break
                    continue
                conn = connections[slot]
                conn._answer = _DISCARD
                try:
                    if is_plain and not handle and conn._phase == OPEN:
                        response = _call(on_frame, conn, octets[start : start + size], opcode)
                        if response is not None and is_function:
                            obey(conn, response)
                    else:
                        self._call_with_care(conn, start, size, handle, opcode)
                except BaseException as error:  # noqa: BLE001 - whatever it is, it ends its own
                    self._blame(conn, error)
                answers[index] = answer = conn._answer
                conn._answer = NO_MESSAGE
                if fan.noted and answer == _ECHO:
                    fan.catch_up(slot)
                if index % LOOK_EVERY == LOOK_EVERY - 1 and time.monotonic() > until:
                    break
            else:
                self._rows = None
        finally:
            self._row = index + 1 if self._rows is not None else LAST

    def _call_with_care(
        self, conn: Connection, start: int, size: int, handle: int, opcode: int
    ) -> None:
        """Call the handler where the payload is in a block, or is to be a copy, or not at all."""
        block = Block(handle, start, size) if handle else None
        try:
            payload = block.view() if block else self._octets[start : start + size]
            if conn._phase == OPEN:
                self._ask_in_python(conn, payload, opcode)
            elif conn._id in self._heirs:
                self._heirs[conn._id].inherit(opcode, payload)
        finally:
            if block:  # not before: a replay on the way lets go of those that are listed
                self._blocks.append(block)

    def _ask_in_python(self, conn: Connection, payload: memoryview, opcode: int) -> None:
        """Call the handler, with a copy if that is to be found out which it keeps."""
        if not self._is_debugging:
            self._call_handler(conn, payload, opcode)
            return
        copy = bytearray(payload)
        try:
            self._call_handler(conn, memoryview(copy), opcode)
            payload[:] = copy
        finally:
            copy[:] = bytes((POISON,)) * len(copy)

    def _call_handler(self, conn: Connection, payload: memoryview, opcode: int) -> None:
        response = _call(self._on_frame, conn, payload, opcode)
        if response is not None and self._is_function:
            obey(conn, response)

    def _drop_rows(self) -> None:
        """Answer nothing to the rows that are left, and free what they hold."""
        for _, _, start, size, handle, asked in self._rows or ():
            if asked == _DELIVER:
                self._answers[self._row] = _DISCARD
                if handle:
                    Block(handle, start, size)
            self._row += 1
        self._rows = None
        self._row = LAST
        self._replay()

    def _blame(self, conn: Connection, error: BaseException) -> None:
        """End a connection whose callback has raised; what is no `Exception` is raised again."""
        self._fail(conn)
        if not isinstance(error, Exception):
            self._answers[self._row] = conn._answer
            del error  # whose traceback holds this frame: both would outlive what views blocks
            raise  # noqa: PLE0704 - what is being handled
        self._report("on_frame failed", error)

    def _call_inflated(self, conn: Connection, opcode: int, octets: memoryview) -> None:
        """Inflate a message, have it answered, and send its echo if that is the answer."""
        conn._answer = _DISCARD
        try:
            heir = self._heirs.get(conn._id)
            if (conn._phase == OPEN or heir is not None) and conn._deflate is not None:
                deflated = Deflated(bytes(octets), opcode)
                payload = bytearray(conn._deflate.inflater.octets(deflated))
                if heir is not None:
                    heir.inherit(opcode, memoryview(payload))
                    return
                self._inflated = (payload, opcode)
                self._ask(conn, payload, opcode)
                if conn._answer == _ECHO:
                    self._echo_inflated(conn)
        except InflateError as error:
            conn._answer = s.FAILING - error.fault
            conn._phase = FAILED
        except BaseException as error:  # noqa: BLE001 - as in `_call_back`
            self._blame(conn, error)
        finally:
            self._answers[self._row] = conn._answer
            conn._answer = NO_MESSAGE
            if self._is_debugging and self._inflated is not None:
                self._inflated[0][:] = bytes((POISON,)) * len(self._inflated[0])
            self._inflated = None

    def _ask(self, conn: Connection, payload: bytearray, opcode: int) -> None:
        """Ask the compiled handler if there is one, as a turn does, and then the other."""
        answer = _DELIVER
        if self._compiled:
            array = np.frombuffer(payload, np.uint8)
            answer = kernels.ask_handler(self._compiled, array, opcode)
        if answer == _DELIVER:
            self._call_handler(conn, memoryview(payload), opcode)
        elif answer in (_DISCARD, _ECHO, kernels.CLOSE):
            conn._answer = answer
            if answer == kernels.CLOSE:
                conn._phase = CLOSING
        elif answer != s.PUBLISH or not self.fan.publish_for(conn._slot, opcode, bytes(payload)):
            self._fail(conn)

    def _echo_inflated(self, conn: Connection) -> None:
        """Send the message being handled back, as any other, also where it was the last here."""
        assert self._inflated is not None
        payload, opcode = self._inflated
        conn._answer = _DISCARD
        if conn._phase in (OPEN, PROMOTED):
            self._send_message(conn, payload, opcode)
        else:
            self._words[s.DROPPED] += 1

    def _note(self, index: int) -> bool:
        """Handle a row that is no plain message; returns whether that may have taken long."""
        at = s.ROWS + s.ROW_FIELDS * index
        slot, opcode, start, size, handle, asked = self._words[at : at + s.ROW_FIELDS].tolist()
        conn = self._connections[slot]
        if asked == s.INFLATE:
            view = Block(handle, start, size).view() if handle else self._octets[start:][:size]
            self._call_inflated(conn, opcode, view)
            return True
        if asked == s.PUBLISH and conn._phase == OPEN:  # here, to keep its place among the others
            payload = octets_at(handle + start, size) if handle else self._octets[start:][:size]
            is_done = self.fan.publish_for(slot, opcode, bytes(payload))
            self._words[at + s.FIELD_ANSWER] = s.NOTICE if is_done else s.FAILED_IN_PYTHON
            asked = self._words[at + s.FIELD_ANSWER]
        if asked == kernels.CLOSE:
            conn._phase = max(conn._phase, CLOSING)
        elif asked in (s.ENDED, s.FAILED_IN_PYTHON):
            conn._phase = max(conn._phase, FAILED)
            if asked == s.ENDED and conn._id in self._heirs:
                self._heirs[conn._id].learn(Failed(*END_OF[opcode]))
        elif asked == s.CLOSED_BY_PEER and conn._phase != FAILED:
            closed = parse_close(bytes(self._octets[start : start + size]))
            if conn._id in self._heirs:
                self._heirs[conn._id].learn(closed)
            else:
                self._close(conn, closed.code, closed.reason)
        if conn._phase != OPEN:
            self.fan.forget(slot)
        return False

    def _fail(self, conn: Connection) -> None:
        conn._answer = s.FAILED_IN_PYTHON
        if conn._phase == OPEN:
            conn._phase = FAILED
            self.fan.forget(conn._slot)

    def _close(self, conn: Connection, code: int, reason: str) -> None:
        """Tell the handler that a connection has ended, if it was not told yet."""
        if conn._phase == CLOSED:
            return
        conn._phase = CLOSED
        heir = self._heirs.pop(conn._id, None)
        if heir is not None:
            heir.conclude(code, reason)
            return
        try:
            call_handler(self._handler.on_close, conn, code, reason)
        except Exception as error:  # noqa: BLE001 - the connection has ended anyway
            self._report("on_close failed", error)

    def _reap(self) -> None:
        """Take note of the slots that have ended: none of them has rows left."""
        slot = self._words[s.GONE]
        while slot >= 0:
            self._gone.appendleft(slot)
            slot = int(self._slots[slot, s.NEXT_FREE])
        self._words[s.GONE] = -1
        while self._gone:
            slot = self._gone.popleft()
            row = self._slots[slot]
            self._release_slot(slot)
            conn, self._connections[slot] = self._connections[slot], None
            if conn is not None:
                self._close(conn, *END_OF.get(int(row[s.ENDING]), _BROKEN))


_BROKEN: Final = (int(CloseCode.ABNORMAL), "")
HANDLER_FAILED: Final = kernels.ENDINGS[kernels.HANDLER_FAILED]
END_OF: Final = {
    code: (int(close_code), reason)
    for code, (close_code, reason) in kernels.ENDINGS.items()
    if code not in (kernels.GOING_AWAY, kernels.HANDLER_CLOSED)
}
"""What `on_close` is told of an ending; of others, that there was no closing handshake."""


@trio.lowlevel.disable_ki_protection
def call_handler(function: Callable[..., None], *arguments: Any) -> None:
    """Call a user's function where Ctrl-C may strike."""
    function(*arguments)


@trio.lowlevel.disable_ki_protection
def _call(function: Callable[..., Any], first: Any, second: Any, third: Any) -> Any:
    return function(first, second, third)  # as `call_handler`, faster
