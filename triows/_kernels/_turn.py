"""The turn: epoll's events served one after the other (RFC 6455 §5 to §7).

A turn waits for events, or does not, and for each ready socket receives once,
scans, calls the handler and sends once. See `triows._reactor` for why it is done
in this way; here is only how.
"""

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from triows._kernels import _slots as s
from triows._kernels._faults import (
    ENDINGS,
    GOING_AWAY,
    HANDLER_CLOSED,
    HANDLER_FAILED,
    SLOW_MESSAGE,
    TOO_MUCH_INCOMPLETE,
)
from triows._kernels._handler import call_handler
from triows._kernels._headers import read_number, write_header
from triows._kernels._libc import Octets, borrow, piece
from triows._kernels._masking import mask
from triows._kernels._outlet import drop_queue, emit, flush
from triows._kernels._registry import kernel
from triows._kernels._scan import (
    CLOSE_OPCODE,
    EXPECT_MASK,
    FAULT,
    IS_FULL,
    MAX_FRAGMENTS,
    MAX_MESSAGE,
    MESSAGE_END,
    MESSAGE_OPCODE,
    NEXT,
    REMAINING,
    ROW_FLAGS,
    ROW_OPCODE,
    ROW_SIZE,
    ROW_START,
    WHOLE,
    scan,
)
from triows._kernels._slots import BROKEN
from triows._kernels._system import (
    EAGAIN,
    EINTR,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLLIN,
    EPOLLOUT,
    EVENT_GENERATION,
    EVENT_MASK,
    EVENT_SLOT,
    block,
    close,
    end_writing,
    move,
    now,
    receive,
    release,
    resize,
    wait_events,
    watch,
)
from triows._kernels._utf8 import validate_utf8

Integers: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.int32]

# What a handler answers (`triows.Response`).
DISCARD: Final = 0
ECHO: Final = 1
CLOSE: Final = 2

_FIN: Final = 0x80
_PING: Final = 0x9
_PONG: Final = 0xA

MESSAGE_HEADROOM: Final = 16
"""Octets before a joined message in its block: room for its reply's header."""

DIRECT: Final = 16_384
"""Octets still to come of a frame above which they are received into the message's block."""

DIRECT_SIZE: Final = 262_144
"""Octets of one receive into a message's block."""

_FRAME_ROOM: Final = 64


