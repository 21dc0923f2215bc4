"""Octets on their way out: sent at once if the kernel takes them, else queued (RFC 6455 §6.1).

What a connection's queue holds is one block, sent from its front. EPOLLOUT is
asked for only while there is a queue, and EPOLLIN is given up while the queue is
above the high-water mark: a peer that does not read is not read.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from triows._kernels._counts import count_error
from triows._kernels._libc import Octets
from triows._kernels._registry import kernel
from triows._kernels._scan import EXPECT_MASK
from triows._kernels._slots import (
    BROKEN,
    CLOSED,
    DESCRIPTOR,
    EPOLL,
    GENERATION,
    HEARD,
    HIGH_WATER,
    INTEREST,
    IS_PAUSED,
    IS_PINGING,
    LAST_PONG,
    LOW_WATER,
    NOW,
    PHASE,
    PONGS_QUEUED,
    QUEUE,
    QUEUE_ROOM,
    QUEUE_SIZE,
    QUEUE_START,
    QUEUED,
    SENDS,
    SYSTEM_FAILURES,
)
from triows._kernels._system import (
    EAGAIN,
    EINTR,
    EPOLL_CTL_MOD,
    EPOLLIN,
    EPOLLOUT,
    block,
    move,
    release,
    resize,
    send,
    watch,
)

Integers: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.int32]


@kernel("int64(int64[::1], int64)", inner=True)
def note_failure(loop: Integers, code: int) -> int:
    """Count a connection that ends because a system call failed with *code*; returns BROKEN."""
    loop[SYSTEM_FAILURES] += 1
    count_error(loop, code)
    return BROKEN


@kernel("int64(int64[::1], int64[::1], int32[::1], int64)", inner=True)
def adjust_interest(loop: Integers, row: Integers, event: Words, slot: int) -> int:
    """Ask epoll for what the connection can use now; returns 0 or BROKEN."""
    wanted = 0
    queued = row[QUEUE_SIZE]
    if queued > 0:
        wanted |= EPOLLOUT
    is_paused = (
        row[IS_PAUSED]
        or queued > loop[HIGH_WATER]
        or (queued > loop[LOW_WATER] and row[INTEREST] & EPOLLIN == 0)
    )
    if not is_paused and (row[PHASE] != CLOSED or row[EXPECT_MASK] == 0):
        wanted |= EPOLLIN
    if wanted == row[INTEREST]:
        return 0
    row[INTEREST] = wanted
    result = watch(
        loop[EPOLL], EPOLL_CTL_MOD, row[DESCRIPTOR], wanted, slot, row[GENERATION], event
    )
    return 0 if result == 0 else note_failure(loop, result)


@kernel("int64(int64[::1], int64[::1], uint8[::1], int64, int64)", inline=True)
def send_now(loop: Integers, row: Integers, octets: Octets, start: int, size: int) -> int:
    """Send what the kernel takes of octets[start:start + size]; returns the count, or BROKEN."""
    loop[SENDS] += 1
    count = send(row[DESCRIPTOR], octets, start, size)
    if count >= 0:
        return count
    if count in (EAGAIN, EINTR):
        count_error(loop, count)
        return 0
    return note_failure(loop, count)


@kernel("int64(int64[::1], int64[::1], uint8[::1], int64, int64)", inner=True)
def enqueue(loop: Integers, row: Integers, octets: Octets, start: int, size: int) -> int:
    """Append octets[start:start + size] to the queue; returns 0, or BROKEN for want of memory.

    What waits is moved to the front of the block only where at least as much has left it: so
    each octet is moved a bounded number of times, however long a slow peer's queue stays full.
    """
    if size > row[QUEUE_ROOM] - row[QUEUE_START] - row[QUEUE_SIZE]:
        is_half_empty = row[QUEUE_START] >= row[QUEUE_SIZE]
        if row[QUEUE_START] > 0:
            held = block(row[QUEUE], row[QUEUE_ROOM])
            move(held, 0, held, row[QUEUE_START], row[QUEUE_SIZE])
            row[QUEUE_START] = 0
        if not is_half_empty or size > row[QUEUE_ROOM] - row[QUEUE_SIZE]:
            room = 2 * row[QUEUE_SIZE] + size
            handle = resize(row[QUEUE], room)
            if handle == 0:
                return BROKEN
            row[QUEUE] = handle
            row[QUEUE_ROOM] = room
    move(
        block(row[QUEUE], row[QUEUE_ROOM]), row[QUEUE_START] + row[QUEUE_SIZE], octets, start, size
    )
    row[QUEUE_SIZE] += size
    row[LAST_PONG] = 0
    loop[QUEUED] += size
    return 0


@kernel("int64(int64[::1], int64[::1])", inner=True)
def drop_queue(loop: Integers, row: Integers) -> int:
    """Forget the queue and free its block; returns 0."""
    loop[QUEUED] -= row[QUEUE_SIZE]
    row[QUEUE] = release(row[QUEUE])
    row[QUEUE_START] = 0
    row[QUEUE_SIZE] = 0
    row[QUEUE_ROOM] = 0
    row[PONGS_QUEUED] = 0
    return 0


@kernel("int64(int64[::1], int64[::1], int32[::1], int64, uint8[::1], int64, int64)", inner=True)
def emit(
    loop: Integers, row: Integers, event: Words, slot: int, octets: Octets, start: int, size: int
) -> int:
    """Send octets[start:start + size] behind what waits already.

    loop    int64 (REGISTERS,)
    row     int64 (SLOT_SIZE,): the slot's
    event   int32 (EVENT_WORDS,): room for a call
    octets  uint8 (n,); read only

    Returns 0, or BROKEN.
    """
    sent = 0
    if row[QUEUE_SIZE] == 0:
        sent = send_now(loop, row, octets, start, size)
        if sent == size:
            return 0
        if sent < 0:
            return BROKEN
    if enqueue(loop, row, octets, start + sent, size - sent) < 0:
        return BROKEN
    return adjust_interest(loop, row, event, slot)


@kernel("int64(int64[::1], int64[::1], int32[::1], int64)", inner=True)
def flush(loop: Integers, row: Integers, event: Words, slot: int) -> int:
    """Send what the kernel takes of the queue, which is not empty; returns 0, or BROKEN.

    Where the peer was waited for, that it takes something is a sign of its life.
    """
    held = block(row[QUEUE], row[QUEUE_ROOM])
    sent = send_now(loop, row, held, row[QUEUE_START], row[QUEUE_SIZE])
    if sent < 0:
        return BROKEN
    if sent > 0 and row[INTEREST] & EPOLLOUT:
        row[HEARD] = loop[NOW]
        row[IS_PINGING] = 0
    row[QUEUE_START] += sent
    row[QUEUE_SIZE] -= sent
    loop[QUEUED] -= sent
    if row[QUEUE_SIZE] == 0:
        drop_queue(loop, row)
    return adjust_interest(loop, row, event, slot)
