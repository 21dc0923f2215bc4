"""How connections end: the Close that is sent, the socket that is closed (RFC 6455 §7).

An *ending* is a negative code of `_faults`, for which there is a Close frame; BROKEN
is none: then there is no one to tell.
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from triows._kernels import _slots as s
from triows._kernels._faults import ENDINGS, GOING_AWAY, HANDLER_CLOSED, HANDLER_FAILED
from triows._kernels._libc import Octets
from triows._kernels._outlet import adjust_interest, drop_queue
from triows._kernels._registry import kernel
from triows._kernels._replies import say_masked, send_replies
from triows._kernels._scan import CLOSE_OPCODE, EXPECT_MASK
from triows._kernels._slots import BROKEN
from triows._kernels._system import EPOLL_CTL_DEL, close, end_writing, release, watch

Integers: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.int32]

_FIN: Final = 0x80
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
    row[s.SESSION] = 0
    row[s.PHASE] = s.FREE
    row[s.GENERATION] = (row[s.GENERATION] + 1) & 0x7FFF_FFFF
    if loop[s.COLLECTS] or row[s.MEMBERSHIPS] > 0:  # free only when Python has taken note of it
        loop[s.HAS_NEWS] |= row[s.MEMBERSHIPS] > 0
        row[s.NEXT_FREE] = loop[s.GONE]
        loop[s.GONE] = slot
    else:
        row[s.NEXT_FREE] = loop[s.FREE_SLOT]
        loop[s.FREE_SLOT] = slot
    loop[s.CONNECTIONS] -= 1
    return 0


@kernel("int64(int64[::1], int64[::1], uint8[::1], int64)", inner=True)
def fail(loop: Integers, row: Integers, region: Octets, code: int) -> int:
    """Say goodbye with a Close for *code* behind the replies so far (RFC 6455 §7.1.7).

    Without any it goes to the front of the region, where nothing is left to be served: behind
    a handler's CLOSE the peer's own is still awaited, perhaps in the same receive. Returns 0.
    """
    if row[s.PHASE] == s.OPEN:
        row[s.CLOSE_SINCE] = loop[s.NOW]
        if row[EXPECT_MASK]:  # a client has said it already: see `give_up`
            size = _CLOSE_SIZES[-code]
            for i in range(size):
                region[loop[s.OUT_STOP] + i] = _CLOSE_FRAMES[-code, i]
            loop[s.OUT_STOP] += size
            loop[s.FRAMES_OUT] += 1
    row[s.ENDING] = code
    row[s.PHASE] = s.CLOSING if code in (GOING_AWAY, HANDLER_CLOSED) else s.FAILED
    if row[s.PHASE] == s.FAILED:
        drop_message(loop, row)
    if code == HANDLER_FAILED:
        loop[s.HANDLER_FAILURES] += 1
    elif row[s.PHASE] == s.FAILED:
        loop[s.FAILURES] += 1
    return 0


@kernel("int64(int64[::1], int64[::1], uint8[::1], int32[::1], int64, int64)", inner=True)
def give_up(
    loop: Integers, row: Integers, region: Octets, event: Words, slot: int, code: int
) -> int:
    """Do what `fail` does on either side: a client's Close is sent now, masked.

    Returns 0 or BROKEN.
    """
    result = 0
    if row[EXPECT_MASK] == 0 and row[s.PHASE] == s.OPEN:
        size = _CLOSE_SIZES[-code] - 2
        for i in range(size):
            region[i] = _CLOSE_FRAMES[-code, 2 + i]
        result = say_masked(loop, row, region, event, slot, CLOSE_OPCODE, 0, size)
    fail(loop, row, region, code)
    return result


@kernel("int64(int64[::1], int64[:,::1], uint8[::1], int32[::1], int64, int64)", inner=True)
def settle(
    loop: Integers, slots: Integers, region: Octets, event: Words, slot: int, result: int
) -> int:
    """Send the replies so far and do what *result* and the connection's phase ask for.

    result  0, BROKEN or an ending

    Returns 0.
    """
    row = slots[slot]
    if result < 0 and result != BROKEN:
        result = give_up(loop, row, region, event, slot, result)
    if result == 0:
        result = send_replies(loop, row, region, event, slot)
    loop[s.OUT_START] = loop[s.OUT_STOP] = 0
    # A client waits for its server to drop the transport first (§7.1.1).
    is_done = row[s.PHASE] == s.CLOSED and row[s.QUEUE_SIZE] == 0 and row[EXPECT_MASK]
    if result == BROKEN or is_done:
        return end(loop, slots, event, slot)
    if row[s.PHASE] == s.FAILED and row[s.QUEUE_SIZE] == 0:
        row[s.PHASE] = s.LINGERING
        if end_writing(row[s.DESCRIPTOR]) < 0:
            return end(loop, slots, event, slot)
    elif row[s.PHASE] == s.CLOSED and adjust_interest(loop, row, event, slot) < 0:
        return end(loop, slots, event, slot)  # read no more: the end of its stream ends nothing
    return 0
