"""The replay: what was collected is answered, what was sent from elsewhere is sent.

Rows are gone through in order, and with each, before its answer, the sends that were
made while Python handled it. All that goes to one socket leaves in one system call:
replies are put together in the region, sends lie next to each other in the arena,
and where both meet, where a send goes to another connection than the row's, or where
sends to others are between them, they are put together in the connection's queue.
"""

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from triows._kernels import _slots as s
from triows._kernels._fanout import fan_out_batches, fan_out_unsent, make_dirty, publish
from triows._kernels._faults import HANDLER_CLOSED, HANDLER_FAILED, SLOW_PEER
from triows._kernels._goodbye import drop_message, end, fail, give_up, settle
from triows._kernels._handler import CLOSE, DISCARD, ECHO
from triows._kernels._headers import write_header
from triows._kernels._libc import Octets
from triows._kernels._masking import mask
from triows._kernels._outlet import adjust_interest, emit, enqueue, flush, note_failure
from triows._kernels._registry import kernel
from triows._kernels._replies import place, reply_header, say_masked
from triows._kernels._rows import add_row
from triows._kernels._scan import CLOSE_OPCODE, EXPECT_MASK
from triows._kernels._slots import BROKEN
from triows._kernels._system import EPOLLOUT, block, random_key, release

Integers: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.int32]

_FIN: Final = 0x80
_PONG: Final = 0xA
_LEAST_HEADER: Final = 2
_REPLAY: Final = "int64[::1], int64[:,::1], uint8[::1], int32[::1]"


@kernel("int64(int64[::1], int64[::1])", inner=True)
def hold_back(loop: Integers, row: Integers) -> int:
    """Put the pending stretch of the arena into the connection's queue; returns 0 or BROKEN."""
    start = loop[s.PENDING_START]
    size = loop[s.PENDING_STOP] - start
    loop[s.PENDING_STOP] = 0
    return enqueue(loop, row, block(loop[s.ARENA], loop[s.ARENA_SIZE]), start, size)


@kernel("int64(int64[::1], int64[::1], uint8[::1])", inner=True)
def hold_replies_back(loop: Integers, row: Integers, region: Octets) -> int:
    """Put the replies so far into the connection's queue; returns 0 or BROKEN."""
    start = loop[s.OUT_START]
    size = loop[s.OUT_STOP] - start
    loop[s.OUT_START] = loop[s.OUT_STOP] = 0
    return enqueue(loop, row, region, start, size)


@kernel(f"int64({_REPLAY}, int64, int64)", inner=True)
def flush_slot(
    loop: Integers, slots: Integers, region: Octets, event: Words, slot: int, result: int
) -> int:
    """Send the slot's queue unless its peer is waited for already, and settle; returns 0."""
    row = slots[slot]
    if result == 0 and row[s.QUEUE_SIZE] > 0:
        if row[s.INTEREST] & EPOLLOUT == 0:
            result = flush(loop, row, event, slot)
        else:  # the queue may have grown beyond the mark
            result = adjust_interest(loop, row, event, slot)
    if result < 0:
        loop[s.OUT_STOP] = 0
    return settle(loop, slots, region, event, slot, result)


@kernel(f"int64({_REPLAY}, int64)", inner=True)
def finish_slot(loop: Integers, slots: Integers, region: Octets, event: Words, slot: int) -> int:
    """Send what the slot's rows and sends have led to, and settle it; returns 0."""
    row = slots[slot]
    if row[s.PHASE] == s.FREE:
        loop[s.OUT_START] = loop[s.OUT_STOP] = loop[s.PENDING_STOP] = 0
        return 0
    result = 0
    is_member = row[s.MEMBERSHIPS] > 0 and (loop[s.BATCH_COUNT] > 0 or loop[s.UNSENT_TOPIC] > 0)
    waits = row[s.QUEUE_SIZE] > 0 or is_member  # for what is before it, or comes with it
    if loop[s.PENDING_STOP] > 0 and waits:
        result = hold_back(loop, row)
    elif loop[s.PENDING_STOP] > 0:
        arena = block(loop[s.ARENA], loop[s.ARENA_SIZE])
        start = loop[s.PENDING_START]
        result = emit(loop, row, event, slot, arena, start, loop[s.PENDING_STOP] - start)
        loop[s.PENDING_STOP] = 0
    elif loop[s.OUT_STOP] > 0 and waits:
        result = hold_replies_back(loop, row, region)
    if is_member and result == 0:
        return make_dirty(loop, slots, slot)
    return flush_slot(loop, slots, region, event, slot, result)


