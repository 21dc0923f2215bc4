"""The turn: epoll's events served one after the other (RFC 6455 §5 to §7).

A turn waits for events, or does not, and for each ready socket receives once,
scans, calls the handler and sends once. See `triows._reactor` for why it is done
in this way; here is only how.
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from triows._kernels import _slots as s
from triows._kernels._counts import count_error
from triows._kernels._fanout import make_dirty, thirst
from triows._kernels._faults import SLOW_MESSAGE
from triows._kernels._goodbye import end, settle
from triows._kernels._inlet import (
    DIRECT,
    receive_message,
    receive_octets,
    restore,
    serve_octets,
)
from triows._kernels._libc import Octets
from triows._kernels._outlet import adjust_interest, flush
from triows._kernels._registry import kernel
from triows._kernels._replay import finish_socket, hand_out, hold_replies_back, replay_all
from triows._kernels._replies import say_masked, send_replies
from triows._kernels._rows import add_row, has_room, start_socket
from triows._kernels._scan import EXPECT_MASK, MAX_FRAGMENTS, MAX_MESSAGE, REMAINING
from triows._kernels._slots import BROKEN, LOOP
from triows._kernels._system import (
    EINTR,
    EPOLL_CTL_ADD,
    EPOLLIN,
    EPOLLOUT,
    EVENT_GENERATION,
    EVENT_MASK,
    EVENT_SLOT,
    now,
    wait_events,
    watch,
)
from triows._kernels._topics import ENOUGH_UNSENT

Integers: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.int32]

TAKE_TURNS: Final = 0
FEED: Final = 1
DISMISS: Final = 2
REPLAY: Final = 3
PAUSE: Final = 4

_FIN: Final = 0x80
_PING: Final = 0x9

SOCKETS_PER_LOOK: Final = 4  # at the clock


@kernel("int64(int64[::1], int64[:,::1], int32[::1], int64[::1], int64, int64)")
def add_connection(
    loop: Integers,
    slots: Integers,
    event: Words,
    clock: Integers,
    descriptor: int,
    session: int,
) -> int:
    """Give a socket that is past its opening handshake a slot, and watch it.

    Returns the slot, -1 if none is free, or a negative errno below that, shifted by one.
    """
    slot = loop[s.FREE_SLOT]
    next_free = slots[slot, s.NEXT_FREE] if slot >= 0 else -1
    if slot < 0:  # none that was used before: slots are touched as late as possible
        slot = loop[s.USED_SLOTS]
    if slot >= len(slots):
        return -1
    row = slots[slot]
    generation = row[s.GENERATION]
    for i in range(s.SLOT_SIZE):
        row[i] = 0
    row[EXPECT_MASK] = 1
    row[MAX_MESSAGE] = loop[s.LIMIT_MESSAGE]
    row[MAX_FRAGMENTS] = loop[s.LIMIT_FRAGMENTS]
    row[s.DESCRIPTOR] = descriptor
    row[s.GENERATION] = generation
    row[s.PHASE] = s.OPEN
    row[s.INTEREST] = EPOLLIN
    row[s.HEARD] = loop[s.NOW] = now(clock)  # the last turn may be long ago
    row[s.NEXT_FREE] = next_free
    row[s.SESSION] = session
    row[s.PING_AFTER] = loop[s.PING_INTERVAL]
    row[s.GIVE_UP_AFTER] = loop[s.PING_TIMEOUT]
    row[s.FINISH_MESSAGE_IN] = loop[s.MESSAGE_TIMEOUT]
    row[s.FINISH_CLOSE_IN] = loop[s.CLOSE_TIMEOUT]
    result = watch(loop[s.EPOLL], EPOLL_CTL_ADD, descriptor, EPOLLIN, slot, generation, event)
    if result < 0:
        row[s.PHASE] = s.FREE
        return result - 1
    loop[s.FREE_SLOT] = next_free
    loop[s.USED_SLOTS] = max(loop[s.USED_SLOTS], slot + 1)
    loop[s.CONNECTIONS] += 1
    loop[s.OPENED] += 1
    return slot


@kernel("int64(int64[::1], int64[:,::1], int32[::1], int64)", inner=True)
def send_queue(loop: Integers, slots: Integers, event: Words, slot: int) -> int:
    """Send what can be sent of a queue, and tell who waits for that; returns 0 or BROKEN."""
    row = slots[slot]
    result = flush(loop, row, event, slot)
    if result == 0 and row[s.WANTS] & s.ROOM:
        add_row(loop, slot, s.ROOM_MADE, 0, 0, 0, s.NOTICE)
    if result == 0 and row[s.SLOW] > 0:
        thirst(loop, slots, slot)
    return result


@kernel("int64(int64[::1], int64[:,::1], uint8[::1], int64)", inner=True)
def keep_replies(loop: Integers, slots: Integers, region: Octets, slot: int) -> int:
    """Let a member's replies leave with what was published in this turn; returns 0 or BROKEN."""
    row = slots[slot]
    if loop[s.OUT_STOP] == 0 or row[s.MEMBERSHIPS] == 0 or row[s.PHASE] != s.OPEN:
        return 0
    make_dirty(loop, slots, slot)
    return hold_replies_back(loop, row, region)


