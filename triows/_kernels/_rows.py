"""Rows: what a loop has received for Python to answer (RFC 6455 §5.4 to §5.6).

A loop that *collects* answers nothing while it receives. What arrives becomes rows
of its registers, one for each message, Ping, Close and fault, in the order in which
it came; the payloads stay where they were received, each socket's in a stretch of the
region of its own, or in a block of their own. Python answers the rows that are for it,
and `_replay` does then, row by row, what a compiled handler would have had done at
once. A socket with no row for Python is replayed as soon as it has been received from.
"""

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from triows._kernels import _slots as s
from triows._kernels._handler import CLOSE, DISCARD, ECHO, call_handler
from triows._kernels._libc import Octets, piece
from triows._kernels._plain import plain_size, unmask_plain
from triows._kernels._registry import kernel
from triows._kernels._scan import CLOSE_OPCODE, MAX_MESSAGE, MESSAGE_OPCODE, MESSAGE_RSV
from triows._kernels._system import release

Integers: TypeAlias = npt.NDArray[np.int64]

_PING: Final = 0x9
_PONG: Final = 0xA

MESSAGE_HEADROOM: Final = 16
"""Octets before a joined message in its block: room for its reply's header."""


@kernel("int64(int64[::1], int64, int64, int64, int64, int64, int64)", inner=True)
def add_row(
    loop: Integers, slot: int, opcode: int, start: int, size: int, handle: int, answer: int
) -> int:
    """Append a row, for which there is room; returns 0."""
    row = loop[s.ROWS + s.ROW_FIELDS * loop[s.ROW_COUNT] :]
    row[s.FIELD_SLOT] = slot
    row[s.FIELD_OPCODE] = opcode
    row[s.FIELD_START] = start
    row[s.FIELD_SIZE] = size
    row[s.FIELD_BLOCK] = handle
    row[s.FIELD_ANSWER] = answer
    loop[s.ROW_COUNT] += 1
    if handle != 0:
        loop[s.BLOCK_OCTETS] += size
    if answer in (s.DELIVER, s.INFLATE, s.CLOSED_BY_PEER, s.NOTICE):
        loop[s.IS_WAITED_FOR] = 1
    elif answer not in (DISCARD, ECHO, s.PONG, s.NOTICE, s.PUBLISH):
        loop[s.IS_ENDING] = 1
    return 0


@kernel(
    "int64(int64[::1], int64[::1], int64, int64, uint8[::1], int64, int64, int64, int64)",
    inner=True,
)
def collect(
    loop: Integers,
    row: Integers,
    slot: int,
    opcode: int,
    octets: Octets,
    start: int,
    size: int,
    handle: int,
    is_compressed: int,
) -> int:
    """Make a row of a message, unless the connection is ending already; returns 0.

    octets         the region, or the block *handle*, which the row owns from now on
    is_compressed  0 if it is not: then a compiled handler can answer it
    """
    if loop[s.IS_ENDING]:
        return 0
    if loop[s.HANDLER] != 0 and row[s.PHASE] != s.OPEN:  # which answers no more
        return release(handle)
    loop[s.MESSAGES_IN] += 1
    loop[s.OCTETS_IN] += size
    answer = s.INFLATE if is_compressed else s.DELIVER
    if loop[s.HANDLER] != 0 and not is_compressed:
        answer = call_handler(loop[s.HANDLER], piece(octets, start, size), opcode)
        if answer not in (DISCARD, ECHO, CLOSE, s.DELIVER, s.PUBLISH):  # others are not its to give
            answer = s.FAILED_IN_PYTHON
    return add_row(loop, slot, opcode, start, size, handle, answer)


@kernel("int64(int64[::1], int64[::1], int64, int64, int64, int64)", inner=True)
def collect_control(
    loop: Integers, row: Integers, slot: int, opcode: int, start: int, size: int
) -> int:
    """Make a row of a control frame that asks for something, or is wanted; returns 0."""
    if opcode == CLOSE_OPCODE:
        return add_row(loop, slot, opcode, start, size, 0, s.CLOSED_BY_PEER)
    if opcode == _PING and not loop[s.IS_ENDING]:
        return add_row(loop, slot, opcode, start, size, 0, s.PONG)
    if opcode == _PONG and row[s.WANTS] & s.PONGS:
        return add_row(loop, slot, opcode, start, size, 0, s.NOTICE)
    return 0


@kernel("int64(int64[::1], int64[::1], int64)", inner=True)
def collect_part(loop: Integers, row: Integers, slot: int) -> int:
    """Make a row of what there is of an unfinished message, if parts are wanted; returns 0."""
    size = row[s.MESSAGE_STORED]
    if not row[s.WANTS] & s.PARTS or size == 0 or loop[s.IS_ENDING]:
        return 0
    handle = row[s.MESSAGE]
    loop[s.INCOMPLETE] -= size
    row[s.MESSAGE] = row[s.MESSAGE_STORED] = row[s.MESSAGE_ROOM] = 0
    opcode = s.PART + row[MESSAGE_OPCODE]
    answer = s.INFLATE if row[MESSAGE_RSV] else s.DELIVER
    return add_row(loop, slot, opcode, MESSAGE_HEADROOM, size, handle, answer)


@kernel("int64(int64[::1], int64[::1], uint8[::1], int64, int64, int64)", inner=True)
def collect_plain(
    loop: Integers, row: Integers, region: Octets, slot: int, start: int, stop: int
) -> int:
    """Make rows of plain frames until another comes; returns the first octet not taken.

    The arguments are as in `serve_plain`.
    """
    limit = row[MAX_MESSAGE]
    frames = 0
    while stop - start >= 6 and loop[s.IS_ENDING] == 0:
        size = plain_size(region, start, stop)
        if size < 0 or size > limit:
            break
        begin = start + (6 if size <= 125 else 8)
        opcode: Any = np.int64(region[start]) & 0xF
        if unmask_plain(region, begin, size, opcode) != 0:
            break
        collect(loop, row, slot, opcode, region, begin, size, 0, 0)
        start = begin + size
        frames += 1
    loop[s.FRAMES_IN] += frames
    return start


@kernel("int64(int64[::1])", inline=True)
def start_socket(loop: Integers) -> int:
    """Note that the rows to come are another socket's; returns 0."""
    loop[s.SOCKET_ROW] = loop[s.ROW_COUNT]
    loop[s.IS_WAITED_FOR] = loop[s.IS_ENDING] = loop[s.RECEIVE_STOP] = 0
    return 0


@kernel("int64(int64[::1], uint8[::1])", inline=True)
def has_room(loop: Integers, region: Octets) -> int:
    """Return whether there is room for what another socket may bring."""
    room = len(region) - s.ROW_CAPACITY - loop[s.RECEIVE_AT]
    return (
        room >= s.RECEIVE_SIZE + s.TAILROOM
        and loop[s.ROW_COUNT] < s.ROWS_ENOUGH
        and loop[s.BLOCK_OCTETS] < s.BATCH_BLOCKS
    )
