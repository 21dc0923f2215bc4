"""Who drives a loop: a thread that blocks in epoll_wait, or a task of Trio's.

Both take what they are given, sockets above all, through a queue that the loop's
own thread empties between turns; a wake-up is an octet in an eventfd, however
many follow each other. Neither knows how a socket came to be open.
"""

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol
from weakref import WeakSet

import attrs
import trio

from triows._engine import PerMessageDeflate, Request
from triows._nursery import unwrapped_nursery
from triows._reactor._fanout import Fan
from triows._reactor._loop import BUDGET, SWEEP_INTERVAL, Loop, LoopStatistics
from triows._reactor._outbox import Item, Outbox
from triows._reactor._topics import Home, Seat


class Guest(Protocol):
    """One who has to do with a loop, and may outlive it, or not live as long."""

    def end(self) -> None:
        """Take note that the loop is closed; in its thread."""


class Driver:
    """Drives a loop for a reactor; see the two kinds below.

    Args:
        loop: driven by no one else; closed in the end.
        grace: seconds that peers have for the closing handshake once it is cancelled.
        outbox: what it sends from; closed in the end.
    """

    def __init__(self, loop: Loop, grace: float, outbox: Outbox) -> None:
        self._loop = loop
        self._grace = grace
        self._outbox = outbox
        self._deadline = math.inf
        self._is_finishing = self._is_stopping = False
        self._calls: deque[Callable[[], None]] = deque()
        self._guests: WeakSet[Guest] = WeakSet()
        self._lock = threading.RLock()  # a signal's handler may send
        self._is_over = False
        self._is_calling = False
        self._taken: deque[Item] = deque()
        self._dropped = 0
        self._is_watching = False
        self._on_empty: Callable[[], None] | None = None
        outbox.attach(self._wake)

    @property
    def connections(self) -> int:
        """Sockets that it holds or was given."""
        return self._loop.connections + len(self._calls)

    def add(
        self,
        descriptor: int,
        leftover: bytes,
        request: Request | None,
        remote: Any,
        session: int,
        *,
        deflate: PerMessageDeflate | None = None,
    ) -> None:
        """Hand over an open socket, and what `Loop.add` wants to know of it."""
        about = (leftover, request, remote, session)
        if not self._post(partial(self._add, descriptor, *about, deflate=deflate)):
            os.close(descriptor)

    @property
    def is_empty(self) -> bool:
        """Whether it has no connection, and nothing to do."""
        # In this order: a call moves from the second to the third, and to the first in the end.
        return not (self._calls or self._is_calling or self._outbox or self._loop.connections)

    def watch(self, on_empty: Callable[[], None]) -> None:
        """Have *on_empty* called, in the loop's thread, as soon as `is_empty`; once."""
        self._on_empty = on_empty
        self._post(self._watch)

    def finish(self) -> None:
        """Let `run` end as soon as `is_empty`."""
        self._post(self._finish)

    def statistics(self) -> LoopStatistics:
        """Return a snapshot of the loop, with what never came to it."""
        snapshot = self._loop.statistics()
        return attrs.evolve(snapshot, dropped=snapshot.dropped + self._dropped)

    async def run(self) -> None:
        """Serve until there is nothing more to do after `finish`.

        Cancelling says goodbye to every peer with 1001, and drops those that have not
        answered when the grace is over.
        """
        raise NotImplementedError

    def turn(self, timeout: float) -> None:
        """Serve what is ready, waiting for something so many seconds; in place of `run`."""
        self.check_idle()
        is_busy = self._take_calls()
        until = time.monotonic() + timeout
        while True:
            if is_busy or self._loop.has_events:
                timeout = 0.0
            else:
                timeout = max(0.0, min(until - time.monotonic(), SWEEP_INTERVAL))
            is_last = timeout == 0
            served = self._loop.take_turns(timeout, 1)
            is_busy = self._take_calls()
            if served or is_busy or is_last:
                break
        if self._loop.has_events:
            self._loop.wake()  # `fileno` knows nothing of what a turn had no time for

    def check_idle(self) -> None:
        """Refuse to go on where a callback asks for it.

        Raises:
            RuntimeError: a callback is running.
        """
        if self._loop.is_turning:
            raise RuntimeError("a callback may not drive its loop")

    def fileno(self) -> int:
        """Return the loop's descriptor."""
        return self._loop.fileno()

    def close(self) -> None:
        """Say goodbye and end, in place of `run`'s cancellation, without any grace."""
        self._stop()
        self._end()

    def host(self, home: Home, make_seat: Callable[[], Seat]) -> None:
        """Attach every connection to a channel, to which its compiled handler publishes."""
        fan = self._loop.fan

        def join(slot: int, session: int) -> None:
            fan.join(home, slot, session, make_seat(), publishes=True)

        self._loop.host = join

    @property
    def fan(self) -> Fan:
        """The loop's topics; for the loop's own thread."""
        return self._loop.fan

    def post(self, call: Callable[[], None]) -> bool:
        """Have something done in the loop's thread; returns whether that is to come."""
        return self._post(call)

    def tell_end(self, guest: Guest) -> bool:
        """Have one told, while it is there, once the loop is closed; returns as `post`."""
        with self._lock:
            if not self._is_over:
                self._guests.add(guest)
            return not self._is_over

    def _post(self, call: Callable[[], None]) -> bool:
        with self._lock:
            if self._is_over:
                return False
            self._calls.append(call)
            self._loop.wake()  # under the lock: else the loop may close in between
        return True

    def _wake(self) -> None:
        with self._lock:
            if not self._is_over:
                self._loop.wake()

    # For whatever drives the loop.

    def _take_calls(self) -> bool:
        """Do what others have asked for; returns whether that was anything."""
        # First, since who was given a session before sending to it is to find it there.
        is_busy = bool(self._outbox or self._calls)
        if self._outbox:
            self._taken.extend(self._outbox.take())
        while self._calls:
            self._is_calling = True
            try:
                self._calls.popleft()()
            finally:
                self._is_calling = False
        self._send_taken()
        self._loop.settle()
        self._loop.fan.collect()
        return is_busy

    def _send_taken(self) -> None:
        if self._taken:
            taken, self._taken = self._taken, deque()
            self._loop.send_all(taken)

    def _add(self, descriptor: int, *about: Any, deflate: PerMessageDeflate | None) -> None:
        if self._is_stopping:
            os.close(descriptor)
            return
        with contextlib.suppress(OSError):  # closed: for its peer, it was the one too many
            self._loop.add(descriptor, *about, deflate=deflate)

    def _watch(self) -> None:
        self._is_watching = True
        self._loop.leave_when_empty(True)

    def _look(self) -> None:
        """Tell who watches for it that there is no connection."""
        if self._is_watching and self.is_empty:
            self._is_watching = False
            self._loop.leave_when_empty(self._is_finishing)
            if self._on_empty is not None:
                self._on_empty()

    def _finish(self) -> None:
        self._is_finishing = True
        self._loop.leave_when_empty(True)

    def _stop(self) -> None:
        """Start to end in order."""
        self._deadline = time.monotonic() + self._grace
        self._is_stopping = True
        self._finish()
        self._send_taken()
        if self._outbox:
            self._loop.send_all(self._outbox.take())  # sent before, so it goes out before
        self._loop.say_goodbye()

    def _goes_on(self) -> bool:
        self._look()
        if self._is_finishing and self.is_empty:
            return False
        return time.monotonic() < self._deadline

    def _end(self) -> None:
        with self._lock:
            self._is_over = True
        self._is_stopping = True
        try:
            self._take_calls()
        finally:  # whatever a callback raised
            self._dropped += len(self._taken) + self._outbox.close()
            self._loop.close()
            for guest in [*self._guests]:
                guest.end()


