"""Octets on their way in: received, scanned, handled and answered (RFC 6455 §5, §6.2).

Most are received into the loop's region and answered there. What is unfinished hangs
on the connection's slot: a header, or a message, into which the rest of a large
frame is received directly.
"""

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from triows._kernels import _slots as s
from triows._kernels._counts import count_error
from triows._kernels._fanout import publish
from triows._kernels._faults import HANDLER_CLOSED, HANDLER_FAILED, TOO_MUCH_INCOMPLETE
from triows._kernels._goodbye import drop_message, fail
from triows._kernels._handler import CLOSE, DISCARD, ECHO, call_handler
from triows._kernels._headers import write_header
from triows._kernels._libc import Octets, piece
from triows._kernels._outlet import emit, note_failure
from triows._kernels._plain import serve_plain
from triows._kernels._registry import kernel
from triows._kernels._replies import place, reply_header, send_replies
from triows._kernels._rows import (
    MESSAGE_HEADROOM,
    collect,
    collect_control,
    collect_part,
    collect_plain,
)
from triows._kernels._scan import (
    ALLOWED_RSV,
    CLOSE_OPCODE,
    COMPRESSED,
    EXPECT_MASK,
    FAULT,
    FRAME_END,
    IS_FULL,
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
from triows._kernels._slots import BROKEN, LOOP
from triows._kernels._system import EAGAIN, EINTR, block, move, receive, release, resize

Integers: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.int32]

DIRECT: Final = 16_384
"""Octets still to come of a frame above which they are received into the message's block."""

DIRECT_SIZE: Final = 262_144
"""Octets of one receive into a message's block."""

_FIN: Final = 0x80
_PING: Final = 0x9
_PONG: Final = 0xA


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
    elif answer == s.PUBLISH:
        if publish(loop, row, payload, 0, len(payload), opcode) < 0:
            fail(loop, row, region, HANDLER_FAILED)
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


@kernel("int64(int64[::1], int64[::1], uint8[::1], int32[::1], int64, int64[::1])", inner=True)
def finish_message(
    loop: Integers, row: Integers, region: Octets, event: Words, slot: int, found: Integers
) -> int:
    """Serve the message that has been joined in its block; returns 0 or BROKEN.

    found  the scan's row of its last piece: the scan itself may be at a later message already
    """
    opcode = found[ROW_OPCODE]
    size = row[s.MESSAGE_STORED]
    message = block(row[s.MESSAGE], row[s.MESSAGE_ROOM])
    row[s.MESSAGE_SINCE] = 0
    if loop[s.COLLECTS]:
        if loop[s.IS_ENDING]:
            return drop_message(loop, row)
        handle = row[s.MESSAGE]
        loop[s.INCOMPLETE] -= size
        row[s.MESSAGE] = row[s.MESSAGE_STORED] = row[s.MESSAGE_ROOM] = 0
        is_compressed = found[ROW_FLAGS] & COMPRESSED
        start = MESSAGE_HEADROOM
        return collect(loop, row, slot, opcode, message, start, size, handle, is_compressed)
    result = 0
    if row[s.PHASE] == s.OPEN and ask(
        loop, row, region, piece(message, MESSAGE_HEADROOM, size), opcode
    ):
        header = reply_header(size)
        start = MESSAGE_HEADROOM - header
        write_header(message, start, _FIN | opcode, size, -1)
        result = send_replies(loop, row, region, event, slot)  # what came before it, first
        if result == 0:
            loop[s.FRAMES_OUT] += 1
            result = emit(loop, row, event, slot, message, start, header + size)
    drop_message(loop, row)
    return result


@kernel("int64(int64[::1], int64[::1], uint8[::1], int64, int64[::1])", inner=True)
def serve_control(loop: Integers, row: Integers, region: Octets, slot: int, found: Integers) -> int:
    """Answer a control frame (RFC 6455 §5.5); returns 0."""
    opcode = found[ROW_OPCODE]
    if loop[s.COLLECTS]:
        return collect_control(loop, row, slot, opcode, found[ROW_START], found[ROW_SIZE])
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
    if found[ROW_FLAGS] & FRAME_END:
        loop[s.FRAMES_IN] += 1
    if opcode >= CLOSE_OPCODE:
        return serve_control(loop, row, region, slot, found)
    is_compressed = found[ROW_FLAGS] & COMPRESSED
    if found[ROW_FLAGS] - is_compressed == WHOLE:
        row[s.MESSAGE_SINCE] = 0
        if loop[s.COLLECTS]:  # as any loop whose connections may compress
            return collect(loop, row, slot, opcode, region, start, size, 0, is_compressed)
        if row[s.PHASE] == s.OPEN and ask(loop, row, region, piece(region, start, size), opcode):
            place(loop, region, opcode, start, size)
        return 0
    result = store(loop, row, region, start, size)
    if result == 0 and found[ROW_FLAGS] & MESSAGE_END:
        return finish_message(loop, row, region, event, slot, found)
    return result


