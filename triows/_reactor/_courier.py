"""Callbacks for loops that run in threads: what a compiled handler delivers goes to Trio.

The thread copies what is for Python, for a message's memory is the loop's, and hands over
a turn's worth at a time; a task calls the handler in order. What the handler sends goes
back through the loop's outbox. The thread waits where Trio lags behind: then its sockets
are not read.
"""

# ruff: noqa: SLF001 - a connection's private parts are this module's

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from triows import _kernels as kernels
from triows._engine import PreparedMessage, Request
from triows._nursery import unwrapped_nursery
from triows._reactor._callbacks import (
    HANDLER_FAILED,
    LOOK_EVERY,
    POISON,
    CallbackLoop,
    Report,
    call_handler,
)
from triows._reactor._handlers import (
    CLOSED,
    NO_MESSAGE,
    OPEN,
    PROMOTED,
    Connection,
    Handler,
)
from triows._reactor._loop import BUDGET, Sendable
from triows._reactor._moving import Moved, Promote
from triows._reactor._outbox import OVERHEAD, Outbox
from triows._reactor._topics import Home, Seat
from triows._reactor._worker import ThreadDriver

if TYPE_CHECKING:
    from triows._reactor._channels import Session

UNDELIVERED: Final = 2**22
"""Octets of messages not yet handled at which a loop waits for its handler."""

Event = tuple[Callable[[], None], int]
"""A call to make in Trio's thread, and the octets that it holds."""


class Collector(Handler):
    """Stands for the handler in the loop's thread, and notes what it would be called with."""

    def __init__(self, courier: "CourierDriver") -> None:
        self._courier = courier
        self.events: list[Event] = []

    def on_open(self, conn: Connection) -> None:
        """See `Handler.on_open`."""
        call = partial(self._courier.open, conn._slot, conn._id, conn.request, conn.remote)
        self.events.append((call, OVERHEAD))

    def on_frame(self, conn: Connection, payload: memoryview, opcode: int) -> None:
        """See `Handler.on_frame`."""
        call = partial(self._courier.deliver, conn._id, bytearray(payload), opcode)
        self.events.append((call, len(payload) + OVERHEAD))

    def on_close(self, conn: Connection, code: int, reason: str) -> None:
        """See `Handler.on_close`."""
        self.events.append((partial(self._courier.end, conn._id, code, reason), OVERHEAD))


