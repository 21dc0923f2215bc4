"""Text as it arrives: incremental validation of UTF-8 (RFC 6455 §8.1, RFC 3629 §4).

A finite automaton over octets. Its state is the distance by which a row of its
table is shifted: the table holds, for every octet, the next states for all
states side by side in one integer, six bits each. A step is then one load that
does not depend on the state, and one shift:

    UTF8-octets = *( UTF8-char )
    UTF8-1      = %x00-7F
    UTF8-2      = %xC2-DF UTF8-tail
    UTF8-3      = %xE0 %xA0-BF UTF8-tail / %xE1-EC 2( UTF8-tail ) /
                  %xED %x80-9F UTF8-tail / %xEE-EF 2( UTF8-tail )
    UTF8-4      = %xF0 %x90-BF 2( UTF8-tail ) / %xF1-F3 3( UTF8-tail ) /
                  %xF4 %x80-8F 2( UTF8-tail )

Overlong forms, surrogates and what lies above U+10FFFF have no path through it,
so that each is refused at its first octet that no valid text could have.

The automaton takes one octet after another. Long pieces are judged in blocks:
what an octet may be depends on the three before it alone, and comparing each
octet with those takes no table, so that LLVM does it for 32 octets at once.
Blocks of ASCII, the usual case, are recognised eight octets at a time.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from triows._kernels._faults import INVALID_UTF8
from triows._kernels._libc import WORD_SIZE, Octets, piece, words
from triows._kernels._registry import READ_ONLY, kernel

_BITS: Final = 6
BOUNDARY: Final = 0
_TAIL_1: Final = 1 * _BITS  # one UTF8-tail is to come
_TAIL_2: Final = 2 * _BITS
_TAIL_3: Final = 3 * _BITS
_AFTER_E0: Final = 4 * _BITS
_AFTER_ED: Final = 5 * _BITS
_AFTER_F0: Final = 6 * _BITS
_AFTER_F4: Final = 7 * _BITS
_INVALID: Final = 8 * _BITS

_TRANSITIONS: Final = (
    # state, first and last octet, next state; all others lead to _INVALID
    (BOUNDARY, 0x00, 0x7F, BOUNDARY),
    (BOUNDARY, 0xC2, 0xDF, _TAIL_1),
    (BOUNDARY, 0xE0, 0xE0, _AFTER_E0),
    (BOUNDARY, 0xE1, 0xEC, _TAIL_2),
    (BOUNDARY, 0xED, 0xED, _AFTER_ED),
    (BOUNDARY, 0xEE, 0xEF, _TAIL_2),
    (BOUNDARY, 0xF0, 0xF0, _AFTER_F0),
    (BOUNDARY, 0xF1, 0xF3, _TAIL_3),
    (BOUNDARY, 0xF4, 0xF4, _AFTER_F4),
    (_TAIL_1, 0x80, 0xBF, BOUNDARY),
    (_TAIL_2, 0x80, 0xBF, _TAIL_1),
    (_TAIL_3, 0x80, 0xBF, _TAIL_2),
    (_AFTER_E0, 0xA0, 0xBF, _TAIL_1),
    (_AFTER_ED, 0x80, 0x9F, _TAIL_1),
    (_AFTER_F0, 0x90, 0xBF, _TAIL_2),
    (_AFTER_F4, 0x80, 0x8F, _TAIL_2),
)

_BLOCK: Final = 128
"""Octets that are judged together."""

_LOOKBACK: Final = 3
"""Octets before it on which it depends what an octet may be."""

_HIGH_BITS: Final = np.uint64(0x8080_8080_8080_8080)
_NO_BITS: Final = np.uint64(0)  # numba compares a uint64 with a plain 0 as two floats


def _table() -> npt.NDArray[np.int64]:
    """Pack the transitions into one row per octet."""
    rows = []
    for octet in range(256):
        following = dict.fromkeys(range(0, _INVALID + _BITS, _BITS), _INVALID)
        following.update(
            (state, to) for state, low, high, to in _TRANSITIONS if low <= octet <= high
        )
        rows.append(sum(to << state for state, to in following.items()))
    return np.array(rows, np.int64)


_ROWS: Final = _table()


@kernel(f"int64({READ_ONLY}, int64, int64, int64)", inner=True)
def run_utf8(octets: Octets, start: int, stop: int, state: int) -> int:
    """Run the automaton over octets[start:stop] (RFC 3629 §4).

    octets       uint8 (n,), C-contiguous; read only
    start, stop  offsets, 0 <= start <= stop <= n; unchecked
    state        of the automaton

    Returns its next state, which may be the invalid one.
    """
    octet = piece(octets, start, stop - start)
    for i in range(stop - start):
        state = int(_ROWS[octet[i]]) >> (state & 63)
    return state & 63


@kernel(f"int64({READ_ONLY}, int64)", inner=True)
def find_state(octets: Octets, stop: int) -> int:
    """Find the automaton's state behind valid text that ends at *stop* (RFC 3629 §4).

    octets  uint8 (n,), C-contiguous; read only
    stop    offset, 3 <= stop <= n; unchecked

    Returns a state >= 0.
    """
    for at in range(stop - 1, stop - 1 - _LOOKBACK, -1):
        if int(octets[at]) & 0xC0 != 0x80:
            return run_utf8(octets, at, stop, BOUNDARY)
    return BOUNDARY  # three tails: the end of a UTF8-4


@kernel(f"int64({READ_ONLY}, int64, int64)", inner=True)
def is_ascii(octets: Octets, start: int, count: int) -> int:
    """Whether octets[start:start + 8 * count] is plain ASCII.

    octets  uint8 (n,), C-contiguous; read only
    start   offset, 0 <= start <= n - 8 * count; unchecked
    count   words of 8 octets

    Returns 1 or 0.
    """
    word = words(octets, start, count)
    seen = _NO_BITS
    for i in range(count):
        seen |= word[i]
    return 1 if seen & _HIGH_BITS == _NO_BITS else 0


@kernel(f"int64({READ_ONLY}, int64)", inner=True)
def is_valid_block(octets: Octets, start: int) -> int:
    """Whether a block may follow the valid text before it (RFC 3629 §4).

    octets  uint8 (n,), C-contiguous; read only
    start   offset of the block, 3 <= start <= n - 128; unchecked

    Returns 1 or 0.
    """
    octet = piece(octets, start - _LOOKBACK, _BLOCK + _LOOKBACK)
    wrong = False
    for i in range(_BLOCK):
        third, second, first, last = octet[i], octet[i + 1], octet[i + 2], octet[i + 3]
        is_tail = (last & 0xC0) == 0x80
        is_tail_due = (first >= 0xC0) | (second >= 0xE0) | (third >= 0xF0)
        wrong |= (
            (is_tail != is_tail_due)
            | ((last == 0xC0) | (last == 0xC1) | (last >= 0xF5))
            | ((first == 0xE0) & (last < 0xA0))
            | ((first == 0xED) & (last >= 0xA0))
            | ((first == 0xF0) & (last < 0x90))
            | ((first == 0xF4) & (last >= 0x90))
        )
    return 0 if wrong else 1


@kernel(f"int64({READ_ONLY}, int64, int64, int64)")
def validate_utf8(octets: Octets, start: int, stop: int, state: int) -> int:
    """Validate a piece of a text (RFC 6455 §8.1, RFC 3629 §4).

    octets       uint8 (n,), C-contiguous; read only
    start, stop  offsets, 0 <= start <= stop <= n; unchecked
    state        what the call for the piece before returned; 0 for the first

    Returns a state >= 0 for the next piece, 0 at the end of a code point; or
    INVALID_UTF8 if no octets to come could make the text valid.
    """
    if stop - start < WORD_SIZE + _BLOCK:
        whole = (stop - start) // WORD_SIZE
        if state == BOUNDARY and is_ascii(octets, start, whole):
            start += WORD_SIZE * whole
        state = run_utf8(octets, start, stop, state)
        return INVALID_UTF8 if state == _INVALID else state

    # The blocks look back one word, which the automaton has gone through.
    at = start + WORD_SIZE
    if run_utf8(octets, start, at, state) == _INVALID:
        return INVALID_UTF8
    while at < stop:
        at = min(at, stop - _BLOCK)  # the last block overlaps the one before
        if not is_ascii(octets, at - WORD_SIZE, 1 + _BLOCK // WORD_SIZE) and not is_valid_block(
            octets, at
        ):
            return INVALID_UTF8
        at += _BLOCK
    return find_state(octets, stop)
