"""Replies in place: built where the octets they answer were received, sent in one piece.

A client's own frames are longer than what they answer, by the mask: they are built in the
headroom, and sent one by one.
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from triows._kernels import _slots as s
from triows._kernels._headers import write_header
from triows._kernels._libc import Octets
from triows._kernels._masking import mask
from triows._kernels._outlet import emit, note_failure
from triows._kernels._registry import kernel
from triows._kernels._system import move, random_key

Integers: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.int32]

MASKED_HEADER: Final = 6
"""Octets of a control frame's header with its mask."""

_FIN: Final = 0x80


@kernel("int64(int64)", inline=True)
def reply_header(size: int) -> int:
    """Return the octets of a server's header for a payload of *size*: 2, 4 or 10 (§5.2)."""
    return 2 if size <= 125 else 4 if size < 65_536 else 10


@kernel("int64(int64[::1], uint8[::1], int64, int64, int64)", inline=True)
def place(loop: Integers, region: Octets, opcode: int, start: int, size: int) -> int:
    """Make the frame with the payload region[start:start + size] the next of the replies.

    The first stays where it is: its header goes into the octets that the mask has
    left free. Those behind it move up, so that all leave in one piece; each is
    shorter than what it answers, so that nothing that is still needed is overwritten.

    Returns 0.
    """
    header = reply_header(size)
    if loop[s.OUT_STOP] == 0:
        loop[s.OUT_START] = start - header
        loop[s.OUT_STOP] = start - header
    else:
        move(region, loop[s.OUT_STOP] + header, region, start, size)
    write_header(region, loop[s.OUT_STOP], _FIN | opcode, size, -1)
    loop[s.OUT_STOP] += header + size
    loop[s.FRAMES_OUT] += 1
    return 0


@kernel("int64(int64[::1], int64[::1], uint8[::1], int32[::1], int64)", inline=True)
def send_replies(loop: Integers, row: Integers, region: Octets, event: Words, slot: int) -> int:
    """Send the replies so far in one piece; returns 0 or BROKEN."""
    start = loop[s.OUT_START]
    size = loop[s.OUT_STOP] - start
    loop[s.OUT_START] = loop[s.OUT_STOP] = 0
    return emit(loop, row, event, slot, region, start, size) if size > 0 else 0


@kernel(
    "int64(int64[::1], int64[::1], uint8[::1], int32[::1], int64, int64, int64, int64)", inner=True
)
def say_masked(
    loop: Integers,
    row: Integers,
    region: Octets,
    event: Words,
    slot: int,
    opcode: int,
    start: int,
    size: int,
) -> int:
    """Send a client's control frame with the payload region[start:start + size] (§5.3, §5.5).

    size  octets, 0..125: the frame fits into the headroom

    Returns 0 or BROKEN.
    """
    key = random_key(event)
    if key < 0:
        return note_failure(loop, key)
    move(region, MASKED_HEADER, region, start, size)
    write_header(region, 0, _FIN | opcode, size, key)
    mask(region, MASKED_HEADER, MASKED_HEADER + size, key, 0)
    loop[s.FRAMES_OUT] += 1
    return emit(loop, row, event, slot, region, 0, MASKED_HEADER + size)
