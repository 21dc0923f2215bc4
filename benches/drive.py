"""The load generator's compiled loop: epoll_wait, recv, compare, send, by way of libc.

Its cost bounds what can be measured: it has to outrun a server that spends 4 µs on a message. It
knows descriptors and octets; what they mean, and how a connection came to be, it does not know.
"""

import platform

import numba
import numpy as np
from numba import types

EVENTS = 256  # events taken from one epoll_wait
PATIENCE = 5.0  # seconds without any event after which the server counts as stalled

# struct epoll_event is packed on x86-64 alone; as 32-bit words: events, data, ...
EVENT_WORDS = 3 if platform.machine() == "x86_64" else 4
DATUM_WORD = EVENT_WORDS - 2

FD, VARIANT, SENT, RECEIVED, SENT_AT, STATE_COLUMNS = range(6)
SLOT, OFFSET, DETAIL, LATENCY_COUNT, VERDICT_ROWS = range(5)
FINE, WRONG_OCTET, SURPLUS, CLOSED, SYSTEM_ERROR, STALLED = range(6)

EPOLLIN, EPOLLOUT, EPOLL_CTL_MOD = 1, 4, 3
EINTR, EAGAIN = 4, 11
MSG_DONTWAIT, MSG_NOSIGNAL = 0x40, 0x4000
CLOCK_MONOTONIC = 1

recv = types.ExternalFunction("recv", types.intp(types.intc, types.uintp, types.uintp, types.intc))
send = types.ExternalFunction("send", types.intp(types.intc, types.uintp, types.uintp, types.intc))
memcmp = types.ExternalFunction("memcmp", types.intc(types.uintp, types.uintp, types.uintp))
epoll_wait = types.ExternalFunction(
    "epoll_wait", types.intc(types.intc, types.uintp, types.intc, types.intc)
)
_epoll_ctl = types.ExternalFunction(
    "epoll_ctl", types.intc(types.intc, types.intc, types.intc, types.uintp)
)
_clock_gettime = types.ExternalFunction("clock_gettime", types.intc(types.intc, types.uintp))
_errno_location = types.ExternalFunction("__errno_location", types.CPointer(types.intc)())

compiled = numba.njit(nogil=True, _nrt=False)
"""Compiles what makes no array: who refers to those that there are is then not counted."""


@numba.njit(nogil=True, _nrt=True)
def errno():
    """Return the C library's errno of this thread."""
    return np.int64(numba.carray(_errno_location(), 1)[0])


@compiled
def monotonic(clock):
    """Return the monotonic time in nanoseconds; *clock* is room for a struct timespec."""
    _clock_gettime(CLOCK_MONOTONIC, clock.ctypes.data)
    return clock[0] * 1_000_000_000 + clock[1]


@compiled
def _watch(epoll, fd, interest, event):
    """Set what *epoll* reports of *fd*; *event* is room for one struct epoll_event."""
    event[0] = interest
    event[DATUM_WORD] = fd
    event[DATUM_WORD + 1] = 0
    return _epoll_ctl(epoll, EPOLL_CTL_MOD, fd, event.ctypes.data)


@compiled
def _write(epoll, row, frames, event):
    """Send what is left of the row's batch; wait for writability where it does not fit.

    Returns 0, or an errno.
    """
    size = frames.shape[1]
    had_sent = row[SENT]
    address = frames.ctypes.data + row[VARIANT] * size
    n = send(row[FD], address + had_sent, size - had_sent, MSG_DONTWAIT | MSG_NOSIGNAL)
    if n < 0:
        error = errno()
        if error not in (EAGAIN, EINTR):
            return error
        n = 0
    row[SENT] = had_sent + n
    if row[SENT] < size and had_sent == 0:
        _watch(epoll, row[FD], EPOLLIN | EPOLLOUT, event)
    elif row[SENT] == size and (had_sent > 0 or n < size):
        _watch(epoll, row[FD], EPOLLIN, event)
    return np.int64(0)


