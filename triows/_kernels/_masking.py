"""The XOR that every frame from a client goes through (RFC 6455 §5.3).

One kernel masks and unmasks, in place and in pieces of any size; it does not
know where a frame begins.
"""

import sys
from typing import Final

import numpy as np

from triows._kernels._libc import WORD_SIZE, Octets, words
from triows._kernels._registry import kernel

_IS_LITTLE: Final = sys.byteorder == "little"


@kernel("int64(uint8[::1], int64, int64, int64, int64)")
def mask(octets: Octets, start: int, stop: int, key: int, phase: int) -> int:
    """Apply or remove a mask: the same operation (RFC 6455 §5.3).

    octets       uint8 (n,), C-contiguous; octets[start:stop] is changed
    start, stop  offsets, 0 <= start <= stop <= n; unchecked
    key          the four mask octets, the first one lowest, 0..2**32 - 1
    phase        which mask octet is applied to octets[start], 0..3

    Returns the phase of the octet at *stop*, 0..3, for the next piece.
    """
    size = stop - start
    # The key turned so that its lowest octet is the one for octets[start].
    turned = int(((key >> 8 * phase) | (key << 32 - 8 * phase)) & 0xFFFF_FFFF)
    # Twice side by side; compiled, the product wraps to the same 64 bits.
    word = np.uint64(turned * 0x1_0000_0001)
    count = size // WORD_SIZE if _IS_LITTLE else 0
    view = words(octets, start, count)
    for i in range(count):
        view[i] ^= word
    for i in range(start + WORD_SIZE * count, stop):
        octets[i] = int(octets[i]) ^ ((turned >> 8 * ((i - start) & 3)) & 0xFF)
    return (phase + size) & 3
