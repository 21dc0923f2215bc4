"""The stream driver: one connection over any `trio.abc.Stream`.

Three tasks serve a connection, and only one of them ever waits for the
transport to take octets:

- The **pump** reads, feeds the engine and hands the events to the channel. On a
  plain socket it waits for readability and receives into a buffer that all
  connections of a run share: between the two there is no checkpoint, so an idle
  connection owns no buffer.
- The **writer** sends what waits. It alone awaits the transport's
  ``send_all``, which, when cancelled, cannot say how much it sent: that is why
  no caller of ``send`` may be the one to await it. What is queued is sent whole
  or the connection ends. It is started by the first octets that need it.
- The **watch** sleeps until the engine's next deadline.

Most sends never meet the writer. On a plain socket `flush` tries one
non-blocking write at once, from whichever task queued the octets, unless some
are waiting already; the writer is woken only for what the kernel did not take.
TLS and other streams always take the way through the writer. That a transport
which had kept octets waiting takes some is a sign that the peer lives: a Ping may
stand in line behind them for longer than keepalive would bear.

A write that fails does not end the connection at once: what the peer sent
before it went, its Close frame above all, may still wait to be read. The pump
is given a moment for that; meanwhile nothing more can be sent.

All three tasks are protected from Ctrl-C, which would tear what they do between two
checkpoints, and shielded: a connection that is cancelled from outside still
has to close in an orderly way, which is bounded by deadlines of its own.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import numpy as np
import trio
from trio.lowlevel import enable_ki_protection

from triows import _kernels as kernels
from triows._driver import Sink
from triows._engine import (
    Closed,
    Deflated,
    Engine,
    Event,
    Failed,
    InflateError,
    Lost,
    Octets,
    Part,
    PerMessageDeflate,
    Phase,
    PreparedMessage,
)
from triows._errors import ProtocolError

RECEIVE_SIZE = 65_536
"""Octets of one receive. More loses cache locality, less costs system calls."""

SEND_SIZE = 65_536
"""Octets given to a stream's ``send_all`` at once."""

LAST_READS = 1.0
"""Seconds that the pump has, once writing failed, to find what the peer sent last."""

LINGER = 1.0
"""Seconds that a failed connection over a stream that cannot be half-closed stays open,
so that the peer can read the Close frame before unread octets make TCP reset it."""

STREAM_ERRORS = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
"""What a stream may raise because of its peer, or because it was closed elsewhere.

An `OSError`, of which `ssl.SSLError` is one, should not come from a Trio stream, but does.
"""