def _close_frames() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Build the Close frame of every ending, row -code for each code."""
    frames = np.zeros((len(ENDINGS) + 1, _FRAME_ROOM), np.uint8)
    sizes = np.zeros(len(ENDINGS) + 1, np.int64)
    for code, (close_code, reason) in ENDINGS.items():
        payload = int(close_code).to_bytes(2, "big") + reason.encode()
        frame = bytes((_FIN | CLOSE_OPCODE, len(payload))) + payload
        frames[-code, : len(frame)] = np.frombuffer(frame, np.uint8)
        sizes[-code] = len(frame)
    return frames, sizes


_CLOSE_FRAMES, _CLOSE_SIZES = _close_frames()

# A loop, as the kernels pass it on: its registers, slots, region, table and room for an event.
_LOOP: Final = "int64[::1], int64[:,::1], uint8[::1], int64[:,::1], int32[::1]"


@kernel("int64(int64[::1], int64[:,::1], int32[::1], int64)")
def add_connection(loop: Integers, slots: Integers, event: Words, descriptor: int) -> int:
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
    row[:] = 0
    row[EXPECT_MASK] = 1
    row[MAX_MESSAGE] = loop[s.LIMIT_MESSAGE]
    row[MAX_FRAGMENTS] = loop[s.LIMIT_FRAGMENTS]
    row[s.DESCRIPTOR] = descriptor
    row[s.GENERATION] = generation
    row[s.PHASE] = s.OPEN
    row[s.INTEREST] = EPOLLIN
    row[s.HEARD] = loop[s.NOW]
    row[s.NEXT_FREE] = next_free
    result = watch(loop[s.EPOLL], EPOLL_CTL_ADD, descriptor, EPOLLIN, slot, generation, event)
    if result < 0:
        row[s.PHASE] = s.FREE
        return result - 1
    loop[s.FREE_SLOT] = next_free
    loop[s.USED_SLOTS] = max(loop[s.USED_SLOTS], slot + 1)
    loop[s.CONNECTIONS] += 1
    loop[s.OPENED] += 1
    return slot


@kernel("int64(int64[::1], int64[::1])", inner=True)
def drop_message(loop: Integers, row: Integers) -> int:
    """Free the block of the message under way; returns 0."""
    loop[s.INCOMPLETE] -= row[s.MESSAGE_STORED]
    row[s.MESSAGE] = release(row[s.MESSAGE])
    row[s.MESSAGE_STORED] = 0
    row[s.MESSAGE_ROOM] = 0
    return 0


@kernel("int64(int64[::1], int64[:,::1], int32[::1], int64)", inner=True)
def end(loop: Integers, slots: Integers, event: Words, slot: int) -> int:
    """Close a connection's socket and free its slot, under another generation; returns 0.

    Removed from epoll first: a forked child that holds the descriptor too would
    keep its events coming.
    """
    row = slots[slot]
    watch(loop[s.EPOLL], EPOLL_CTL_DEL, row[s.DESCRIPTOR], 0, slot, 0, event)
    close(row[s.DESCRIPTOR])
    drop_message(loop, row)
    drop_queue(loop, row)
    row[s.CARRY] = release(row[s.CARRY])
    row[s.CARRY_SIZE] = 0
    row[s.DESCRIPTOR] = -1
    row[s.PHASE] = s.FREE
    row[s.GENERATION] = (row[s.GENERATION] + 1) & 0x7FFF_FFFF
    row[s.NEXT_FREE] = loop[s.FREE_SLOT]
    loop[s.FREE_SLOT] = slot
    loop[s.CONNECTIONS] -= 1
    return 0


@kernel("int64(int64[::1], uint8[::1], int64, int64, int64)", inline=True)
def place(loop: Integers, region: Octets, opcode: int, start: int, size: int) -> int:
    """Make the frame with the payload region[start:start + size] the next of the replies.

    The first stays where it is: its header goes into the octets that the mask has
    left free. Those behind it move up, so that all leave in one piece; each is
    shorter than what it answers, so that nothing that is still needed is overwritten.

    Returns 0.
    """
    header = 2 if size <= 125 else 4 if size < 65_536 else 10
    if loop[s.OUT_STOP] == 0:
        loop[s.OUT_START] = start - header
        loop[s.OUT_STOP] = start - header
    elif loop[s.OUT_STOP] + header != start:
        move(region, loop[s.OUT_STOP] + header, region, start, size)
    write_header(region, loop[s.OUT_STOP], _FIN | opcode, size, -1)
    loop[s.OUT_STOP] += header + size
    return 0


@kernel("int64(int64[::1], int64[::1], uint8[::1], int64)", inner=True)
def fail(loop: Integers, row: Integers, region: Octets, code: int) -> int:
    """Say goodbye with a Close for *code* behind the replies so far (RFC 6455 §7.1.7).

    What was received and not served is overwritten: it will not be. Returns 0.
    """
    if row[s.PHASE] == s.OPEN:
        if loop[s.OUT_STOP] == 0:
            loop[s.OUT_START] = loop[s.OUT_STOP] = s.HEADROOM
        size = _CLOSE_SIZES[-code]
        for i in range(size):
            region[loop[s.OUT_STOP] + i] = _CLOSE_FRAMES[-code, i]
        loop[s.OUT_STOP] += size
        row[s.CLOSE_SINCE] = loop[s.NOW]
    drop_message(loop, row)
    row[s.PHASE] = s.CLOSING if code in (GOING_AWAY, HANDLER_CLOSED) else s.FAILED
    if code == HANDLER_FAILED:
        loop[s.HANDLER_FAILURES] += 1
    elif row[s.PHASE] == s.FAILED:
        loop[s.FAILURES] += 1
    return 0


@kernel("int64(int64[::1], int64[::1], uint8[::1], uint8[::1], int64)", inline=True)
def ask(loop: Integers, row: Integers, region: Octets, payload: Octets, opcode: int) -> int:
    """Ask the handler about a message; returns whether to echo it: 1, or 0."""
    loop[s.MESSAGES_IN] += 1
    loop[s.OCTETS_IN] += len(payload)
    answer = ECHO
    if loop[s.HANDLER] != 0:
        answer = call_handler(loop[s.HANDLER], payload, opcode)
    if answer == ECHO:
        loop[s.MESSAGES_OUT] += 1
        loop[s.OCTETS_OUT] += len(payload)
        return 1
    if answer == CLOSE:
        fail(loop, row, region, HANDLER_CLOSED)
    elif answer != DISCARD:
        fail(loop, row, region, HANDLER_FAILED)
    return 0


@kernel("int64(int64[::1], int64[::1], int64)", inner=True)
def reserve(loop: Integers, row: Integers, size: int) -> int:
    """Make room for *size* more octets of the message under way; returns 0 or an ending.

    The block doubles, so that a message is copied once at the most; it never
    grows ahead of what the peer has sent by more than that.
    """
    if size > loop[s.INCOMPLETE_LIMIT] - loop[s.INCOMPLETE]:
        return TOO_MUCH_INCOMPLETE
    stored = row[s.MESSAGE_STORED]
    if size > row[s.MESSAGE_ROOM] - MESSAGE_HEADROOM - stored:
        room = MESSAGE_HEADROOM + max(2 * stored, stored + size)
        handle = resize(row[s.MESSAGE], room)
        if handle == 0:
            return TOO_MUCH_INCOMPLETE
        row[s.MESSAGE] = handle
        row[s.MESSAGE_ROOM] = room
    return 0


@kernel("int64(int64[::1], int64[::1], uint8[::1], int64, int64)", inner=True)
def store(loop: Integers, row: Integers, region: Octets, start: int, size: int) -> int:
    """Append region[start:start + size] to the message under way; returns 0 or an ending."""
    result = reserve(loop, row, size)
    if result < 0:
        return result
    message = block(row[s.MESSAGE], row[s.MESSAGE_ROOM])
    move(message, MESSAGE_HEADROOM + row[s.MESSAGE_STORED], region, start, size)
    row[s.MESSAGE_STORED] += size
    loop[s.INCOMPLETE] += size
    return 0


@kernel("int64(int64[::1], int64[::1], uint8[::1], int32[::1], int64)", inline=True)
def send_replies(loop: Integers, row: Integers, region: Octets, event: Words, slot: int) -> int:
    """Send the replies so far in one piece; returns 0 or BROKEN."""
    start = loop[s.OUT_START]
    size = loop[s.OUT_STOP] - start
    loop[s.OUT_START] = loop[s.OUT_STOP] = 0
    return emit(loop, row, event, slot, region, start, size) if size > 0 else 0


@kernel("int64(int64[::1], int64[::1], uint8[::1], int32[::1], int64, int64)", inner=True)
def finish_message(
    loop: Integers, row: Integers, region: Octets, event: Words, slot: int, opcode: int
) -> int:
    """Serve the message that has been joined in its block; returns 0 or BROKEN."""
    size = row[s.MESSAGE_STORED]
    message = block(row[s.MESSAGE], row[s.MESSAGE_ROOM])
    result = 0
    if row[s.PHASE] == s.OPEN and ask(
        loop, row, region, piece(message, MESSAGE_HEADROOM, size), opcode
    ):
        header = 2 if size <= 125 else 4 if size < 65_536 else 10
        start = MESSAGE_HEADROOM - header
        write_header(message, start, _FIN | opcode, size, -1)
        result = send_replies(loop, row, region, event, slot)  # what came before it, first
        if result == 0:
            result = emit(loop, row, event, slot, message, start, header + size)
    drop_message(loop, row)
    row[s.MESSAGE_SINCE] = 0
    return result


@kernel("int64(int64[::1], int64[::1], uint8[::1], int64[::1])", inner=True)
def serve_control(loop: Integers, row: Integers, region: Octets, found: Integers) -> int:
    """Answer a control frame (RFC 6455 §5.5); returns 0."""
    opcode = found[ROW_OPCODE]
    if opcode == _PING and row[s.PHASE] == s.OPEN:
        place(loop, region, _PONG, found[ROW_START], found[ROW_SIZE])
    elif opcode == CLOSE_OPCODE:
        if row[s.PHASE] == s.OPEN:
            place(loop, region, CLOSE_OPCODE, found[ROW_START], found[ROW_SIZE])
            row[s.CLOSE_SINCE] = loop[s.NOW]
        drop_message(loop, row)
        row[s.PHASE] = s.CLOSED
    return 0


@kernel("int64(int64[::1], int64[::1], uint8[::1], int32[::1], int64, int64[::1])", inner=True)
def serve_piece(
    loop: Integers, row: Integers, region: Octets, event: Words, slot: int, found: Integers
) -> int:
    """Serve what one row of the scan describes; returns 0, BROKEN or an ending."""
    opcode = found[ROW_OPCODE]
    start = found[ROW_START]
    size = found[ROW_SIZE]
    if opcode >= CLOSE_OPCODE:
        return serve_control(loop, row, region, found)
    if found[ROW_FLAGS] == WHOLE:
        if row[s.PHASE] == s.OPEN and ask(loop, row, region, piece(region, start, size), opcode):
            place(loop, region, opcode, start, size)
        return 0
    result = store(loop, row, region, start, size)
    if result == 0 and found[ROW_FLAGS] & MESSAGE_END:
        return finish_message(loop, row, region, event, slot, opcode)
    return result


@kernel("int64(int64[::1], int64[::1], uint8[::1], int64, int64)", inner=True)
def carry_over(loop: Integers, row: Integers, region: Octets, start: int, stop: int) -> int:
    """Keep region[start:stop], an unfinished header or control frame; returns 0 or an ending."""
    size = stop - start
    row[s.CARRY_SIZE] = size
    if size == 0:
        row[s.CARRY] = release(row[s.CARRY])
    else:
        if row[s.CARRY] == 0:
            row[s.CARRY] = resize(0, s.HEADROOM)
        if row[s.CARRY] == 0:
            return TOO_MUCH_INCOMPLETE
        move(block(row[s.CARRY], s.HEADROOM), 0, region, start, size)
    if size == 0 and row[s.MESSAGE_STORED] == 0 and row[REMAINING] == 0:
        row[s.MESSAGE_SINCE] = 0
    elif row[s.MESSAGE_SINCE] == 0:
        row[s.MESSAGE_SINCE] = loop[s.NOW]
    return 0


@kernel("int64(int64[::1], int64[::1], uint8[::1], int64, int64)", inner=True)
def serve_plain(loop: Integers, row: Integers, region: Octets, start: int, stop: int) -> int:
    """Serve the frames that need nothing special: whole, masked, unfragmented, up to 64 KiB.

    Nearly all frames are such, and for them this does what `scan` and `serve_piece`
    do, without writing anything down. It stops before any other frame, and before
    whatever is wrong with one, which it leaves as it was for the scan to find.

    Returns the first octet that is not served.
    """
    handler = loop[s.HANDLER]
    limit = row[MAX_MESSAGE]
    out_stop = loop[s.OUT_STOP]
    messages = octets = echoes = echoed = 0
    while stop - start >= 6 and row[s.PHASE] == s.OPEN:
        first: Any = np.int64(region[start])
        size: Any = np.int64(region[start + 1]) - 0x80
        header = 6
        if first != 0x82 and first != 0x81:
            break
        if size > 125:
            if size != 126 or stop - start < 8:
                break
            size = read_number(region, start + 2, 2)
            header = 8
            if size < 126:
                break
        if size < 0 or size > stop - start - header or size > limit:
            break
        begin = start + header
        key: Any = (
            np.int64(region[begin - 4])
            | np.int64(region[begin - 3]) << 8
            | np.int64(region[begin - 2]) << 16
            | np.int64(region[begin - 1]) << 24
        )
        mask(region, begin, begin + size, key, 0)
        if first == 0x81 and validate_utf8(region, begin, begin + size, 0) != 0:
            mask(region, begin, begin + size, key, 0)
            break
        messages += 1
        octets += size
        start = begin + size
        answer = ECHO
        if handler != 0:
            answer = call_handler(handler, piece(region, begin, size), first & 0xF)
        if answer == ECHO:
            echoes += 1
            echoed += size
            reply = header - 4
            if out_stop == 0:
                out_stop = begin - reply
                loop[s.OUT_START] = out_stop
            else:
                move(region, out_stop + reply, region, begin, size)
            region[out_stop] = first
            if reply == 2:
                region[out_stop + 1] = size
            else:
                region[out_stop + 1] = 126
                region[out_stop + 2] = size >> 8
                region[out_stop + 3] = size & 0xFF
            out_stop += reply + size
        elif answer != DISCARD:
            loop[s.OUT_STOP] = out_stop
            fail(loop, row, region, HANDLER_CLOSED if answer == CLOSE else HANDLER_FAILED)
            out_stop = loop[s.OUT_STOP]
    loop[s.OUT_STOP] = out_stop
    loop[s.MESSAGES_IN] += messages
    loop[s.OCTETS_IN] += octets
    loop[s.MESSAGES_OUT] += echoes
    loop[s.OCTETS_OUT] += echoed
    return start


@kernel(f"int64({_LOOP}, int64, int64, int64)", inner=True)
def serve_octets(
    loop: Integers,
    slots: Integers,
    region: Octets,
    table: Integers,
    event: Words,
    slot: int,
    start: int,
    stop: int,
) -> int:
    """Serve region[start:stop], what a connection received next; returns 0, BROKEN or an ending."""
    row = slots[slot]
    result = 0
    if row[MESSAGE_OPCODE] == 0:
        start = serve_plain(loop, row, region, start, stop)
        if start == stop and row[s.CARRY] == 0:
            return 0
    is_full = 1
    while is_full and result == 0 and row[s.PHASE] in (s.OPEN, s.CLOSING):
        count = scan(region, start, stop, row, table)
        trailer = table[count]
        for i in range(count):
            result = serve_piece(loop, row, region, event, slot, table[i])
            if result != 0:
                return result
        start = trailer[NEXT]
        result = trailer[FAULT]
        is_full = trailer[IS_FULL]
    if result == 0:
        result = carry_over(loop, row, region, start, stop)
    return result


@kernel("int64(int64[::1], int64[::1], int64)", inline=True)
def note_receive(loop: Integers, row: Integers, count: int) -> int:
    """Judge what `receive` returned: 1 for octets, 0 for nothing yet, BROKEN for the end."""
    loop[s.RECEIVES] += 1
    if count > 0:
        row[s.HEARD] = loop[s.NOW]
        row[s.IS_PINGING] = 0
        return 1
    if count in (EAGAIN, EINTR):
        return 0
    if count < 0:
        loop[s.LAST_ERRNO] = -count
        loop[s.SYSTEM_FAILURES] += 1
    return BROKEN


@kernel(f"int64({_LOOP}, int64)", inner=True)
def receive_message(
    loop: Integers, slots: Integers, region: Octets, table: Integers, event: Words, slot: int
) -> int:
    """Receive the rest of a large frame straight into its message's block.

    Returns 0, BROKEN or an ending.
    """
    row = slots[slot]
    size = min(row[REMAINING], DIRECT_SIZE)
    result = reserve(loop, row, size)
    if result < 0:
        return result
    message = block(row[s.MESSAGE], row[s.MESSAGE_ROOM])
    start = MESSAGE_HEADROOM + row[s.MESSAGE_STORED]
    count = receive(row[s.DESCRIPTOR], message, start, size)
    judged = note_receive(loop, row, count)
    if judged <= 0:
        return judged
    if scan(message, start, start + count, row, table) == 0:
        return table[0, FAULT]
    row[s.MESSAGE_STORED] += count
    loop[s.INCOMPLETE] += count
    if table[0, ROW_FLAGS] & MESSAGE_END:
        return finish_message(loop, row, region, event, slot, table[0, ROW_OPCODE])
    return 0


@kernel(f"int64({_LOOP}, int64)", inline=True)
def receive_octets(
    loop: Integers, slots: Integers, region: Octets, table: Integers, event: Words, slot: int
) -> int:
    """Receive into the region, behind what was carried over, and serve that.

    Returns 0, BROKEN or an ending.
    """
    row = slots[slot]
    carried = row[s.CARRY_SIZE]
    if carried > 0:
        move(region, s.HEADROOM - carried, block(row[s.CARRY], s.HEADROOM), 0, carried)
    count = receive(row[s.DESCRIPTOR], region, s.HEADROOM, s.RECEIVE_SIZE)
    judged = note_receive(loop, row, count)
    if judged <= 0 or row[s.PHASE] == s.LINGERING or row[s.PHASE] == s.FAILED:
        return min(judged, 0)
    start = s.HEADROOM - carried
    return serve_octets(loop, slots, region, table, event, slot, start, s.HEADROOM + count)


@kernel(f"int64({_LOOP}, int64, int64)", inner=True)
def settle(
    loop: Integers,
    slots: Integers,
    region: Octets,
    table: Integers,
    event: Words,
    slot: int,
    result: int,
) -> int:
    """Send the replies so far and do what *result* and the connection's phase ask for.

    result  0, BROKEN or an ending

    Returns 0.
    """
    row = slots[slot]
    if result < 0 and result != BROKEN:
        fail(loop, row, region, result)
        result = 0
    if result == 0:
        result = send_replies(loop, row, region, event, slot)
    loop[s.OUT_START] = loop[s.OUT_STOP] = 0
    is_done = row[s.PHASE] == s.CLOSED and row[s.QUEUE_SIZE] == 0
    if result == BROKEN or is_done:
        return end(loop, slots, event, slot)
    if row[s.PHASE] == s.FAILED and row[s.QUEUE_SIZE] == 0:
        row[s.PHASE] = s.LINGERING
        if end_writing(row[s.DESCRIPTOR]) < 0:
            return end(loop, slots, event, slot)
    return 0


@kernel(f"int64({_LOOP}, int64, int64)", inner=True)
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
    if mask & EPOLLOUT:
        result = flush(loop, row, event, slot)
    if result == 0 and mask & ~EPOLLOUT:
        if row[s.PHASE] == s.OPEN and row[REMAINING] > DIRECT:
            result = receive_message(loop, slots, region, table, event, slot)
        else:
            result = receive_octets(loop, slots, region, table, event, slot)
    if result == 0 and row[s.PHASE] == s.OPEN:  # as nearly always: without another call
        result = send_replies(loop, row, region, event, slot)
        if result == 0:
            return 0
    return settle(loop, slots, region, table, event, slot, result)


@kernel(f"int64({_LOOP}, int64, int64)", inline=True)
def feed(
    loop: Integers,
    slots: Integers,
    region: Octets,
    table: Integers,
    event: Words,
    slot: int,
    size: int,
) -> int:
    """Serve octets that were received elsewhere and lie at region[HEADROOM:]; returns 0.

    size  octets, 0..RECEIVE_SIZE; no others of this connection may have come before
    """
    start = s.HEADROOM
    result = serve_octets(loop, slots, region, table, event, slot, start, start + size)
    return settle(loop, slots, region, table, event, slot, result)


@kernel(f"int64({_LOOP}, int64, int64)", inline=True)
def dismiss(
    loop: Integers,
    slots: Integers,
    region: Octets,
    table: Integers,
    event: Words,
    slot: int,
    code: int,
) -> int:
    """Close an open connection for the ending *code*, or any, at once, for BROKEN; returns 0."""
    phase = slots[slot, s.PHASE]
    if phase == s.OPEN or (code == BROKEN and phase != s.FREE):
        return settle(loop, slots, region, table, event, slot, code)
    return 0


@kernel(f"int64({_LOOP}, int64)", inner=True)
def check_deadlines(
    loop: Integers, slots: Integers, region: Octets, table: Integers, event: Words, slot: int
) -> int:
    """Do what the time asks for on one connection (RFC 6455 §5.5.2, §7.1.1); returns 0."""
    row = slots[slot]
    time = loop[s.NOW]
    result = 0
    if row[s.PHASE] != s.OPEN:
        if time - row[s.CLOSE_SINCE] >= loop[s.CLOSE_TIMEOUT]:
            result = BROKEN
    elif row[s.MESSAGE_SINCE] != 0 and time - row[s.MESSAGE_SINCE] >= loop[s.MESSAGE_TIMEOUT]:
        result = SLOW_MESSAGE
    elif row[s.IS_PINGING]:
        if time - row[s.HEARD] >= loop[s.PING_INTERVAL] + loop[s.PING_TIMEOUT]:
            result = BROKEN
    elif time - row[s.HEARD] >= loop[s.PING_INTERVAL]:
        row[s.IS_PINGING] = 1
        region[s.HEADROOM] = _FIN | _PING
        region[s.HEADROOM + 1] = 0
        loop[s.OUT_START] = s.HEADROOM
        loop[s.OUT_STOP] = s.HEADROOM + 2
    else:
        return 0
    return settle(loop, slots, region, table, event, slot, result)


@kernel(f"int64({_LOOP})", inline=True)
def sweep(loop: Integers, slots: Integers, region: Octets, table: Integers, event: Words) -> int:
    """Look at the deadlines of all connections; returns 0.

    One pass over an array, a few times a second: 5 ns a connection, which no
    heap of timers that every message moves would better.
    """
    loop[s.NEXT_SWEEP] = loop[s.NOW] + loop[s.SWEEP_INTERVAL]
    for slot in range(loop[s.USED_SLOTS]):
        if slots[slot, s.PHASE] != s.FREE:
            check_deadlines(loop, slots, region, table, event, slot)
    return 0


@kernel(f"int64({_LOOP}, int32[:,::1], int64[::1], int64)", inline=True)
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
    timeout  milliseconds to wait for the first event; 0 not to wait, -1 for ever

    Returns how many events were served, or the negative errno of epoll_wait.
    """
    loop[s.TURNS] += 1
    if loop[s.CURSOR] >= loop[s.EVENT_COUNT]:
        count = wait_events(loop[s.EPOLL], events, timeout)
        loop[s.CURSOR] = 0
        loop[s.EVENT_COUNT] = max(count, 0)
        if count < 0 and count != EINTR:
            return count
    loop[s.NOW] = now(clock)
    first = loop[s.CURSOR]
    while loop[s.CURSOR] < loop[s.EVENT_COUNT]:
        found = events[loop[s.CURSOR]]
        slot = found[EVENT_SLOT]
        loop[s.CURSOR] += 1
        if slot == s.WAKE_SLOT:
            loop[s.IS_WOKEN] = 1
        elif slots[slot, s.GENERATION] == found[EVENT_GENERATION]:
            serve_socket(loop, slots, region, table, event, slot, found[EVENT_MASK])
        if loop[s.CURSOR] & 7 == 0 and now(clock) - loop[s.NOW] > loop[s.BUDGET]:
            break
    served = loop[s.CURSOR] - first
    loop[s.EVENTS] += served
    if loop[s.NOW] >= loop[s.NEXT_SWEEP]:
        sweep(loop, slots, region, table, event)
    return served