@kernel("int64(int64[::1], int64[:,::1], int32[::1], int64, int64)", inner=True)
def drop_slot(loop: Integers, slots: Integers, event: Words, slot: int, current: int) -> int:
    """End a connection that no more can be sent to; returns 0."""
    if slot == current:
        loop[s.OUT_START] = loop[s.OUT_STOP] = loop[s.PENDING_STOP] = 0
    return end(loop, slots, event, slot)


@kernel("int64(int64[::1], int64[::1], uint8[::1], int32[::1], int64[::1])", inner=True)
def frame_send(loop: Integers, row: Integers, arena: Octets, event: Words, found: Integers) -> int:
    """Make a frame of a send, in the arena (RFC 6455 §5.2); returns where it starts, or BROKEN."""
    opcode = found[s.SEND_OPCODE] & 0xF
    fin = 0 if found[s.SEND_OPCODE] & s.UNFINISHED else _FIN
    size = found[s.SEND_SIZE]
    start: Any = found[s.SEND_START] - reply_header(size)
    key: Any = np.int64(-1)
    if row[EXPECT_MASK] == 0:
        key = random_key(event)
        if key < 0:
            return note_failure(loop, key)
        start -= 4
        mask(arena, found[s.SEND_START], found[s.SEND_START] + size, key, 0)
    first = fin | found[s.SEND_OPCODE] & s.COMPRESSED | opcode
    write_header(arena, start, first, size, key)
    loop[s.FRAMES_OUT] += 1
    if opcode == CLOSE_OPCODE:
        row[s.PHASE] = s.CLOSING
        row[s.CLOSE_SINCE] = loop[s.NOW]
    elif opcode < CLOSE_OPCODE and fin:
        loop[s.MESSAGES_OUT] += 1
        loop[s.OCTETS_OUT] += size
    return start


@kernel(f"int64({_REPLAY}, int64[::1], int64)", inner=True)
def replay_send(
    loop: Integers, slots: Integers, region: Octets, event: Words, found: Integers, current: int
) -> int:
    """Take one send on its way; returns 0.

    found    int64 (SEND_FIELDS,)
    current  the slot that is being replayed, which `finish_slot` comes for
    """
    slot = found[s.SEND_SLOT]
    row = slots[slot]
    if row[s.SESSION] != found[s.SEND_SESSION] or row[s.PHASE] != s.OPEN:
        loop[s.DROPPED] += 1
        return 0
    if row[s.QUEUE_SIZE] > loop[s.SEND_LIMIT]:
        row[s.ENDING] = SLOW_PEER
        loop[s.FAILURES] += 1
        return drop_slot(loop, slots, event, slot, current)
    arena = block(loop[s.ARENA], loop[s.ARENA_SIZE])
    start = frame_send(loop, row, arena, event, found)
    if start < 0:
        return drop_slot(loop, slots, event, slot, current)
    stop = found[s.SEND_START] + found[s.SEND_SIZE]
    result = 0
    if slot != current:
        result = enqueue(loop, row, arena, start, stop - start)
        make_dirty(loop, slots, slot)
    elif 0 < loop[s.PENDING_STOP] == start:
        loop[s.PENDING_STOP] = stop
    else:
        if loop[s.OUT_STOP] > 0:
            result = hold_replies_back(loop, row, region)
        elif loop[s.PENDING_STOP] > 0:
            result = hold_back(loop, row)
        loop[s.PENDING_START] = start
        loop[s.PENDING_STOP] = stop
    return drop_slot(loop, slots, event, slot, current) if result < 0 else 0