class ThreadDriver(Driver):
    """Drives its loop in a thread of its own, which neither waits for Trio nor holds the GIL."""

    def host(self, home: Home, make_seat: Callable[[], Seat]) -> None:
        """See `Driver.host`."""
        outpost = home.outpost_in(self)

        def join(slot: int, session: int) -> None:
            seat = make_seat()
            outpost.adopt(seat)
            outpost.join(slot, session, seat, publishes=True)

        self._loop.host = join

    @trio.lowlevel.enable_ki_protection  # else the thread may never be told to stop
    async def run(self) -> None:
        """Serve until done; see `Driver.run`."""
        is_done = trio.Event()

        @trio.lowlevel.enable_ki_protection
        async def join() -> None:
            with trio.CancelScope(shield=True):
                try:
                    await trio.to_thread.run_sync(self._drive, limiter=trio.CapacityLimiter(1))
                finally:
                    if not self._is_over:  # there was no thread to be had
                        self._end()
                    is_done.set()

        async with unwrapped_nursery() as nursery:
            nursery.start_soon(join)
            try:
                await is_done.wait()
            finally:
                self._post(self._stop)

    def _drive(self) -> None:
        try:
            while self._goes_on():
                if self._deadline == math.inf:
                    self._loop.take_turns(SWEEP_INTERVAL)
                else:
                    self._loop.take_turns(min(SWEEP_INTERVAL, self._grace), 1)
                self._take_calls()
                self._after_turns()
        finally:
            self._end()

    def _after_turns(self) -> None:
        """Do what is to be done now and then in the thread."""