TAKE_TURNS: Final = 0
FEED: Final = 1
DISMISS: Final = 2


@kernel(f"int64({_LOOP}, int32[:,::1], int64[::1], int64, int64, int64)")
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

    command        TAKE_TURNS  `turn` with the timeout *first*, *second* times, -1 for no end, or until woken,
                               or until there is no connection if LEAVES_EMPTY is set
                   FEED        `feed` to the slot *first* octets in the number of *second*
                   DISMISS     `dismiss` the slot *first* with the ending *second*

    One door, since what is compiled for Python contains all that it calls. Returns
    what the kernel in question returns; TAKE_TURNS, what the last turn returned.
    """
    loop, slots, region = borrow(loop), borrow(slots), borrow(region)
    table, event = borrow(table), borrow(event)
    events, clock = borrow(events), borrow(clock)
    if command == TAKE_TURNS:
        served = 0
        while (
            second != 0
            and served >= 0
            and loop[s.IS_WOKEN] == 0
            and (loop[s.CONNECTIONS] > 0 or loop[s.LEAVES_EMPTY] == 0)
        ):
            served = turn(loop, slots, region, table, event, events, clock, first)
            second -= 1
        return served
    loop[s.NOW] = now(clock)
    if command == FEED:
        return feed(loop, slots, region, table, event, first, second)
    return dismiss(loop, slots, region, table, event, first, second)