@kernel(f"int64({_REPLAY}, int64[::1], int64)", inner=True)
def echo(
    loop: Integers, slots: Integers, region: Octets, event: Words, found: Integers, slot: int
) -> int:
    """Send a row's payload back as it is now; returns 0."""
    row = slots[slot]
    loop[s.MESSAGES_OUT] += 1
    loop[s.OCTETS_OUT] += found[s.FIELD_SIZE]
    start = found[s.FIELD_START]
    size = found[s.FIELD_SIZE]
    opcode = found[s.FIELD_OPCODE]
    if found[s.FIELD_BLOCK] == 0:
        return place(loop, region, opcode, start, size)
    finish_slot(loop, slots, region, event, slot)  # what came before it, first
    if row[s.PHASE] == s.FREE:
        return 0
    header = reply_header(size)
    message = block(found[s.FIELD_BLOCK], start + size)
    write_header(message, start - header, _FIN | opcode, size, -1)
    loop[s.FRAMES_OUT] += 1
    result = emit(loop, row, event, slot, message, start - header, header + size)
    return drop_slot(loop, slots, event, slot, slot) if result < 0 else 0


@kernel(
    "int64(int64[::1], int64[::1], uint8[::1], int32[::1], int64, int64, int64[::1])", inner=True
)
def answer_control(
    loop: Integers,
    row: Integers,
    region: Octets,
    event: Words,
    slot: int,
    opcode: int,
    found: Integers,
) -> int:
    """Send a row's payload back in a control frame (RFC 6455 §5.5); returns 0 or BROKEN."""
    start = found[s.FIELD_START]
    size = found[s.FIELD_SIZE]
    if row[EXPECT_MASK]:
        return place(loop, region, opcode, start, size)
    return say_masked(loop, row, region, event, slot, opcode, start, size)


@kernel("int64(int64[::1], int64[::1], uint8[::1], int32[::1], int64, int64[::1])", inner=True)
def answer_ping(
    loop: Integers, row: Integers, region: Octets, event: Words, slot: int, found: Integers
) -> int:
    """Answer a Ping (RFC 6455 §5.5.2); returns 0 or BROKEN.

    Where the peer lets Pongs pile up, those to come replace each other: it "may elect to send a
    Pong frame for only the most recently processed Ping frame" (§5.5.3).
    """
    if row[s.PONGS_QUEUED] <= s.MOST_PONGS:
        result = answer_control(loop, row, region, event, slot, _PONG, found)
        if row[s.QUEUE_SIZE] > 0:
            row[s.PONGS_QUEUED] += found[s.FIELD_SIZE] + _LEAST_HEADER
        return result
    last = row[s.LAST_PONG] if loop[s.OUT_STOP] == 0 else 0
    result = hold_replies_back(loop, row, region)
    if 0 < last < row[s.QUEUE_SIZE]:
        row[s.QUEUE_SIZE] -= last
        loop[s.QUEUED] -= last
        loop[s.FRAMES_OUT] -= 1
    before = row[s.QUEUE_SIZE]
    result = min(result, answer_control(loop, row, region, event, slot, _PONG, found))
    result = min(result, hold_replies_back(loop, row, region))
    row[s.LAST_PONG] = row[s.QUEUE_SIZE] - before
    return result


@kernel("int64(int64[::1], int64[::1], uint8[::1], int32[::1], int64, int64[::1])", inner=True)
def part(
    loop: Integers, row: Integers, region: Octets, event: Words, slot: int, found: Integers
) -> int:
    """Answer the peer's Close, unless it is an answer itself (§5.5.1); returns 0 or BROKEN."""
    result = 0
    if row[s.PHASE] == s.OPEN:
        result = answer_control(loop, row, region, event, slot, CLOSE_OPCODE, found)
        row[s.CLOSE_SINCE] = loop[s.NOW]
    drop_message(loop, row)
    row[s.PHASE] = s.CLOSED
    return result