class CourierDriver(ThreadDriver):
    """Drives a loop in a thread, and calls a handler in Trio's for what the loop delivers.

    Args:
        make_loop: makes the loop of a handler that stands for the real one.
        handler: called in Trio's thread.
        report: told of what callbacks raise.
        grace, outbox: as in `Driver`.
        debug: whether payloads are overwritten after their callbacks.
        promote: as in `CallbackLoop`.
    """

    def __init__(
        self,
        make_loop: Callable[[Handler], CallbackLoop],
        handler: Handler,
        report: Report,
        grace: float,
        outbox: Outbox,
        *,
        debug: bool = False,
        promote: Promote | None = None,
    ) -> None:
        self._collector = Collector(self)
        self._callback_loop = make_loop(self._collector)
        super().__init__(self._callback_loop, grace, outbox)
        self._promote = promote
        self._heirs: dict[int, Session] = {}
        self._handler = handler
        self._report = report
        self._is_debugging = debug
        self._conns: dict[int, Connection] = {}
        self._events: deque[Event] = deque()
        self._room = threading.Condition()
        self._undelivered = 0
        self._is_abandoned = False
        self._is_asleep = True
        self._lot = trio.lowlevel.ParkingLot()
        self._token: trio.lowlevel.TrioToken | None = None

    @trio.lowlevel.enable_ki_protection  # but for the callbacks
    async def run(self) -> None:
        """Serve until done; see `Driver.run`."""
        self._token = trio.lowlevel.current_trio_token()
        async with unwrapped_nursery() as nursery:
            delivery = trio.CancelScope(shield=True)  # peers are heard to the end
            nursery.start_soon(self._deliver_all, delivery)
            try:
                await super().run()
            finally:
                delivery.cancel()
        self._deliver_some(math.inf)

    @property
    def is_empty(self) -> bool:
        """See `Driver.is_empty`."""
        # In the order in which it moves on, since it does meanwhile. That a connection is gone
        # from the loop says little: its `on_close` may be on its way.
        return super().is_empty and (
            self._is_abandoned or not (self._collector.events or self._events or self._conns)
        )

    # In the loop's thread.

    def _after_turns(self) -> None:
        """Hand over what a turn has brought, and wait if Trio lags behind."""
        collector = self._collector
        if not collector.events:
            return
        with self._room:
            self._room.wait_for(lambda: self._undelivered < UNDELIVERED or self._is_abandoned)
            self._events.extend(collector.events)
            self._undelivered += sum(octets for _, octets in collector.events)
            is_asleep, self._is_asleep = self._is_asleep, False
        collector.events.clear()
        if is_asleep and self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._lot.unpark_all)

    def _end(self) -> None:
        super()._end()
        self._after_turns()

    # In Trio's thread.

    @trio.lowlevel.enable_ki_protection
    async def _deliver_all(self, scope: trio.CancelScope) -> None:
        """Call the handler for what comes, in order, until the loop has ended."""
        try:
            with scope:
                while True:
                    with self._room:  # else what comes in between wakes no one
                        self._is_asleep = not self._events
                    if self._is_asleep:
                        await self._lot.park()
                    self._deliver_some(BUDGET)
                    await trio.lowlevel.checkpoint()
        finally:
            with self._room:
                self._is_abandoned = True
                self._room.notify_all()

    def _deliver_some(self, budget: float) -> None:
        """Call the handler for some *budget* seconds."""
        until = time.monotonic() + budget
        count = handled = 0
        try:
            while self._events:
                call, octets = self._events.popleft()
                handled += octets
                call()
                count += 1
                if count % LOOK_EVERY == 0 and time.monotonic() > until:
                    break
        finally:
            with self._room:
                self._undelivered -= handled
                self._room.notify_all()
        if (self._is_watching or self._is_finishing) and not self._events:
            self._wake()  # to look whether that was the last

    def open(self, slot: int, session: int, request: Request | None, remote: Any) -> None:
        """Tell the handler of a connection."""
        conn = Connection(self, slot, session, request, remote)
        self._conns[session] = conn
        try:
            call_handler(self._handler.on_open, conn)
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends its own
            self._fail(conn, "on_open failed", error)

    def deliver(self, session: int, payload: bytearray, opcode: int) -> None:
        """Give the handler a message."""
        conn = self._conns[session]
        if conn._phase != OPEN:
            if session in self._heirs:
                self._heirs[session].inherit(opcode, memoryview(payload))
            return
        conn._answer = kernels.DISCARD
        try:
            call_handler(self._handler.on_frame, conn, memoryview(payload), opcode)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(conn, "on_frame failed", error)
        finally:
            answer, conn._answer = conn._answer, NO_MESSAGE
        if answer == kernels.ECHO:
            self._send(session, bytes(payload) if self._is_debugging else payload, opcode)
        if self._is_debugging:
            payload[:] = bytes((POISON,)) * len(payload)
        if conn._phase == PROMOTED:
            self.post(partial(self._release, conn._slot, session))

    def end(self, session: int, code: int, reason: str) -> None:
        """Tell the handler that a connection has ended."""
        conn = self._conns.pop(session)
        conn._phase = CLOSED
        heir = self._heirs.pop(session, None)
        if heir is not None:
            heir.conclude(code, reason)
            return
        try:
            call_handler(self._handler.on_close, conn, code, reason)
        except Exception as error:  # noqa: BLE001 - the connection has ended anyway
            self._report("on_close failed", error)

    def _fail(self, conn: Connection, what: str, error: Exception) -> None:
        self._report(what, error)
        conn._answer = NO_MESSAGE
        if conn._phase == PROMOTED:
            self._heirs[conn._id].close(*HANDLER_FAILED)
        conn.close(*HANDLER_FAILED)

    # Connections that become a task's.

    def promote(self, conn: Connection) -> Any:
        """See `Connection.promote`."""
        assert self._promote is not None
        ws, heir = self._promote(conn)
        self._heirs[conn._id] = heir
        conn._phase = PROMOTED
        if conn._answer == NO_MESSAGE:  # else when its message has been answered
            self.post(partial(self._release, conn._slot, conn._id))
        return ws

    def _release(self, slot: int, session: int) -> None:
        """Let the loop let a connection go, behind all that was sent to it; in its thread."""
        self._send_taken()
        if self._outbox:
            self._loop.send_all(self._outbox.take())
        conn = self._callback_loop.find(slot, session)
        if conn is not None:
            self._callback_loop.release(conn, partial(self._hand_over, session))

    def _hand_over(self, session: int, moved: Moved) -> None:
        self._collector.events.append((partial(self._move, session, moved), OVERHEAD))

    def _move(self, session: int, moved: Moved) -> None:
        del self._conns[session]
        self._heirs.pop(session).move(moved)

    # What connections ask for.

    def send(self, conn: Connection, payload: Sendable, opcode: int) -> None:
        """Send a message, or a Close, by way of the outbox; dropped if there is no one."""
        if conn._phase == OPEN:
            own = payload if isinstance(payload, PreparedMessage) else bytes(payload)
            self._send(conn._id, own, opcode)
        else:
            self._dropped += 1

    def _send(
        self, session: int, payload: bytes | bytearray | PreparedMessage, opcode: int
    ) -> None:
        with contextlib.suppress(trio.BrokenResourceError):  # over: as good as sent too late
            self._outbox.put((session, payload, opcode), is_urgent=True)

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
        outpost = stage.outpost_in(self)
        outpost.adopt(seat)
        outpost.order(partial(self._join, conn, outpost, seat, list(greeting), publishes=publishes))
        return partial(outpost.leave, seat)

    def _join(
        self, conn: Connection, outpost: Any, seat: Any, greeting: list[Any], *, publishes: bool
    ) -> None:
        if self._loop.is_session(conn._slot, conn._id):
            outpost.join(conn._slot, conn._id, seat, greeting, publishes=publishes)
        else:
            seat.end()

    def buffered(self, conn: Connection) -> int:
        """See `Connection.buffered`."""
        return self._loop.queued(conn._slot, conn._id)