LINGER = 0.000_05
"""Seconds for which a loop in Trio's thread may wait for events instead of giving way.

About what a pass of Trio's costs: waiting in vain doubles that cost, at worst.
"""

MOST_MISSES = 6
"""Tries in vain, one after the other, that make the next one rarer: 1 in 2**6."""


class Odds:
    """Whether to try what may be in vain: the less often the more often it was."""

    def __init__(self) -> None:
        self._misses = self._rests = 0

    def are_good(self) -> bool:
        """Say whether to try this time."""
        if self._rests:
            self._rests -= 1
            return False
        return True

    def learn(self, *, is_hit: bool) -> None:
        """Take note of what came of trying."""
        self._misses = 0 if is_hit else min(self._misses + 1, MOST_MISSES)
        self._rests = 2**self._misses - 1


class InlineDriver(Driver):
    """Drives its loop in a task of Trio's, a bounded time at a stretch."""

    def __init__(self, loop: Loop, grace: float, outbox: Outbox) -> None:
        super().__init__(loop, grace, outbox)
        self._odds = Odds()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Serve until done; see `Driver.run`."""
        try:
            await self._serve_and_tick()
        except BaseException as error:
            if not isinstance(error, Exception):  # cancelled, or interrupted
                with trio.CancelScope(shield=True):
                    self._take_calls()
                    self._stop()
                    await self._serve_and_tick()
            raise
        finally:
            self._end()

    async def _serve_and_tick(self) -> None:
        async with unwrapped_nursery() as nursery:
            nursery.start_soon(self._tick)
            await self._serve()
            nursery.cancel_scope.cancel()

    async def _tick(self) -> None:
        """Wake the loop for its deadlines: a timeout of each wait's own would cost more."""
        while True:
            await trio.sleep(SWEEP_INTERVAL)
            self._loop.wake()

    async def _serve(self) -> None:
        take_turns = self._loop.take_turns
        while self._goes_on():
            if self._loop.has_events:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._loop.fileno())
            enough = time.monotonic() + BUDGET
            patience = LINGER if self._may_linger() else 0.0
            turns = 0
            while take_turns(patience, 1):
                turns += 1
                if time.monotonic() >= enough:
                    break
            if patience:  # the first turn had something to serve anyway
                self._odds.learn(is_hit=turns > 1)
            self._take_calls()

    def _may_linger(self) -> bool:
        """Say whether to wait a moment for events, to save a pass of Trio's.

        Only while nothing else is to run, and the less often the more often it was in vain.
        """
        if not self._odds.are_good():
            return False
        statistics = trio.lowlevel.current_statistics()
        return not (statistics.tasks_runnable or statistics.run_sync_soon_queue_size)
