"""The scan of received octets into frames and pieces of frames (RFC 6455 §5.2 to §5.6).

One kernel holds everything that RFC 6455 demands of a receiver: it parses
headers, unmasks in place, checks that frames follow each other as they may,
enforces the limits and validates text as it arrives. Both drivers and both
roles use it; what they add is only what becomes of the result.

The scan of a connection is a row of integers, its *state*, that lives between
calls. A call takes whatever octets have arrived and describes them as rows of
a *table*, each a **piece**: the whole payload of a frame, or as much of it as
these octets hold. A data frame is passed on piece by piece, so that text is
refused at its first bad octet (§8.1) and nothing has to be kept by the scan. A
header or a control frame that is not yet whole is left where it is: at most
131 octets, which the caller presents again, with more behind them.

What a row says of a piece that is `WHOLE`, with a header of at least four
octets before it, is all that a reply in place needs: see `_engine`.
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from triows._kernels._faults import (
    BAD_CLOSE_CODE,
    INVALID_UTF8,
    INVALID_UTF8_REASON,
    MASKED,
    MESSAGE_INSIDE_MESSAGE,
    MESSAGE_TOO_BIG,
    NOT_MASKED,
    SHORT_CLOSE,
    STRAY_CONTINUATION,
    TOO_MANY_FRAGMENTS,
    UNEXPECTED_RSV,
)
from triows._kernels._headers import FIELDS as FIELD_COUNT
from triows._kernels._headers import (
    FIN,
    HEADER_SIZE,
    KEY,
    OPCODE,
    PAYLOAD_SIZE,
    RSV,
    read_header,
    read_number,
)
from triows._kernels._headers import MASKED as HEADER_MASKED
from triows._kernels._libc import Octets
from triows._kernels._masking import mask
from triows._kernels._registry import kernel
from triows._kernels._utf8 import validate_utf8

Integers: TypeAlias = npt.NDArray[np.int64]

# The state of a connection's scan: int64 (STATE_SIZE,). What plain frames need comes last, for the
# sake of slots (`_slots`), which go on from there.
MAX_FRAGMENTS: Final = 0  # frames; a setting
MESSAGE_SIZE: Final = 1  # octets that the frames of the message have announced so far
MESSAGE_FRAGMENTS: Final = 2  # frames of it that have begun
MESSAGE_RSV: Final = 3  # the reserved bits of its first frame
TEXT: Final = 4  # where its UTF-8 stands: 0 at the boundary of a code point
FRAME_FIN: Final = 5  # whether the frame under way is its message's last
FRAME_KEY: Final = 6  # its mask key, or -1
FRAME_PHASE: Final = 7  # the mask octet that its next payload octet meets, 0..3
HAS_CLOSED: Final = 8  # 1 once a Close frame has been seen: what follows is ignored (§5.5.1)
EXPECT_MASK: Final = 9  # 1: the peer must mask (it is a client); 0: it must not
ALLOWED_RSV: Final = 10  # the reserved bits that an extension has claimed: 4 is RSV1
MAX_MESSAGE: Final = 11  # octets; a setting, as the two before it
MESSAGE_OPCODE: Final = 12  # of the message that is under way; 0 between messages
REMAINING: Final = 13  # octets of the frame under way that are still to come
STATE_SIZE: Final = 14

# A row of the table: int64 (COLUMNS,).
ROW_OPCODE: Final = 0  # 1 or 2 for data, continuation frames included; 8, 9 or 10 for control
ROW_FLAGS: Final = 1
ROW_START: Final = 2  # of the piece, in the octets scanned
ROW_SIZE: Final = 3  # of the piece, in octets
ROW_HEADER: Final = 4  # octets of header right before the piece; 0 where it began earlier
PIECE_COLUMNS: Final = 5  # of a row that are of use to others
FIELDS: Final = PIECE_COLUMNS  # what `read_header` found, if it was asked: FIELD_COUNT integers
COLUMNS: Final = FIELDS + FIELD_COUNT

# The flags of a piece.
MESSAGE_START: Final = 1
MESSAGE_END: Final = 2
FRAME_START: Final = 4
FRAME_END: Final = 8
COMPRESSED: Final = 16
WHOLE: Final = MESSAGE_START | MESSAGE_END | FRAME_START | FRAME_END

# The trailer: what the last row, one past the pieces, says of the call itself.
NEXT: Final = 0  # the first octet that was not taken
FAULT: Final = 1  # 0, or what the peer did wrong; every piece before it stands
NEEDED: Final = 2  # octets from NEXT on without which there is nothing to do; 0 if none is left
IS_FULL: Final = 3  # 1: the table ran out of rows; call again from NEXT

TEXT_OPCODE: Final = 1
BINARY_OPCODE: Final = 2
CLOSE_OPCODE: Final = 8
RSV1: Final = 4


@kernel("int64(int64[::1], int64[::1])", inner=True)
def check_order(state: Integers, row: Integers) -> int:
    """Check whether the data frame in row[FIELDS:] may come now (RFC 6455 §5.2, §5.4).

    state  int64 (STATE_SIZE,); read only
    row    int64 (COLUMNS,); read only

    Returns 0, or a fault code.
    """
    rsv = row[FIELDS + RSV]
    if row[FIELDS + OPCODE] != 0:
        if state[MESSAGE_OPCODE] != 0:
            return MESSAGE_INSIDE_MESSAGE
        return UNEXPECTED_RSV if rsv & ~state[ALLOWED_RSV] else 0
    if state[MESSAGE_OPCODE] == 0:
        return STRAY_CONTINUATION
    return UNEXPECTED_RSV if rsv != 0 else 0


@kernel("int64(int64)", inner=True)
def compressed_limit(limit: int) -> int:
    """Return how many octets a message of at most *limit* may have compressed (RFC 7692 §7.2).

    What cannot be compressed grows: by the headers of blocks, or by an eighth where its sender
    keeps to the fixed codes of RFC 1951 §3.2.6. What it inflates to is not a kernel's to limit.

    limit  octets, 0..2**63 - 1
    """
    return limit + (limit >> 3) + 1024 if limit < 1 << 62 else limit


@kernel("int64(int64[::1], int64[::1])", inner=True)
def admit_data(state: Integers, row: Integers) -> int:
    """Make the data frame in row[FIELDS:] the one under way (§5.2, §5.4, §10.4).

    state  int64 (STATE_SIZE,); the message's and the frame's fields are updated
    row    int64 (COLUMNS,); read only

    Returns 0, or a fault code; after a fault the state is of no more use.
    """
    fault = check_order(state, row)
    if fault != 0:
        return fault
    if row[FIELDS + OPCODE] != 0:
        state[MESSAGE_OPCODE] = row[FIELDS + OPCODE]
        state[MESSAGE_RSV] = row[FIELDS + RSV]
        state[MESSAGE_SIZE] = 0
        state[MESSAGE_FRAGMENTS] = 0
        state[TEXT] = 0
    limit = state[MAX_MESSAGE]
    if state[MESSAGE_RSV] & RSV1:
        limit = compressed_limit(limit)
    if row[FIELDS + PAYLOAD_SIZE] > limit - state[MESSAGE_SIZE]:
        return MESSAGE_TOO_BIG
    if state[MESSAGE_FRAGMENTS] >= state[MAX_FRAGMENTS]:
        return TOO_MANY_FRAGMENTS
    state[MESSAGE_SIZE] += row[FIELDS + PAYLOAD_SIZE]
    state[MESSAGE_FRAGMENTS] += 1
    state[REMAINING] = row[FIELDS + PAYLOAD_SIZE]
    state[FRAME_FIN] = row[FIELDS + FIN]
    state[FRAME_KEY] = row[FIELDS + KEY]
    state[FRAME_PHASE] = 0
    return 0


@kernel("int64(uint8[::1], int64, int64[::1], int64[::1])", inner=True)
def take_piece(octets: Octets, stop: int, state: Integers, row: Integers) -> int:
    """Take what octets[row[ROW_START]:stop] holds of the data frame under way (§5.3, §5.6).

    octets  uint8 (n,); what is taken is unmasked in place
    stop    an offset, row[ROW_START] <= stop <= n; unchecked
    state   int64 (STATE_SIZE,), with a data frame under way
    row     int64 (COLUMNS,); opcode and size are set, and the flags of the piece's end added

    Returns 0 or INVALID_UTF8.
    """
    start = row[ROW_START]
    size = min(state[REMAINING], stop - start)
    is_text = state[MESSAGE_OPCODE] == TEXT_OPCODE and state[MESSAGE_RSV] & RSV1 == 0
    row[ROW_OPCODE] = state[MESSAGE_OPCODE]
    row[ROW_SIZE] = size
    if state[MESSAGE_RSV] & RSV1:
        row[ROW_FLAGS] |= COMPRESSED
    if state[FRAME_KEY] >= 0:
        state[FRAME_PHASE] = mask(octets, start, start + size, state[FRAME_KEY], state[FRAME_PHASE])
    if is_text:
        state[TEXT] = validate_utf8(octets, start, start + size, state[TEXT])
        if state[TEXT] < 0:
            return INVALID_UTF8
    state[REMAINING] -= size
    if state[REMAINING] == 0:
        row[ROW_FLAGS] |= FRAME_END
        if state[FRAME_FIN]:
            row[ROW_FLAGS] |= MESSAGE_END
            state[MESSAGE_OPCODE] = 0
            if is_text and state[TEXT] != 0:
                return INVALID_UTF8
    return 0


@kernel("int64(uint8[::1], int64, int64)", inner=True)
def check_close(octets: Octets, start: int, stop: int) -> int:
    """Check the unmasked payload of a Close frame (RFC 6455 §5.5.1, §7.4).

    octets       uint8 (n,); read only
    start, stop  offsets of the payload, 0 <= start <= stop <= n; unchecked

    Returns 0 or a fault code.
    """
    size = stop - start
    if size == 0:
        return 0
    if size == 1:
        return SHORT_CLOSE
    code = read_number(octets, start, 2)
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        return BAD_CLOSE_CODE
    if validate_utf8(octets, start + 2, stop, 0) != 0:
        return INVALID_UTF8_REASON
    return 0


@kernel("int64(uint8[::1], int64[::1], int64[::1])", inner=True)
def take_control(octets: Octets, state: Integers, row: Integers) -> int:
    """Take the whole control frame that `open_frame` has found (§5.5).

    octets  uint8 (n,); the payload is unmasked in place
    state   int64 (STATE_SIZE,)
    row     int64 (COLUMNS,), as `open_frame` left it; its flags are set

    Returns 0 or a fault code.
    """
    start = row[ROW_START]
    stop = start + row[ROW_SIZE]
    row[ROW_FLAGS] = WHOLE
    if row[FIELDS + KEY] >= 0:
        mask(octets, start, stop, row[FIELDS + KEY], 0)
    if row[ROW_OPCODE] == CLOSE_OPCODE:
        state[HAS_CLOSED] = 1
        return check_close(octets, start, stop)
    return 0


@kernel("int64(uint8[::1], int64, int64, int64[::1], int64[::1])", inner=True)
def open_frame(octets: Octets, start: int, stop: int, state: Integers, row: Integers) -> int:
    """Read the header at *start* and admit its frame (RFC 6455 §5.1 to §5.5).

    octets       uint8 (n,); read only
    start, stop  offsets, 0 <= start < stop <= n; unchecked
    state        int64 (STATE_SIZE,), with no frame under way
    row          int64 (COLUMNS,), zero before FIELDS, which are set; so are opcode, start and
                 header, the size of a control frame, the flags of a data frame's start

    Returns 0; n > 0 where at least n octets are needed from *start* on; or a fault code.
    """
    code = read_header(octets, start, stop, row[FIELDS : FIELDS + FIELD_COUNT])
    if code != 0:
        return code
    if row[FIELDS + HEADER_MASKED] != state[EXPECT_MASK]:
        return NOT_MASKED if state[EXPECT_MASK] else MASKED
    header = row[FIELDS + HEADER_SIZE]
    row[ROW_OPCODE] = row[FIELDS + OPCODE]
    row[ROW_START] = start + header
    row[ROW_HEADER] = header
    if row[ROW_OPCODE] < CLOSE_OPCODE:
        code = admit_data(state, row)
        row[ROW_FLAGS] = FRAME_START
        if state[MESSAGE_FRAGMENTS] == 1:
            row[ROW_FLAGS] |= MESSAGE_START
        return code
    if row[FIELDS + RSV] != 0:
        return UNEXPECTED_RSV
    row[ROW_SIZE] = row[FIELDS + PAYLOAD_SIZE]
    whole = header + row[ROW_SIZE]
    return whole if whole > stop - start else 0


@kernel("int64(uint8[::1], int64, int64, int64[::1], int64[:,::1])")
def scan(octets: Octets, start: int, stop: int, state: Integers, table: Integers) -> int:
    """Describe octets[start:stop] as pieces of frames (RFC 6455 §5).

    octets       uint8 (n,); payloads are unmasked in place
    start, stop  offsets, 0 <= start <= stop <= n; unchecked
    state        int64 (STATE_SIZE,): the connection's, from call to call
    table        int64 (m, COLUMNS), m >= 2; rows 0..r-1 describe pieces, row r is the trailer

    Returns r, the number of pieces, 0..m - 1.
    """
    rows = 0
    position = start
    code = 0
    while position < stop and state[HAS_CLOSED] == 0 and rows < len(table) - 1:
        row = table[rows]
        row[:FIELDS] = 0
        row[ROW_START] = position
        if state[REMAINING] == 0:
            code = open_frame(octets, position, stop, state, row)
            if code != 0:
                break
        if row[ROW_OPCODE] >= CLOSE_OPCODE:
            code = take_control(octets, state, row)
        else:
            code = take_piece(octets, stop, state, row)
        if code != 0:
            break
        position = row[ROW_START] + row[ROW_SIZE]
        rows += 1
    is_closed = state[HAS_CLOSED] == 1
    trailer = table[rows]
    trailer[NEXT] = stop if is_closed else position
    trailer[FAULT] = min(code, 0)
    trailer[NEEDED] = max(code, 0)
    trailer[IS_FULL] = 1 if position < stop and code == 0 and not is_closed else 0
    return rows
