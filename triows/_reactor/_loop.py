"""One loop: the arrays that the compiled turn works on, and the calls that work on them.

Every method but `wake` and `statistics` belongs to the one thread that drives the
loop. It knows neither Trio nor how a socket came to be open.
"""

import contextlib
import errno
import os
import select
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import attrs
import numpy as np

from triows import _kernels as kernels
from triows._engine import PerMessageDeflate, PreparedMessage, Request
from triows._kernels import slots as s
from triows._options import KeepAlive, Limits
from triows._reactor._blocks import address_of
from triows._reactor._fanout import Fan

_NS: Final = 1_000_000_000
_ROWS: Final = 129
_EVENTS: Final = 256
_NEVER: Final = 2**60
"""Nanoseconds that no clock reaches; twice as many are an int64 still."""

LAST: Final = 2**40
"""The row of a send that is made while no row is handled: all others go first."""

ARENA_ENOUGH: Final = 2**20
"""Octets of sends at which they are replayed without waiting for the next turn."""

_SENDS_ENOUGH: Final = s.SEND_FIELDS * s.SEND_CAPACITY
_GAPS: Final = {size: bytes(size) for size in (2, 4, 10)}

Octets: TypeAlias = bytes | bytearray | memoryview
Sendable: TypeAlias = Octets | PreparedMessage

SWEEP_INTERVAL: Final = 0.25
"""Seconds between looks at all deadlines: how late a timeout may come."""

BUDGET: Final = 0.001
"""Seconds that a turn may take."""


@attrs.frozen(kw_only=True)
class LoopStatistics:
    """A snapshot of a loop: counts since it started, sizes in octets."""

    connections: int
    """Open now, those that are closing included."""
    opened: int
    frames_received: int
    """Control frames and fragments included."""
    frames_sent: int
    messages_received: int
    octets_received: int
    """Of payload; of compressed messages, as they came."""
    messages_sent: int
    octets_sent: int
    """Of payload; of compressed messages, as they left."""
    turns: int
    events: int
    receives: int
    """System calls."""
    sends: int
    """System calls."""
    queued_octets: int
    """Octets that the kernel has not taken yet, over all connections."""
    incomplete_octets: int
    """Octets of unfinished messages, over all connections."""
    failures: int
    """Connections that ended because of what the peer did wrong."""
    handler_failures: int
    dropped: int
    """Sends to connections that were closed, or closing."""
    system_failures: int
    """Connections that ended because a system call failed."""
    errnos: Mapping[str, int]
    """How often system calls failed, by the errno's name; EAGAIN means that there was a queue."""

    @property
    def frames_per_turn(self) -> float:
        """How many frames a turn has served on average."""
        return self.frames_received / self.turns if self.turns else 0.0

    def __add__(self, other: "LoopStatistics") -> "LoopStatistics":
        """Return the statistics of both loops together."""
        counts = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in attrs.fields(LoopStatistics)
            if field.name != "errnos"
        }
        errnos = MappingProxyType(Counter(self.errnos) + Counter(other.errnos))
        return LoopStatistics(errnos=errnos, **counts)


NO_LOOP: Final = LoopStatistics(
    errnos=MappingProxyType({}),
    **{field.name: 0 for field in attrs.fields(LoopStatistics) if field.name != "errnos"},
)
"""The statistics of a loop that has done nothing."""