@kernel(f"int64({LOOP}, int64, int64)", inner=True)
def serve_socket(
    loop: Integers,
    slots: Integers,
    region: Octets,
    table: Integers,
    event: Words,
    slot: int,
    mask: int,
) -> int:
    """Do what a socket is ready for; returns 0."""
    row = slots[slot]
    result = 0
    if loop[s.COLLECTS]:
        start_socket(loop)
    if mask & EPOLLOUT and row[s.QUEUE_SIZE] > 0:
        result = send_queue(loop, slots, event, slot)
    if result == 0 and mask & ~EPOLLOUT:
        if row[s.PHASE] == s.OPEN and row[REMAINING] > DIRECT:
            result = receive_message(loop, slots, region, table, event, slot)
        else:
            result = receive_octets(loop, slots, region, table, event, slot)
    if loop[s.COLLECTS]:
        return finish_socket(loop, slots, region, event, slot, result)
    if result == 0 and loop[s.UNSENT_TOPIC] > 0:
        result = keep_replies(loop, slots, region, slot)
    if result == 0 and row[s.PHASE] == s.OPEN:  # as nearly always: without another call
        result = send_replies(loop, row, region, event, slot)
        if result == 0:
            return 0
    return settle(loop, slots, region, event, slot, result)


@kernel(f"int64({LOOP}, int64, int64)", inline=True)
def feed(
    loop: Integers,
    slots: Integers,
    region: Octets,
    table: Integers,
    event: Words,
    slot: int,
    size: int,
) -> int:
    """Serve octets that were received elsewhere and lie at region[RECEIVE_AT:]; returns 0.

    size  octets, 0..RECEIVE_SIZE; the next after those that this connection was fed before
    """
    start = loop[s.RECEIVE_AT]
    carried = restore(slots[slot], region, start)
    if loop[s.COLLECTS]:
        start_socket(loop)
        loop[s.RECEIVE_STOP] = start + size
    result = serve_octets(loop, slots, region, table, event, slot, start - carried, start + size)
    if loop[s.COLLECTS]:
        return finish_socket(loop, slots, region, event, slot, result)
    return settle(loop, slots, region, event, slot, result)


@kernel("int64(int64[::1], int64[:,::1], uint8[::1], int32[::1], int64, int64)", inline=True)
def dismiss(
    loop: Integers,
    slots: Integers,
    region: Octets,
    event: Words,
    slot: int,
    code: int,
) -> int:
    """Close an open connection for the ending *code*, or any, at once, for BROKEN; returns 0."""
    phase = slots[slot, s.PHASE]
    if phase == s.OPEN or (code == BROKEN and phase != s.FREE):
        return settle(loop, slots, region, event, slot, code)
    return 0


@kernel("int64(int64[::1], int64[:,::1], int32[::1], int64, int64)", inline=True)
def pause(loop: Integers, slots: Integers, event: Words, slot: int, is_paused: int) -> int:
    """Read from a peer no longer, or again, as if it had been heard just now; returns 0."""
    row = slots[slot]
    row[s.IS_PAUSED] = is_paused
    row[s.HEARD] = loop[s.NOW]
    row[s.IS_PINGING] = 0
    if row[s.MESSAGE_SINCE] != 0:
        row[s.MESSAGE_SINCE] = loop[s.NOW]
    if adjust_interest(loop, row, event, slot) < 0:
        end(loop, slots, event, slot)
    return 0