class StreamDriver:
    """Drives an engine over a stream until the connection has ended: a `Driver`.

    Args:
        stream: open and past the opening handshake; owned from now on.
        engine: the connection's.
        sink: takes the events.
    """

    def __init__(self, stream: trio.abc.Stream, engine: Engine, sink: Sink) -> None:
        self._stream = stream
        self._engine = engine
        self._sink = sink
        self._descriptor = plain_descriptor(stream)
        self._tasks: trio.Nursery | None = None
        self._alarm = trio.CancelScope()
        self._resumed: trio.Event | None = None
        self._writer = Bell()
        self._is_writing = False
        self._is_writer_started = False
        self._has_ended_writing = False
        self._may_come_earlier = False
        self.is_broken = False
        """Whether the transport no longer takes octets."""

    # What the channel asks for: see `triows._driver.Driver`.

    @property
    def is_open(self) -> bool:
        """Whether something can be queued."""
        return self._engine.phase is Phase.OPEN and not self.is_broken

    @property
    def is_deaf(self) -> bool:
        """Whether nothing more will be delivered."""
        return self._engine.is_closed

    @property
    def unsent(self) -> int:
        """Octets that the transport has not taken yet."""
        return self._engine.outbound.size

    @property
    def outcome(self) -> Closed | Failed | Lost | None:
        """How the connection ended, or None while it has not."""
        return self._engine.outcome

    @property
    def deflate(self) -> PerMessageDeflate | None:
        """What messages are compressed with, if that was agreed on."""
        return self._engine.deflate

    def send(self, opcode: int, payload: bytes) -> None:
        """Queue a message."""
        self._engine.send(opcode, payload)
        self.flush()

    def offer(self, opcode: int, payload: bytes, mark: int) -> bool:
        """Queue a message if that needs no waiting."""
        if not self.is_open or self._engine.outbound.size >= mark:
            return False
        self.send(opcode, payload)
        return True

    def send_prepared(self, message: PreparedMessage) -> None:
        """Queue a message that goes to others too."""
        self._engine.send_prepared(message)
        self.flush()

    def send_part(
        self, opcode: int, payload: bytes, *, is_last: bool, compress: bool = True
    ) -> None:
        """Queue a part of a message."""
        self._engine.send_part(opcode, payload, is_last=is_last, compress=compress)
        self.flush()
        if is_last:
            self._sink.make_room()

    @property
    def is_mid_message(self) -> bool:
        """Whether no other message may be sent before a part that is to come."""
        return self._engine.is_sending_parts

    def ping(self, payload: bytes) -> None:
        """Queue a Ping; ValueError if it is too long."""
        self._engine.ping(payload)
        self.flush()

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake; ValueError if that may not be sent."""
        self._engine.close(code, reason, trio.current_time())
        self.flush()

    def begin_parts(self) -> Part | Deflated | None:
        """Deliver the message under way, or the next one, in parts."""
        return self._engine.begin_parts()

    def end_parts(self) -> None:
        """Deliver the next message whole, after all."""
        self._engine.end_parts()

    def flush(self) -> None:
        """Send what the engine has queued, now if the transport takes it, else soon."""
        if self.is_broken:
            self._engine.outbound.clear()
        elif self._descriptor is not None and not self._is_writing:
            self._write_now(self._descriptor)
        if self._engine.outbound.size and not self._is_writing:
            self._start_writing()
        self._settle()

    def pause(self) -> None:
        """Stop reading; the peer will be held back by TCP."""
        if self._resumed is None:
            self._resumed = trio.Event()
            self._engine.pause(trio.current_time())

    def resume(self) -> None:
        """Read again."""
        if self._resumed is not None:
            self._engine.resume(trio.current_time())
            self._resumed.set()
            self._resumed = None
            self._rearm()

    def fail(self, error: InflateError) -> None:
        """Give the connection up because of a message that cannot be inflated."""
        self._react(self._engine.fail(error, trio.current_time()))

    def cut_off(self) -> None:
        """Fail the connection for being too slow, with 1013."""
        if self.is_open:
            error = ProtocolError(*kernels.ENDINGS[kernels.SLOW_PEER])
            self._react(self._engine.fail(error, trio.current_time()))

    def abort(self, why: str) -> None:
        """Drop the transport without further ado."""
        self._react(self._engine.receive_eof(trio.current_time(), why))

    # The life of the connection.

    def start(self, leftover: bytes) -> bool:  # noqa: ARG002 - as the protocol has it
        """Decline to do without tasks."""
        return False

    @enable_ki_protection
    async def run(self, leftover: bytes = b"") -> None:
        """Serve the connection until its transport has been dropped.

        Args:
            leftover: octets that were received behind the opening handshake.

        Cancelling does nothing: `abort`, or a deadline, ends it.
        """
        with trio.CancelScope(shield=True):
            try:
                async with trio.open_nursery() as self._tasks:
                    if self.is_broken:  # by what was sent before there were tasks
                        self._start(self._lose_after, LAST_READS, "sending failed")
                    self._tasks.start_soon(self._watch)
                    self._tasks.start_soon(self._pump, leftover)
            finally:
                await self._drop()

    @enable_ki_protection
    async def _pump(self, leftover: bytes) -> None:
        if leftover:
            self._react(self._engine.receive(leftover, trio.current_time()))
        else:
            self._react(())
        self._sink.make_room()  # what had to wait for this task may just have left
        if self._descriptor is None:
            await self._pump_stream()
        else:
            await self._pump_socket(self._descriptor)

    async def _pump_socket(self, descriptor: int) -> None:
        engine = self._engine
        octets = shared_octets()
        buffers = [octets.data]
        while True:
            if self._resumed is not None:
                await self._wait_until_reading()
            try:
                await trio.lowlevel.wait_readable(descriptor)
                count = os.readv(descriptor, buffers)
            except BlockingIOError:
                continue
            except STREAM_ERRORS as error:
                self._lose(f"receiving failed: {error}")
                return
            if not count:
                self._hear_the_end()
                return
            self._react(engine.receive(octets[:count], trio.current_time()))

    async def _pump_stream(self) -> None:
        while True:
            await self._wait_until_reading()
            try:
                octets = await self._stream.receive_some(RECEIVE_SIZE)
            except STREAM_ERRORS as error:
                self._lose(f"receiving failed: {error.__cause__ or error}")
                return
            if not octets:
                self._hear_the_end()
                return
            self._react(self._engine.receive(octets, trio.current_time()))

    async def _wait_until_reading(self) -> None:
        while self._resumed is not None and not self._engine.is_closed:
            await self._resumed.wait()

    @enable_ki_protection
    async def _watch(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._engine.next_deadline()) as self._alarm:
                await trio.sleep_forever()
            self._react(self._engine.handle_timeout(trio.current_time()))
            self._may_come_earlier = True

    def _rearm(self) -> None:
        """Wake the watch earlier if need be; that it wakes too early does no harm."""
        self._alarm.deadline = min(self._alarm.deadline, self._engine.next_deadline())

    def _react(self, events: Iterable[Event]) -> None:
        """Do what follows from the engine's having been told something."""
        if events:
            self._sink.deliver(events)
        if self._engine.outbound.size:
            self.flush()
        else:
            self._settle()
        if self._engine.has_partial or self._may_come_earlier:
            self._may_come_earlier = False
            self._rearm()

    def _settle(self) -> None:
        """See whether this is the end."""
        engine = self._engine
        if engine.phase is Phase.OPEN:
            return
        self._rearm()
        if engine.phase is Phase.GONE or (engine.may_drop and not engine.outbound.size):
            if self._tasks is not None:
                self._tasks.cancel_scope.cancel()
        elif engine.phase is Phase.FAILED and not engine.outbound.size:
            self._end_writing()

    def _end_writing(self) -> None:
        """Tell the peer that nothing will follow, but go on reading (RFC 6455 §7.1.7)."""
        if self._has_ended_writing:
            return
        self._has_ended_writing = True
        if not isinstance(self._stream, trio.SocketStream):
            self._start(self._lose_after, LINGER, "the connection failed")
            return
        try:
            self._stream.socket.shutdown(trio.socket.SHUT_WR)
        except OSError as error:
            self._lose(f"shutting down failed: {error.strerror}")

    def _hear_the_end(self) -> None:
        """The peer will send no more; what it is still owed after both Closes goes out first."""
        if not (self._engine.may_drop and self._engine.outbound.size):
            self._lose("the peer ended the transport")

    def _lose(self, why: str) -> None:
        self._react(self._engine.receive_eof(trio.current_time(), why))

    @enable_ki_protection
    async def _lose_after(self, delay: float, why: str) -> None:
        await trio.sleep(delay)
        self._lose(why)

    async def _drop(self) -> None:
        """Close the transport: with a TLS farewell if all went well."""
        went_well = self._engine.phase is Phase.CLOSED
        self._descriptor = None  # the number may soon be another connection's
        self.is_broken = True
        self._engine.outbound.clear()
        self._sink.deliver(self._engine.receive_eof(trio.current_time(), "it was dropped"))
        self._sink.make_room()
        try:
            if went_well:
                with trio.move_on_after(LINGER), contextlib.suppress(*STREAM_ERRORS):
                    await self._stream.aclose()
        finally:
            await trio.aclose_forcefully(self._stream)

    # Writing.

    def _write_now(self, descriptor: int) -> None:
        """Give the kernel what it takes without waiting."""
        outbound = self._engine.outbound
        try:
            while outbound.size:
                outbound.consume(os.writev(descriptor, outbound.peek()))
        except BlockingIOError:
            pass
        except OSError as error:
            self._break_off(f"sending failed: {error.strerror}")

    def _start_writing(self) -> None:
        if self._tasks is None:
            return  # `run` will see to it
        self._is_writing = True
        if self._is_writer_started:
            self._writer.ring()
        else:
            self._is_writer_started = True
            self._tasks.start_soon(self._write)

    @enable_ki_protection
    async def _write(self) -> None:
        outbound = self._engine.outbound
        while not self.is_broken:
            if not outbound.size:
                self._is_writing = False
                self._settle()
                await self._writer.wait()
            elif self._descriptor is not None:
                await self._write_later(self._descriptor)
            else:
                await self._send_some()
            self._sink.make_room()

    async def _write_later(self, descriptor: int) -> None:
        outbound = self._engine.outbound
        try:
            await trio.lowlevel.wait_writable(descriptor)
        except STREAM_ERRORS as error:
            self._break_off(f"sending failed: {error}")
            return
        unsent = outbound.size
        self._write_now(descriptor)
        if outbound.size < unsent:
            self._engine.note_progress(trio.current_time())

    async def _send_some(self) -> None:
        outbound = self._engine.outbound
        octets = outbound.head(SEND_SIZE)
        try:
            await self._stream.send_all(octets)
        except STREAM_ERRORS as error:
            self._break_off(f"sending failed: {error.__cause__ or error}")
        else:
            outbound.consume(len(octets))
            if len(octets) == SEND_SIZE:
                self._engine.note_progress(trio.current_time())

    def _break_off(self, why: str) -> None:
        """Stop sending; let the pump find out what the peer said last."""
        self.is_broken = True
        self._engine.outbound.clear()
        self._sink.make_room()
        self._start(self._lose_after, LAST_READS, why)

    def _start(self, function: Callable[[float, str], Awaitable[None]], *args: Any) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(function, *args)