@kernel("int64(int64[::1], int64[::1], uint8[::1], int64[::1])", inner=True)
def give_out(loop: Integers, row: Integers, region: Octets, found: Integers) -> int:
    """Publish a row's payload; returns as `publish`."""
    opcode = found[s.FIELD_OPCODE]
    start = found[s.FIELD_START]
    size = found[s.FIELD_SIZE]
    if found[s.FIELD_BLOCK] != 0:
        region = block(found[s.FIELD_BLOCK], start + size)
    return publish(loop, row, region, start, size, opcode)


@kernel(f"int64({_REPLAY}, int64[::1], int64)", inner=True)
def replay_row(
    loop: Integers, slots: Integers, region: Octets, event: Words, found: Integers, answer: int
) -> int:
    """Do what the *answer* to a row asks for; returns 0."""
    slot = found[s.FIELD_SLOT]
    row = slots[slot]
    if answer in (DISCARD, s.NOTICE) or row[s.PHASE] not in (s.OPEN, s.CLOSING):
        return 0
    if loop[s.PENDING_STOP] > 0 and hold_back(loop, row) < 0:
        return drop_slot(loop, slots, event, slot, slot)
    result = 0
    if answer == s.CLOSED_BY_PEER:
        result = part(loop, row, region, event, slot, found)
    elif answer == s.ENDED:
        result = give_up(loop, row, region, event, slot, found[s.FIELD_OPCODE])
    elif row[s.PHASE] != s.OPEN:
        return 0
    elif answer == s.PONG:
        result = answer_ping(loop, row, region, event, slot, found)
    elif answer == ECHO:
        echo(loop, slots, region, event, found, slot)
    elif answer > s.FAILING:
        fail(loop, row, region, s.FAILING - answer)
    elif answer != s.PUBLISH or give_out(loop, row, region, found) < 0:
        fail(loop, row, region, HANDLER_CLOSED if answer == CLOSE else HANDLER_FAILED)
    return drop_slot(loop, slots, event, slot, slot) if result < 0 else 0


@kernel(f"int64({_REPLAY}, int64, int64)", inner=True)
def replay(
    loop: Integers, slots: Integers, region: Octets, event: Words, first: int, stop: int
) -> int:
    """Answer the rows *first* to *stop* and send the sends that belong to them; returns 0."""
    current: Any = -1
    answers = len(region) - s.ROW_CAPACITY
    for i in range(first, stop):
        found = loop[s.ROWS + s.ROW_FIELDS * i : s.ROWS + s.ROW_FIELDS * (i + 1)]
        if found[s.FIELD_SLOT] != current:
            if current >= 0:
                finish_slot(loop, slots, region, event, current)
            current = found[s.FIELD_SLOT]
        while loop[s.SENT] < loop[s.SEND_COUNT]:
            send = loop[s.SENDS_AT + s.SEND_FIELDS * loop[s.SENT] :]
            if send[s.SEND_ROW] > i:
                break
            replay_send(loop, slots, region, event, send, current)
            loop[s.SENT] += 1
        answer = found[s.FIELD_ANSWER]
        is_pythons = answer in (s.DELIVER, s.INFLATE)
        if is_pythons:
            answer = np.int64(region[answers + i])
        replay_row(loop, slots, region, event, found, answer)
        if found[s.FIELD_BLOCK] != 0 and not is_pythons:
            release(found[s.FIELD_BLOCK])
    if current >= 0:
        finish_slot(loop, slots, region, event, current)
    return 0


@kernel(f"int64({_REPLAY})", inner=True)
def hand_out(loop: Integers, slots: Integers, region: Octets, event: Words) -> int:
    """Send what was published in this turn, and all that waits for the others; returns 0."""
    if loop[s.UNSENT_TOPIC] > 0:
        fan_out_unsent(loop, slots, event)
    while loop[s.DIRTY] > 0:
        slot = loop[s.DIRTY] - 1
        loop[s.DIRTY] = slots[slot, s.NEXT_DIRTY]
        slots[slot, s.NEXT_DIRTY] = 0
        if slots[slot, s.PHASE] != s.FREE:
            flush_slot(loop, slots, region, event, slot, 0)
    return 0


