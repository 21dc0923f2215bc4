"""Frame headers, read and written (RFC 6455 §5.2, §5.5).

Judged here is what a header alone shows to be wrong whoever sent it: the RSV
bits and the direction of masking depend on the connection, and are `scan`'s.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from triows._kernels._faults import (
    FRAGMENTED_CONTROL,
    LENGTH_NOT_MINIMAL,
    LENGTH_TOP_BIT,
    LONG_CONTROL,
    RESERVED_OPCODE,
)
from triows._kernels._libc import Octets
from triows._kernels._registry import READ_ONLY, kernel
from triows._spec import MAX_CONTROL_PAYLOAD

FIN: Final = 0
RSV: Final = 1
OPCODE: Final = 2
MASKED: Final = 3
KEY: Final = 4
HEADER_SIZE: Final = 5
PAYLOAD_SIZE: Final = 6
FIELDS: Final = 7
"""How many fields `read_header` sets."""

_TWO_OCTETS: Final = 126
_EIGHT_OCTETS: Final = 127


@kernel(f"int64({READ_ONLY}, int64, int64, int64)", inner=True)
def judge_length(octets: Octets, start: int, available: int, length: int) -> int:
    """Judge an extended payload length as far as it is there (RFC 6455 §5.2).

    octets     uint8 (n,), C-contiguous; read only
    start      offset of the extended length
    available  octets that are there from *start*, >= 0; unchecked
    length     what the 7-bit length says, 0..127

    Returns 0 while nothing is wrong, else LENGTH_TOP_BIT or LENGTH_NOT_MINIMAL.
    """
    if length == _TWO_OCTETS and available >= 2:
        if octets[start] == 0 and octets[start + 1] < _TWO_OCTETS:
            return LENGTH_NOT_MINIMAL
    elif length == _EIGHT_OCTETS and available >= 1:
        if octets[start] >= 0x80:
            return LENGTH_TOP_BIT
        if available >= 6:
            for i in range(start, start + 6):
                if octets[i] != 0:
                    return 0
            return LENGTH_NOT_MINIMAL
    return 0


@kernel(f"int64({READ_ONLY}, int64, int64)", inner=True)
def judge_start(octets: Octets, start: int, available: int) -> int:
    """Judge a header's first two octets as far as they are there (RFC 6455 §5.2, §5.5).

    octets     uint8 (n,), C-contiguous; read only
    start      offset of the header
    available  octets that are there from *start*, >= 0; unchecked

    Returns 0 while nothing is wrong, else RESERVED_OPCODE, FRAGMENTED_CONTROL
    or LONG_CONTROL.
    """
    if available < 1:
        return 0
    first = int(octets[start])
    if first & 0x7 > 2:
        return RESERVED_OPCODE
    if first & 0x8 == 0:
        return 0
    if first & 0x80 == 0:
        return FRAGMENTED_CONTROL
    if available >= 2 and int(octets[start + 1]) & 0x7F > MAX_CONTROL_PAYLOAD:
        return LONG_CONTROL
    return 0


@kernel(f"int64({READ_ONLY}, int64, int64)", inner=True)
def read_number(octets: Octets, start: int, size: int) -> int:
    """Read an unsigned number in network order (RFC 6455 §5.2).

    octets  uint8 (n,), C-contiguous; read only
    start   offset
    size    octets, 0..8, the number's top bit clear; unchecked

    Returns the number, 0..2**63 - 1.
    """
    number = 0
    for i in range(start, start + size):
        number = (number << 8) | int(octets[i])
    return number


@kernel(f"int64({READ_ONLY}, int64, int64, int64[::1])")
def read_header(octets: Octets, start: int, stop: int, fields: npt.NDArray[np.int64]) -> int:
    """Read one frame header, refusing it as early as possible (RFC 6455 §5.2, §5.5).

    octets       uint8 (n,), C-contiguous; read only
    start, stop  offsets, 0 <= start <= stop <= n; unchecked
    fields       int64 (FIELDS,) or longer; set only when the header is whole:
                 FIN 0 or 1; RSV 0..7, RSV1 highest; OPCODE; MASKED 0 or 1;
                 KEY the four mask octets, the first one lowest, or -1;
                 HEADER_SIZE 2..14 octets; PAYLOAD_SIZE 0..2**63 - 1 octets

    Returns 0 for a whole header, n > 0 when at least n octets counted from
    *start* are needed, or RESERVED_OPCODE, FRAGMENTED_CONTROL, LONG_CONTROL,
    LENGTH_TOP_BIT or LENGTH_NOT_MINIMAL from the first octet that shows it.
    """
    available = stop - start
    fault = judge_start(octets, start, available)
    if fault < 0:
        return fault
    if available < 2:
        return 2
    second = int(octets[start + 1])
    length = second & 0x7F
    fault = judge_length(octets, start + 2, available - 2, length)
    if fault < 0:
        return fault

    extended = 8 if length == _EIGHT_OCTETS else 2 if length == _TWO_OCTETS else 0
    is_masked = second >> 7
    header_size = 2 + extended + 4 * is_masked
    if available < header_size:
        return header_size

    first = int(octets[start])
    fields[FIN] = first >> 7
    fields[RSV] = (first >> 4) & 7
    fields[OPCODE] = first & 0xF
    fields[MASKED] = is_masked
    fields[KEY] = -1
    if is_masked:
        at = start + header_size - 4
        fields[KEY] = (
            int(octets[at])
            | int(octets[at + 1]) << 8
            | int(octets[at + 2]) << 16
            | int(octets[at + 3]) << 24
        )
    fields[HEADER_SIZE] = header_size
    fields[PAYLOAD_SIZE] = read_number(octets, start + 2, extended) if extended else length
    return 0


@kernel("int64(uint8[::1], int64, int64, int64, int64)")
def write_header(octets: Octets, start: int, first_octet: int, payload_size: int, key: int) -> int:
    """Write one frame header with a minimal length (RFC 6455 §5.2).

    octets        uint8 (n,), C-contiguous
    start         offset, 0 <= start <= n - 14, or less room if the header is
                  known to be shorter; unchecked
    first_octet   FIN, RSV1 to RSV3 and opcode, 0..255
    payload_size  octets, 0..2**63 - 1
    key           the four mask octets, the first one lowest, 0..2**32 - 1;
                  -1 for no mask

    Returns the header's size, 2..14 octets.
    """
    octets[start] = first_octet
    mask_bit = 0x80 if key >= 0 else 0
    extended = 0
    if payload_size < _TWO_OCTETS:
        octets[start + 1] = mask_bit | payload_size
    elif payload_size < 1 << 16:
        octets[start + 1] = mask_bit | _TWO_OCTETS
        extended = 2
    else:
        octets[start + 1] = mask_bit | _EIGHT_OCTETS
        extended = 8
    at = start + 2
    for i in range(extended):
        octets[at + i] = (payload_size >> 8 * (extended - 1 - i)) & 0xFF
    at += extended
    if key >= 0:
        for i in range(4):
            octets[at + i] = (key >> 8 * i) & 0xFF
        at += 4
    return at - start