@kernel("int64(int64[::1], int64[:,::1], uint8[::1], int32[::1], int64)", inner=True)
def check_deadlines(
    loop: Integers, slots: Integers, region: Octets, event: Words, slot: int
) -> int:
    """Do what the time asks for on one connection (RFC 6455 §5.5.2, §7.1.1); returns 0."""
    row = slots[slot]
    time = loop[s.NOW]
    result = 0
    if row[s.PHASE] != s.OPEN:
        if time - row[s.CLOSE_SINCE] >= row[s.FINISH_CLOSE_IN]:
            result = BROKEN
    elif row[s.IS_PAUSED]:
        return 0
    elif row[s.MESSAGE_SINCE] != 0 and time - row[s.MESSAGE_SINCE] >= row[s.FINISH_MESSAGE_IN]:
        result = SLOW_MESSAGE
    elif row[s.IS_PINGING]:
        if time - row[s.HEARD] >= row[s.PING_AFTER] + row[s.GIVE_UP_AFTER]:
            result = BROKEN
    elif time - row[s.HEARD] >= row[s.PING_AFTER]:
        row[s.IS_PINGING] = 1
        if row[EXPECT_MASK] == 0:
            result = say_masked(loop, row, region, event, slot, _PING, 0, 0)
            return settle(loop, slots, region, event, slot, result)
        region[s.HEADROOM] = _FIN | _PING
        region[s.HEADROOM + 1] = 0
        loop[s.OUT_START] = s.HEADROOM
        loop[s.OUT_STOP] = s.HEADROOM + 2
        loop[s.FRAMES_OUT] += 1
    else:
        return 0
    if BROKEN < result < 0 and row[s.WANTS] & s.ENDINGS:
        add_row(loop, slot, result, 0, 0, 0, s.NOTICE)
    return settle(loop, slots, region, event, slot, result)


@kernel("int64(int64[::1], int64[:,::1], uint8[::1], int32[::1])", inline=True)
def sweep(loop: Integers, slots: Integers, region: Octets, event: Words) -> int:
    """Look at the deadlines of all connections; returns 0.

    One pass over an array, a few times a second: 5 ns a connection, which no
    heap of timers that every message moves would better. If more is to be told than there is
    room for, the next turn's pass tells the rest.
    """
    loop[s.NEXT_SWEEP] = loop[s.NOW] + loop[s.SWEEP_INTERVAL]
    for slot in range(loop[s.USED_SLOTS]):
        if loop[s.ROW_COUNT] >= s.ROW_CAPACITY:
            loop[s.NEXT_SWEEP] = loop[s.NOW]
            break
        if slots[slot, s.PHASE] != s.FREE:
            check_deadlines(loop, slots, region, event, slot)
    return 0


@kernel(f"int64({LOOP}, int32[::1])", inline=True)
def serve_event(
    loop: Integers,
    slots: Integers,
    region: Octets,
    table: Integers,
    event: Words,
    found: Words,
) -> int:
    """Do what an event that was found asks for; returns 0."""
    slot = found[EVENT_SLOT]
    if slot == s.WAKE_SLOT:
        loop[s.IS_WOKEN] = 1
    elif slots[slot, s.GENERATION] == found[EVENT_GENERATION]:
        serve_socket(loop, slots, region, table, event, slot, found[EVENT_MASK])
    if loop[s.UNSENT_OCTETS] >= ENOUGH_UNSENT:
        hand_out(loop, slots, region, event)
    return 0


@kernel("int64(int64[::1], uint8[::1], int64[::1])", inline=True)
def is_enough(loop: Integers, region: Octets, clock: Integers) -> int:
    """Return whether a turn is to serve no other socket: for want of time, or of room.

    Little is done for one socket, at most one receive and its answers: a look at the clock after
    every few sockets will do.
    """
    if loop[s.COLLECTS] and not has_room(loop, region):
        return 1
    if loop[s.CURSOR] % SOCKETS_PER_LOOK != 0:
        return 0
    return 1 if now(clock) - loop[s.NOW] > loop[s.BUDGET] else 0