@compiled
def _check(row, arrivals, n, replies, verdict):
    """Compare the *n* octets that arrived with what the row's batch must bring back."""
    size = replies.shape[1]
    start = row[RECEIVED]
    if n > size - start:
        verdict[OFFSET] = size
        verdict[DETAIL] = n - (size - start)
        return SURPLUS
    expected = replies.ctypes.data + row[VARIANT] * size + start
    if memcmp(arrivals.ctypes.data, expected, n) != 0:
        for i in range(n):
            if arrivals[i] != replies[row[VARIANT], start + i]:
                verdict[OFFSET] = start + i
                verdict[DETAIL] = arrivals[i]
                break
        return WRONG_OCTET
    row[RECEIVED] = start + n
    return FINE


@compiled
def _read(row, arrivals, replies, verdict):
    """Receive once and check it; leaves FINE with no octets where nothing was there."""
    n = recv(row[FD], arrivals.ctypes.data, arrivals.size, MSG_DONTWAIT)
    if n > 0:
        return _check(row, arrivals, n, replies, verdict)
    if n == 0:
        return CLOSED
    error = errno()
    if error in (EAGAIN, EINTR):
        return FINE
    verdict[DETAIL] = error
    return SYSTEM_ERROR


@compiled
def _begin(epoll, row, now, frames, event, verdict):
    """Send the row's next batch."""
    row[VARIANT] = (row[VARIANT] + 1) % frames.shape[0]
    row[SENT] = 0
    row[RECEIVED] = 0
    row[SENT_AT] = now
    error = _write(epoll, row, frames, event)
    if error != 0:
        verdict[DETAIL] = error
        return SYSTEM_ERROR
    return FINE


@compiled
def _serve_event(
    epoll, row, interest, frames, replies, arrivals, event, clock, latencies, verdict, deadline
):
    """Handle one ready socket; returns (code, 1 if its batch is done and no new one began)."""
    if interest & EPOLLOUT:
        error = _write(epoll, row, frames, event)
        if error != 0:
            verdict[DETAIL] = error
            return SYSTEM_ERROR, 0
    if interest & ~EPOLLOUT == 0:
        return FINE, 0
    code = _read(row, arrivals, replies, verdict)
    if code != FINE or row[RECEIVED] < replies.shape[1]:
        return code, 0
    now = monotonic(clock)
    latencies[verdict[LATENCY_COUNT] % latencies.size] = now - row[SENT_AT]
    verdict[LATENCY_COUNT] += 1
    if now >= deadline:
        return FINE, 1
    return _begin(epoll, row, now, frames, event, verdict), 0


@compiled
def drive(
    epoll, slots, state, frames, replies, arrivals, events, clock, latencies, verdict, nanoseconds
):
    """Echo on every connection for so many nanoseconds, then wait for what is outstanding.

    epoll      descriptor that watches every connection, its datum the connection's own
    slots      int64 (descriptors,): row of each descriptor in *state*
    state      int64 (connections, STATE_COLUMNS), all at rest
    frames     uint8 (variants, octets): the batches to send
    replies    uint8 (variants, octets): what each must bring back
    arrivals   uint8, room for one receive
    events     int32 (EVENTS + 1, EVENT_WORDS); the last row is room for epoll_ctl
    clock      int64 (2,): room for a struct timespec
    latencies  int64, a ring of nanoseconds from a batch's send to its last octet
    verdict    int64 (VERDICT_ROWS,), zeroed; holds the count of batches and the fault's place

    Returns FINE, or what went wrong.
    """
    event = events[EVENTS]
    now = monotonic(clock)
    deadline = now + nanoseconds
    outstanding = state.shape[0]
    for slot in range(state.shape[0]):
        verdict[SLOT] = slot
        code = _begin(epoll, state[slot], monotonic(clock), frames, event, verdict)
        if code != FINE:
            return code
    while outstanding > 0:
        count = epoll_wait(epoll, events.ctypes.data, EVENTS, int(PATIENCE * 1000))
        if count == 0:
            return STALLED
        for i in range(count):
            slot = slots[events[i, DATUM_WORD]]
            verdict[SLOT] = slot
            code, done = _serve_event(
                epoll, state[slot], events[i, 0], frames, replies, arrivals, event, clock,
                latencies, verdict, deadline,
            )  # fmt: skip
            if code != FINE:
                return code
            outstanding -= done
    return FINE