@kernel(f"int64({_REPLAY}, int64)", inner=True)
def finish_run(loop: Integers, slots: Integers, region: Octets, event: Words, slot: int) -> int:
    """Finish a slot, or hold its sends back until its next: a copy is cheaper than a system call.

    Unless much is held back already. Returns 0.
    """
    row = slots[slot]
    if row[s.LAST_SEND] < loop[s.SENT] or loop[s.PENDING_STOP] == 0:
        return finish_slot(loop, slots, region, event, slot)
    held = row[s.QUEUE_SIZE] + loop[s.PENDING_STOP] - loop[s.PENDING_START]
    if held > min(s.MERGED_MOST, loop[s.SEND_LIMIT]):
        return finish_slot(loop, slots, region, event, slot)
    result = hold_back(loop, row)
    return 0 if result == 0 else settle(loop, slots, region, event, slot, result)


@kernel("int64(int64[::1], int64[:,::1])", inline=True)
def find_last_sends(loop: Integers, slots: Integers) -> int:
    """Note for each slot that is sent something which of the sends is its last; returns 0."""
    for i in range(loop[s.SENT], loop[s.SEND_COUNT]):
        slots[loop[s.SENDS_AT + s.SEND_FIELDS * i + s.SEND_SLOT], s.LAST_SEND] = i
    return 0


@kernel(f"int64({_REPLAY}, int64)", inner=True)
def replay_all(loop: Integers, slots: Integers, region: Octets, event: Words, stop: int) -> int:
    """Replay the rows before *stop*, then every send that is left; returns 0.

    Where that was the last row, the next is the first again.
    """
    replay(loop, slots, region, event, loop[s.REPLAYED], stop)
    find_last_sends(loop, slots)
    current: Any = -1
    while loop[s.SENT] < loop[s.SEND_COUNT]:
        send = loop[s.SENDS_AT + s.SEND_FIELDS * loop[s.SENT] :]
        if send[s.SEND_SLOT] != current:
            if current >= 0:
                finish_run(loop, slots, region, event, current)
            current = send[s.SEND_SLOT]
        replay_send(loop, slots, region, event, send, current)
        loop[s.SENT] += 1
    if current >= 0:
        finish_slot(loop, slots, region, event, current)
    if loop[s.BATCH_COUNT] > 0:
        fan_out_batches(loop, slots, event)
    hand_out(loop, slots, region, event)
    loop[s.SENT] = loop[s.SEND_COUNT] = 0
    loop[s.REPLAYED] = stop
    if stop == loop[s.ROW_COUNT]:
        loop[s.REPLAYED] = loop[s.ROW_COUNT] = loop[s.BLOCK_OCTETS] = 0
        loop[s.RECEIVE_AT] = s.HEADROOM + s.SCRATCH * loop[s.COLLECTS]
    return 0


@kernel(f"int64({_REPLAY}, int64, int64)", inner=True)
def finish_socket(
    loop: Integers, slots: Integers, region: Octets, event: Words, slot: int, result: int
) -> int:
    """End what was received from a socket; returns 0.

    result  0, BROKEN or an ending, as `receive_octets` and `receive_message` return it
    """
    if result == BROKEN:
        return settle(loop, slots, region, event, slot, BROKEN)
    if result < 0:
        add_row(loop, slot, result, 0, 0, 0, s.ENDED)
        if slots[slot, s.WANTS] & s.ENDINGS:
            loop[s.IS_WAITED_FOR] = 1
    if loop[s.IS_WAITED_FOR] and loop[s.RECEIVE_STOP] > 0:
        loop[s.RECEIVE_AT] = loop[s.RECEIVE_STOP] + s.TAILROOM + s.HEADROOM
    elif not loop[s.IS_WAITED_FOR]:
        first = loop[s.SOCKET_ROW]
        replay(loop, slots, region, event, first, loop[s.ROW_COUNT])
        if first == loop[s.ROW_COUNT] and slots[slot, s.PHASE] != s.OPEN:
            settle(loop, slots, region, event, slot, 0)
        loop[s.ROW_COUNT] = first
    return 0