@kernel("int64(int64[::1], int64[::1], uint8[::1], int64, int64)", inner=True)
def carry_over(loop: Integers, row: Integers, region: Octets, start: int, stop: int) -> int:
    """Keep region[start:stop], an unfinished header or control frame; returns 0 or an ending.

    start, stop  as the scan left them: at most MAX_HEADER + 125 octets, which fit into HEADROOM
    """
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
    if size == 0 and row[MESSAGE_OPCODE] == 0:  # a message may have begun of which nothing is held
        row[s.MESSAGE_SINCE] = 0
    elif row[s.MESSAGE_SINCE] == 0:
        row[s.MESSAGE_SINCE] = loop[s.NOW]
    return 0


@kernel(f"int64({LOOP}, int64, int64, int64)", inner=True)
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
    if row[MESSAGE_OPCODE] == 0 and row[EXPECT_MASK]:
        begin = start
        if loop[s.COLLECTS]:
            start = collect_plain(loop, row, region, slot, start, stop)
        else:
            start = serve_plain(loop, row, region, start, stop)
        if start == stop and row[s.CARRY] == 0:
            return 0
        if start > begin:  # what was unfinished is finished
            row[s.MESSAGE_SINCE] = 0
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
    if result == 0 and row[s.PHASE] in (s.OPEN, s.CLOSING):  # else the rest is thrown away
        result = carry_over(loop, row, region, start, stop)
        if loop[s.COLLECTS]:
            collect_part(loop, row, slot)
    return result


@kernel("int64(int64[::1], uint8[::1], int64)", inline=True)
def restore(row: Integers, region: Octets, stop: int) -> int:
    """Put what was carried over before region[stop]; returns how many octets that is."""
    carried: Any = row[s.CARRY_SIZE]
    if carried > 0:
        move(region, stop - carried, block(row[s.CARRY], s.HEADROOM), 0, carried)
    return carried


@kernel("int64(int64[::1], int64[::1], int64)", inline=True)
def note_receive(loop: Integers, row: Integers, count: int) -> int:
    """Judge what `receive` returned: 1 for octets, 0 for nothing yet, BROKEN for the end."""
    loop[s.RECEIVES] += 1
    if count > 0:
        row[s.HEARD] = loop[s.NOW]
        row[s.IS_PINGING] = 0
        return 1
    if count in (EAGAIN, EINTR):
        count_error(loop, count)
        return 0
    return BROKEN if count == 0 else note_failure(loop, count)


@kernel(f"int64({LOOP}, int64)", inner=True)
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
    if table[0, ROW_FLAGS] & FRAME_END:
        loop[s.FRAMES_IN] += 1
    if table[0, ROW_FLAGS] & MESSAGE_END:
        return finish_message(loop, row, region, event, slot, table[0])
    return collect_part(loop, row, slot) if loop[s.COLLECTS] else 0


@kernel(f"int64({LOOP}, int64)", inline=True)
def receive_octets(
    loop: Integers, slots: Integers, region: Octets, table: Integers, event: Words, slot: int
) -> int:
    """Receive into the region, behind what was carried over, and serve that.

    Returns 0, BROKEN or an ending.
    """
    row = slots[slot]
    begin = loop[s.RECEIVE_AT]
    carried = restore(row, region, begin)
    size = loop[s.COMPRESSED_MOST] if row[ALLOWED_RSV] else s.RECEIVE_SIZE
    count = receive(row[s.DESCRIPTOR], region, begin, size)
    judged = note_receive(loop, row, count)
    if judged <= 0 or row[s.PHASE] in (s.LINGERING, s.FAILED, s.CLOSED):
        return min(judged, 0)
    loop[s.RECEIVE_STOP] = stop = begin + count
    return serve_octets(loop, slots, region, table, event, slot, begin - carried, stop)