@kernel(f"int64({LOOP}, int32[:,::1], int64[::1], int64)", inline=True)
def turn(
    loop: Integers,
    slots: Integers,
    region: Octets,
    table: Integers,
    event: Words,
    events: Words,
    clock: Integers,
    timeout: int,
) -> int:
    """Serve the sockets that are ready, within the budget of time.

    loop     int64 (REGISTERS,)
    slots    int64 (n, SLOT_SIZE)
    region   uint8 (HEADROOM + RECEIVE_SIZE + TAILROOM,)
    table    int64 (m, COLUMNS), m >= 2
    event    int32 (EVENT_WORDS,)
    events   int32 (k, EVENT_WORDS): those fetched and not yet served stay for the next turn
    clock    int64 (2,)
    timeout  microseconds to wait for the first event, 0 not to wait; see `wait_events`

    Returns how many events were served, or the negative errno of epoll_wait.
    """
    loop[s.TURNS] += 1
    if loop[s.CURSOR] >= loop[s.EVENT_COUNT]:
        count = wait_events(loop[s.EPOLL], events, timeout, clock)
        loop[s.CURSOR] = 0
        loop[s.EVENT_COUNT] = max(count, 0)
        if count < 0:
            count_error(loop, count)
            if count != EINTR:
                return count
    loop[s.NOW] = now(clock)
    first = loop[s.CURSOR]
    while loop[s.CURSOR] < loop[s.EVENT_COUNT]:
        found = events[loop[s.CURSOR]]
        loop[s.CURSOR] += 1
        serve_event(loop, slots, region, table, event, found)
        if is_enough(loop, region, clock):
            break
    if loop[s.UNSENT_TOPIC] > 0:
        hand_out(loop, slots, region, event)
    served = loop[s.CURSOR] - first
    loop[s.EVENTS] += served
    if loop[s.NOW] >= loop[s.NEXT_SWEEP]:
        sweep(loop, slots, region, event)
    return served


@kernel(f"int64({LOOP}, int32[:,::1], int64[::1], int64, int64, int64)")
def drive(
    loop: Integers,
    slots: Integers,
    region: Octets,
    table: Integers,
    event: Words,
    events: Words,
    clock: Integers,
    command: int,
    first: int,
    second: int,
) -> int:
    """Do one of the things that a loop is asked for: the door to all the kernels above.

    command  TAKE_TURNS  `turn` with the timeout *first*, *second* times, -1 for no end, or
                         until woken, or until there is no connection if LEAVES_EMPTY is set;
                         after `replay_all`, and until there are rows, or news of topics
             FEED        `feed` to the slot *first* octets in the number of *second*
             DISMISS     `dismiss` the slot *first* with the ending *second*
             REPLAY      `replay_all` up to the row *first*
             PAUSE       `pause` the slot *first*, or resume if *second* is 0

    One door, since what is compiled for Python contains all that it calls. Returns
    what the kernel in question returns; TAKE_TURNS, what the last turn returned.
    """
    if command == TAKE_TURNS:
        served = 0
        if loop[s.COLLECTS] or loop[s.SEND_COUNT] > 0 or loop[s.BATCH_COUNT] > 0:
            replay_all(loop, slots, region, event, loop[s.ROW_COUNT])
        while (
            second != 0
            and served >= 0
            and loop[s.IS_WOKEN] == 0
            and loop[s.ROW_COUNT] == 0
            and loop[s.HAS_NEWS] == 0
            and (loop[s.CONNECTIONS] > 0 or loop[s.LEAVES_EMPTY] == 0)
        ):
            served = turn(loop, slots, region, table, event, events, clock, first)
            second -= 1
        return served
    loop[s.NOW] = now(clock)
    if command == REPLAY:
        return replay_all(loop, slots, region, event, first)
    if command == PAUSE:
        return pause(loop, slots, event, first, second)
    if command == FEED:
        feed(loop, slots, region, table, event, first, second)
        return hand_out(loop, slots, region, event)
    return dismiss(loop, slots, region, event, first, second)
