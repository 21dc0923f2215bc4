"""The chatters' compiled loop: say what is due, hear what comes, check it.

It knows descriptors and octets, where in a text the figures are, and no more of a chat.
"""

import numpy as np
from drive import (
    DATUM_WORD,
    EAGAIN,
    EINTR,
    EVENTS,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    epoll_wait,
    errno,
    monotonic,
    recv,
    send,
)
from numba import njit

TEXT = 80  # characters of a message, some of them these:
TIME_AT, TIME_DIGITS = 0, 19  # when it was sent, in nanoseconds
WHO_AT, WHO_DIGITS = 20, 5
NUMBER_AT, NUMBER_DIGITS = 26, 7
BINS, BIN = 40_000, 50_000  # of a histogram of latencies: so many, of so many nanoseconds
SENT, HEARD, WRONG, ENDED, REFUSED, COUNTS = range(6)
MESSAGE = np.frombuffer(b'{"type":"message"', np.uint8)


@njit(nogil=True)
def _number(octets, start, digits):
    """Read a decimal number."""
    value = np.int64(0)
    for i in range(start, start + digits):
        value = value * 10 + (np.int64(octets[i]) - 48)
    return value


@njit(nogil=True)
def _write(octets, start, digits, value):
    """Write a decimal number."""
    for i in range(start + digits - 1, start - 1, -1):
        octets[i] = 48 + value % 10
        value //= 10


@njit(nogil=True)
def _hear(chatter, octets, start, stop, room_size, heard, histogram, counts, now):
    """Check the messages in octets[start:stop], each a frame; returns where the rest begins."""
    while stop - start >= 2:
        size, header = np.int64(octets[start + 1]), 2
        if size == 126:
            size, header = np.int64(octets[start + 2]) << 8 | np.int64(octets[start + 3]), 4
        elif size == 127:
            counts[WRONG] += 1
            return stop
        if stop - start < header + size:
            break
        if octets[start] == 0x88:
            counts[ENDED] += 1
        payload, end = start + header, start + header + size
        is_message = size > len(MESSAGE) + TEXT
        for i in range(len(MESSAGE)):
            is_message = is_message and octets[payload + i] == MESSAGE[i]
        if is_message:
            text = end - 2 - TEXT
            who = _number(octets, text + WHO_AT, WHO_DIGITS)
            number = _number(octets, text + NUMBER_AT, NUMBER_DIGITS)
            place = who % room_size
            if who // room_size != chatter // room_size or heard[chatter, place] != number:
                counts[WRONG] += 1
            heard[chatter, place] = number + 1
            counts[HEARD] += 1
            latency = now - _number(octets, text + TIME_AT, TIME_DIGITS)
            histogram[min(max(0, latency // BIN), BINS - 1)] += 1
        start = end
    return start


@njit(nogil=True)
def chat(
    epoll,
    chatters,
    fds,
    frames,
    text_at,
    said,
    due,
    order,
    cursor,
    until,
    arrivals,
    events,
    tails,
    tail_sizes,
    room_size,
    heard,
    histograms,
    counts,
    wanted,
):
    """Say what is due and hear what comes, until a time, or *wanted* messages were heard.

    Returns the place in *order* of what is to be said next.
    """  # fmt: skip
    clock = np.zeros(2, np.int64)
    now = monotonic(clock)
    while now < until and counts[HEARD] < wanted:
        while cursor < len(due) and due[cursor] <= now:
            chatter = order[cursor]
            _write(frames[chatter], text_at + TIME_AT, TIME_DIGITS, now)
            _write(frames[chatter], text_at + NUMBER_AT, NUMBER_DIGITS, said[chatter])
            size = send(fds[chatter], frames[chatter].ctypes.data, frames.shape[1],
                         MSG_DONTWAIT | MSG_NOSIGNAL)  # fmt: skip
            if size == frames.shape[1]:
                said[chatter] += 1
                counts[SENT] += 1
            else:
                counts[REFUSED] += 1
            cursor += 1
            now = monotonic(clock)
        ready = epoll_wait(epoll, events.ctypes.data, EVENTS, 1)
        now = monotonic(clock)
        for i in range(max(0, ready)):
            chatter = chatters[events[i, DATUM_WORD]]
            tail = tail_sizes[chatter]
            arrivals[:tail] = tails[chatter, :tail]
            size = recv(fds[chatter], arrivals[tail:].ctypes.data, len(arrivals) - tail,
                         MSG_DONTWAIT)  # fmt: skip
            if size <= 0:
                error = errno() if size < 0 else 0
                if error not in (EAGAIN, EINTR):
                    counts[ENDED] += 1
                    tail_sizes[chatter] = 0
                continue
            rest = _hear(chatter, arrivals, 0, tail + size, room_size, heard,
                         histograms[chatter // room_size], counts, now)  # fmt: skip
            tail = tail + size - rest
            tails[chatter, :tail] = arrivals[rest : rest + tail]
            tail_sizes[chatter] = tail
    return cursor
