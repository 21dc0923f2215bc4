"""Plain frames, which nearly all are: whole, unfragmented, under 64 KiB (RFC 6455 §5.2, §5.6).

For them this does what the scan and the general path do, with everything in
registers. It stops before any other frame, and before whatever is wrong with one,
which it leaves as it was: there is one judge, and that is the scan.
"""

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from triows._kernels import _slots as s
from triows._kernels._fanout import publish
from triows._kernels._faults import HANDLER_CLOSED, HANDLER_FAILED
from triows._kernels._goodbye import fail
from triows._kernels._handler import CLOSE, DISCARD, ECHO, call_handler
from triows._kernels._libc import Octets, piece
from triows._kernels._masking import IS_LITTLE, mask, unmask_to
from triows._kernels._registry import kernel
from triows._kernels._scan import BINARY_OPCODE, MAX_MESSAGE, TEXT_OPCODE
from triows._kernels._system import move
from triows._kernels._utf8 import validate_utf8

Integers: TypeAlias = npt.NDArray[np.int64]

MISFIT: Final = s.HEADROOM + s.RECEIVE_SIZE + s.TAILROOM
"""A header that no region has room for: where there is none, or its length is not minimal."""


@kernel("int64(uint8[::1], int64, int64)", inline=True)
def plain_size(region: Octets, start: int, stop: int) -> int:
    """Read the header of a plain frame at *start*; there are six octets at least.

    Returns the payload's size, 0..65,535, or -1 where the frame is no plain one, or not whole.
    """
    octets = piece(region, start, 4)  # with constant indices, which need not be seen to be positive
    opcode: Any = np.int64(octets[0]) - 0x80
    size: Any = np.int64(octets[1]) - 0x80
    header = 6 if size <= 125 else MISFIT
    if size == 126 and stop - start >= 8:
        size = np.int64(octets[2]) << 8 | np.int64(octets[3])
        header = 8 if size >= 126 else MISFIT
    is_plain = opcode in (1, 2) and 0 <= size <= stop - start - header
    return size if is_plain else -1


@kernel("int64(uint8[::1], int64)", inline=True)
def read_key(region: Octets, start: int) -> int:
    """Return the mask before the payload at *start*, its first octet lowest."""
    octets = piece(region, start - 4, 4)
    key: Any = (
        np.int64(octets[0])
        | np.int64(octets[1]) << 8
        | np.int64(octets[2]) << 16
        | np.int64(octets[3]) << 24
    )
    return key


@kernel("int64(uint8[::1], int64, int64, int64)", inline=True)
def unmask_plain(region: Octets, start: int, size: int, opcode: int) -> int:
    """Unmask a payload behind its mask, and validate text; returns 0.

    Text that is not UTF-8 is masked again and left for the scan to refuse: then -1.
    """
    key = read_key(region, start)
    mask(region, start, start + size, key, 0)
    if opcode == TEXT_OPCODE and validate_utf8(region, start, start + size, 0) != 0:
        mask(region, start, start + size, key, 0)
        return -1
    return 0


@kernel("int64(uint8[::1], int64, int64, int64, int64)", inline=True)
def reply_plain(region: Octets, stop: int, opcode: int, start: int, size: int) -> int:
    """Put a reply with the payload region[start:start + size] at *stop*; returns its end."""
    header = 2 if size <= 125 else 4
    if stop + header != start:
        move(region, stop + header, region, start, size)
    octets = piece(region, stop, header)
    octets[0] = 0x80 | opcode
    if header == 2:
        octets[1] = size
    else:
        octets[1] = 126
        octets[2] = size >> 8
        octets[3] = size & 0xFF
    return stop + header + size


@kernel("int64(int64[::1], int64, int64, int64, int64)", inline=True)
def count_plain(loop: Integers, messages: int, octets: int, echoes: int, echoed: int) -> int:
    """Count so many messages with their octets, and likewise the replies to them; returns 0."""
    loop[s.FRAMES_IN] += messages
    loop[s.FRAMES_OUT] += echoes
    loop[s.MESSAGES_IN] += messages
    loop[s.OCTETS_IN] += octets
    loop[s.MESSAGES_OUT] += echoes
    loop[s.OCTETS_OUT] += echoed
    return 0


@kernel("int64(int64[::1], int64[::1], uint8[::1], int64, int64)", inner=True)
def serve_plain(loop: Integers, row: Integers, region: Octets, start: int, stop: int) -> int:
    """Serve plain frames until another comes; returns the first octet that is not served.

    loop         int64 (REGISTERS,)
    row          int64 (SLOT_SIZE,), with no message under way
    region       uint8 (n,); payloads are unmasked, replies moved up, in place
    start, stop  offsets, 0 < start <= stop <= n
    """
    handler = loop[s.HANDLER]
    limit = row[MAX_MESSAGE]
    out_stop = loop[s.OUT_STOP]
    messages = octets = echoes = echoed = 0
    while stop - start >= 6 and row[s.PHASE] == s.OPEN:
        size = plain_size(region, start, stop)
        if size < 0 or size > limit:
            break
        header = 2 if size <= 125 else 4
        opcode: Any = np.int64(region[start]) & 0xF
        begin = masked = start + header + 4
        if opcode == BINARY_OPCODE and IS_LITTLE:
            if out_stop > 0:
                begin = out_stop + header  # where the reply will want it
            unmask_to(region, begin, masked, size, read_key(region, masked))
        elif unmask_plain(region, begin, size, opcode) != 0:
            break
        messages += 1
        octets += size
        start = masked + size
        answer = ECHO
        if handler != 0:
            answer = call_handler(handler, piece(region, begin, size), opcode)
        if answer == ECHO:
            echoes += 1
            echoed += size
            if out_stop == 0:
                out_stop = begin - header
                loop[s.OUT_START] = out_stop
            out_stop = reply_plain(region, out_stop, opcode, begin, size)
        elif answer != DISCARD and not (
            answer == s.PUBLISH and publish(loop, row, region, begin, size, opcode) == 0
        ):
            loop[s.OUT_STOP] = out_stop
            fail(loop, row, region, HANDLER_CLOSED if answer == CLOSE else HANDLER_FAILED)
            out_stop = loop[s.OUT_STOP]
    loop[s.OUT_STOP] = out_stop
    count_plain(loop, messages, octets, echoes, echoed)
    return start