class Bell:
    """One task waits, another rings; ringing before the wait is not forgotten."""

    __slots__ = ("_has_rung", "_sleeper")

    def __init__(self) -> None:
        self._sleeper: trio.lowlevel.Task | None = None
        self._has_rung = False

    def ring(self) -> None:
        """Wake the sleeper, or the next one."""
        if self._sleeper is None:
            self._has_rung = True
        else:
            trio.lowlevel.reschedule(self._sleeper)
            self._sleeper = None

    async def wait(self) -> None:
        """Sleep until the bell rings."""
        if not self._has_rung:
            self._sleeper = trio.lowlevel.current_task()

            def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
                self._sleeper = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        self._has_rung = False


def plain_descriptor(stream: trio.abc.Stream) -> int | None:
    """Return the descriptor behind *stream* if readv and writev may be used on it."""
    if isinstance(stream, trio.SocketStream) and sys.platform != "win32":
        return stream.socket.fileno()
    return None


def local_address(stream: trio.abc.Stream) -> Any:
    """Return this side's address; connections that have the same share one object."""
    return _one_of_its_kind(socket_address(stream, "getsockname"))


@functools.lru_cache(maxsize=256)
def _one_of_its_kind(address: Any) -> Any:
    return address


def socket_address(stream: trio.abc.Stream, which: str) -> Any:
    """Return an address of the socket behind *stream*, or None where there is none."""
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    socket = getattr(stream, "socket", None)
    try:
        return None if socket is None else getattr(socket, which)()
    except OSError:
        return None


_shared: trio.lowlevel.RunVar[Octets] = trio.lowlevel.RunVar("triows receive buffer")


def shared_octets() -> Octets:
    """Return the receive buffer that all plain sockets of this run share."""
    try:
        return _shared.get()
    except LookupError:
        octets = np.zeros(RECEIVE_SIZE, np.uint8)
        _shared.set(octets)
        return octets