class Loop:
    """Sockets, an epoll descriptor, and the memory that they share.

    Args:
        handler: the address of a compiled handler; 0 echoes.
        limits: of messages, queues and connections.
        keepalive: when to ping a quiet peer.
        region: octets of the memory that is received into. Where there are more than for one
            socket, messages become rows for Python, of several sockets one after the other.
    """

    def __init__(
        self,
        handler: int,
        limits: Limits,
        keepalive: KeepAlive,
        *,
        region: int = s.LEAST_REGION,
    ) -> None:
        collects = region > s.LEAST_REGION
        kernels.ensure_warm()
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Most of the rows and of the region are never touched, and so cost nothing.
        self._registers = np.zeros(s.COLLECTING_REGISTERS, np.int64)
        self._words = self._registers.data.cast("B").cast("q")  # faster than NumPy, word by word
        self._slots = _make_slots(limits.max_connections)
        self._region = np.zeros(region, np.uint8)
        self._event = np.zeros(kernels.system.EVENT_WORDS, np.int32)
        self._clock = np.zeros(2, np.int64)
        self._arrays = (
            self._registers,
            self._slots,
            self._region,
            np.zeros((_ROWS, kernels.COLUMNS), np.int64),
            self._event,
            np.zeros((_EVENTS, kernels.system.EVENT_WORDS), np.int32),
            self._clock,
        )
        self._is_closed = False
        self._is_turning = False
        self._arena = bytearray()
        self._sends: list[int] = []
        self._row = LAST
        self._sessions: dict[int, int] | None = None
        self._words[s.COLLECTS] = collects
        self.fan = Fan(self)
        self.host: Callable[[int, int], None] | None = None
        """Called with the slot and the session of every newcomer."""
        self._set_up(handler, limits, keepalive)

    def _set_up(self, handler: int, limits: Limits, keepalive: KeepAlive) -> None:
        registers = self._registers
        registers[s.EPOLL] = self._epoll.fileno()
        registers[s.HANDLER] = handler
        registers[s.FREE_SLOT] = registers[s.GONE] = -1
        registers[s.DIRTY] = registers[s.UNSENT_TOPIC] = registers[s.THIRSTY] = -1
        registers[s.RECEIVE_AT] = s.HEADROOM + s.SCRATCH * registers[s.COLLECTS]
        registers[s.COMPRESSED_MOST] = s.RECEIVE_SIZE
        registers[s.SEND_LIMIT] = limits.max_unsent
        registers[s.BUDGET] = nanoseconds(BUDGET)
        registers[s.SWEEP_INTERVAL] = nanoseconds(SWEEP_INTERVAL)
        registers[s.HIGH_WATER] = limits.send_queue_octets
        registers[s.LOW_WATER] = limits.send_queue_octets // 2
        registers[s.PING_INTERVAL] = nanoseconds(keepalive.interval)
        registers[s.PING_TIMEOUT] = nanoseconds(keepalive.timeout)
        registers[s.MESSAGE_TIMEOUT] = nanoseconds(limits.message_timeout)
        registers[s.CLOSE_TIMEOUT] = nanoseconds(limits.close_timeout)
        registers[s.LIMIT_MESSAGE] = limits.max_message
        registers[s.LIMIT_FRAGMENTS] = limits.max_fragments
        registers[s.INCOMPLETE_LIMIT] = limits.max_incomplete
        result = kernels.system.watch(
            self._epoll.fileno(),
            kernels.system.EPOLL_CTL_ADD,
            self._wake,
            kernels.system.EPOLLIN,
            s.WAKE_SLOT,
            0,
            self._event,
        )
        _check(result)

    # For any thread.

    def wake(self) -> None:
        """Make `take_turns` return soon; harmless once the loop is closed."""
        if not self._is_closed:
            os.eventfd_write(self._wake, 1)

    def fileno(self) -> int:
        """The epoll descriptor, which is readable when there is something to serve."""
        return self._epoll.fileno()

    @property
    def connections(self) -> int:
        """How many sockets it holds."""
        return self._words[s.CONNECTIONS]

    def statistics(self) -> LoopStatistics:
        """Return a snapshot; taken by another thread, its counts may be of different moments."""
        count = self._registers[: s.REGISTERS].tolist()
        return LoopStatistics(
            connections=count[s.CONNECTIONS],
            opened=count[s.OPENED],
            frames_received=count[s.FRAMES_IN],
            frames_sent=count[s.FRAMES_OUT],
            messages_received=count[s.MESSAGES_IN],
            octets_received=count[s.OCTETS_IN],
            messages_sent=count[s.MESSAGES_OUT],
            octets_sent=count[s.OCTETS_OUT],
            turns=count[s.TURNS],
            events=count[s.EVENTS],
            receives=count[s.RECEIVES],
            sends=count[s.SENDS],
            queued_octets=count[s.QUEUED],
            incomplete_octets=count[s.INCOMPLETE],
            failures=count[s.FAILURES],
            handler_failures=count[s.HANDLER_FAILURES],
            dropped=count[s.DROPPED],
            system_failures=count[s.SYSTEM_FAILURES],
            errnos=_name_errnos(count[s.ERRNOS : s.ERRNOS + s.ERRNO_COUNT]),
        )

    # For the thread that drives it.

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
        """Take over a socket that is past its opening handshake.

        Args:
            descriptor: of a TCP or Unix stream socket; closed by the loop from now on,
                also if this fails.
            leftover: octets that were received behind the request; served first.
            request: of its opening handshake, for a handler in Python.
            remote: its peer's address, likewise.
            session: the number that names it for good; 0 if no one will ask.
            deflate: what its messages are compressed with, of a `CallbackLoop`.

        Raises:
            OSError: it cannot be watched, or the loop is full.
        """
        del request, remote
        assert deflate is None
        for _ in self._feed(self._enter(descriptor, session), leftover):
            pass

    def _enter(self, descriptor: int, session: int, *, allows_rsv1: bool = False) -> int:
        """Give a socket a slot, which is returned; see `add`."""
        if self._is_closed:
            os.close(descriptor)
            _check(-errno.EBADF)
        slot = kernels.turn.add_connection(
            self._registers, self._slots, self._event, self._clock, descriptor, session
        )
        if slot < 0:
            os.close(descriptor)
            _check(slot + 1 or -errno.EMFILE)  # no slot is free
        if allows_rsv1:
            self._slots[slot, kernels.ALLOWED_RSV] = kernels.RSV1
        if self._sessions is not None:
            self._sessions[session] = slot
        if self.host is not None:
            self.host(slot, session)
        return int(slot)

    def _feed(self, slot: int, leftover: bytes) -> Iterator[None]:
        """Serve octets received elsewhere, in pieces; yields after each, while it is open."""
        for start in range(0, len(leftover), s.RECEIVE_SIZE):
            piece = leftover[start : start + s.RECEIVE_SIZE]
            if self._slots[slot, s.PHASE] == s.FREE:
                return  # it has ended
            at = self._registers[s.RECEIVE_AT]
            self._region[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
            self._drive(kernels.turn.FEED, slot, len(piece))
            yield

    def _drive(self, command: int, first: int, second: int) -> int:
        return int(kernels.turn.drive(*self._arrays, command, first, second))

    def take_turns(self, timeout: float, most: int = -1) -> int:
        """Serve what is ready, waiting for it up to *timeout* seconds at a time.

        Args:
            timeout: seconds, 0 not to wait.
            most: turns; -1 for as many as there are until `wake`.

        Returns:
            How many events the last turn served.

        Raises:
            OSError: epoll_wait failed.
        """
        if self._sends or self.fan.noted:
            self._put_sends()
            served = self._drive(kernels.turn.TAKE_TURNS, round(timeout * 1e6), most)
            self._clear_sends()
        else:
            served = self._drive(kernels.turn.TAKE_TURNS, round(timeout * 1e6), most)
        if self._words[s.IS_WOKEN]:
            self._words[s.IS_WOKEN] = 0
            os.eventfd_read(self._wake)
        if self._words[s.HAS_NEWS] and not self._words[s.COLLECTS]:
            self._look_after()
        return served if served >= 0 else _check(served)

    def _look_after(self) -> None:
        """Take note of members that have ended, and look after those that are slow."""
        self.fan.attend()
        slot = self._words[s.GONE]
        self._words[s.GONE] = -1
        while slot >= 0:
            following = int(self._slots[slot, s.NEXT_FREE])
            self._release_slot(slot)
            slot = following

    def _release_slot(self, slot: int) -> None:
        """Let a slot that has ended be another connection's."""
        self.fan.release(slot)
        self._slots[slot, s.NEXT_FREE] = self._words[s.FREE_SLOT]
        self._words[s.FREE_SLOT] = slot

    @property
    def is_turning(self) -> bool:
        """Whether a turn is under way: then who asks is a callback, or another thread."""
        return self._is_turning

    @property
    def has_events(self) -> bool:
        """Whether events were fetched that the last turn had no time for."""
        return self._words[s.CURSOR] < self._words[s.EVENT_COUNT]

    def send_to(self, session: int, payload: Sendable, opcode: int) -> None:
        """Note a message, or a Close, for *session*; it leaves with the next turn at the latest.

        Args:
            session: where there is no such connection any more, the message is dropped.
            payload: copied.
            opcode: TEXT, BINARY or CLOSE.
        """
        if self._sessions is None or len(self._sessions) > 2 * self.connections + 1_000:
            self._sessions = self._map_sessions()
        slot = self._sessions.get(session)
        if slot is None:
            self._words[s.DROPPED] += 1
        else:
            self._send_to_slot(slot, session, payload, opcode)

    def send_all(self, items: Iterable[tuple[int, Sendable, int]]) -> None:
        """Send each item's payload to its session, as `send_to`, now."""
        with self._turning():
            for item in items:
                self.send_to(*item)
        self.settle()

    def queued(self, slot: int, session: int) -> int:
        """Return the octets that wait for a session's peer; for any thread."""
        row = self._slots[slot]
        return int(row[s.QUEUE_SIZE]) if row[s.SESSION] == session else 0

    def is_session(self, slot: int, session: int) -> bool:
        """Say whether a slot is still that of a session, which is open."""
        row = self._slots[slot]
        return bool(row[s.SESSION] == session and row[s.PHASE] == s.OPEN)

    @contextlib.contextmanager
    def _turning(self) -> Iterator[None]:
        """Make no wake-up of what is sent in the block: who drives the loop is here."""
        assert not self._is_turning, "a callback may not drive its loop"
        self._is_turning = True
        try:
            yield
        finally:
            self._is_turning = False

    def _send_to_slot(self, slot: int, session: int, payload: Sendable, opcode: int) -> None:
        self._note_send(slot, session, plain(payload), opcode)

    def _note_send(self, slot: int, session: int, payload: Octets, opcode: int) -> None:
        """Append to the sends and the arena; the kernel looks whether the slot is the session's.

        Args:
            slot: of the connection.
            session: its number.
            payload: copied.
            opcode: with `s.UNFINISHED` and `s.COMPRESSED` as need be.
        """
        if self.fan.noted:
            self.fan.catch_up(slot)
        size = len(payload)
        arena = self._arena
        arena += _GAPS[2 if size <= 125 else 4 if size < 65_536 else 10]
        start = len(arena)
        arena += payload
        sends = self._sends
        sends += (self._row, slot, session, opcode, start, size)
        if len(sends) >= _SENDS_ENOUGH or len(arena) >= ARENA_ENOUGH:
            self._replay()
        elif len(sends) == s.SEND_FIELDS and not self._is_turning:
            self._ask_for_turn()

    def note_batch(self) -> None:
        """Take note that something was published."""
        if not (self._is_turning or self._sends):
            self._ask_for_turn()

    def cut_off(self, slot: int) -> None:
        """Fail a connection that is too slow, with 1013."""
        self._drive(kernels.turn.DISMISS, slot, kernels.SLOW_PEER)

    def _ask_for_turn(self) -> None:
        """See to it that what was just noted leaves soon."""
        self.wake()

    def _map_sessions(self) -> dict[int, int]:
        """Map the sessions that there are to their slots: made when first someone asks."""
        sessions = self._slots[: self._words[s.USED_SLOTS], s.SESSION]
        slots = np.flatnonzero(sessions)
        return dict(zip(sessions[slots].tolist(), slots.tolist(), strict=True))

    def _put_sends(self) -> None:
        """Show the kernel the sends, until `_clear_sends`."""
        words, sends = self._words, self._sends
        words[s.SEND_COUNT] = len(sends) // s.SEND_FIELDS
        if sends:
            words[s.SENDS_AT : s.SENDS_AT + len(sends)] = array("q", sends)
            words[s.ARENA] = address_of(self._arena)
            words[s.ARENA_SIZE] = len(self._arena)
        if self.fan.noted:
            self.fan.put()

    def _clear_sends(self) -> None:
        self.fan.clear()
        self._sends = []
        self._arena = bytearray()

    def _replay(self) -> None:
        """Send what was sent, after the answers to the rows that have been handled."""
        self._put_sends()
        self._drive(kernels.turn.REPLAY, min(self._row, self._words[s.ROW_COUNT]), 0)
        self._clear_sends()
        if self._words[s.HAS_NEWS]:
            self.fan.attend()

    def settle(self) -> None:
        """Send what is due, before anything is waited for."""
        if self._sends or self.fan.noted:
            self._replay()

    def leave_when_empty(self, leaves: bool) -> None:  # noqa: FBT001 - a setting
        """Let `take_turns` return as soon as there is no connection, or not."""
        self._registers[s.LEAVES_EMPTY] = leaves

    def say_goodbye(self) -> None:
        """Start the closing handshake on every open connection, with 1001."""
        for slot in self._taken_slots():
            self._drive(kernels.turn.DISMISS, slot, kernels.GOING_AWAY)

    def close(self) -> None:
        """Drop every connection and give everything back; harmless if done before."""
        if self._is_closed:
            return
        for slot in self._taken_slots():
            self._drive(kernels.turn.DISMISS, slot, s.BROKEN)
        self._is_closed = True
        self.fan.close()
        self._epoll.close()
        os.close(self._wake)

    def _taken_slots(self) -> Iterator[int]:
        used = int(self._registers[s.USED_SLOTS])
        yield from np.flatnonzero(self._slots[:used, s.PHASE] != s.FREE).tolist()


def plain(payload: Sendable) -> Octets:
    """Return what is sent where nothing is compressed."""
    return payload.payload if isinstance(payload, PreparedMessage) else payload


def _make_slots(count: int) -> np.ndarray:
    """Make so many slots, free and untouched; the first begins with a line of the cache."""
    words = np.zeros(count * s.SLOT_SIZE + s.LINE, np.int64)
    skipped = -words.ctypes.data // words.itemsize % s.LINE
    return words[skipped : skipped + count * s.SLOT_SIZE].reshape(count, s.SLOT_SIZE)


def _name_errnos(counts: list[int]) -> Mapping[str, int]:
    return MappingProxyType(
        {errno.errorcode.get(code, "other"): count for code, count in enumerate(counts) if count}
    )


def nanoseconds(seconds: float) -> int:
    """Return a setting in seconds as the kernels have it."""
    return _NEVER if seconds == float("inf") else round(seconds * _NS)


def _check(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
