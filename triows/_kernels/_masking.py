"""The XOR that every frame from a client goes through (RFC 6455 §5.3).

One kernel masks and unmasks, in place and in pieces of any size; it does not
know where a frame begins.
"""

import sys
from typing import Any, Final

import numpy as np

from triows._kernels._libc import (
    WORD_SIZE,
    Octets,
    words,
    xor_1,
    xor_2,
    xor_4,
    xor_8,
    xor_16,
    xor_32,
    xor_64,
)
from triows._kernels._registry import kernel

IS_LITTLE: Final = sys.byteorder == "little"
"""Whether the lowest octet of a word is the first in memory."""


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
    count = size // WORD_SIZE if IS_LITTLE else 0
    view = words(octets, start, count)
    for i in range(count):
        view[i] ^= word
    for i in range(start + WORD_SIZE * count, stop):
        octets[i] = int(octets[i]) ^ ((turned >> 8 * ((i - start) & 3)) & 0xFF)
    return (phase + size) & 3


@kernel("int64(uint8[::1], int64, int64, int64, int64)", inline=True)
def unmask_to(octets: Octets, target: int, start: int, size: int, key: int) -> int:
    """Unmask a payload on its way to where it is wanted (RFC 6455 §5.3); returns 0.

    octets  uint8 (n,), C-contiguous; octets[target:target + size] is changed
    target  offset, 0 <= target <= start; unchecked
    start   offset of the masked payload, which *target*'s octets may overlap
    size    octets, 0 <= size <= n - start; unchecked
    key     the four mask octets, the first one lowest, 0..2**32 - 1

    For machines that are `IS_LITTLE`.
    """
    word: Any = np.uint64(int(key) * 0x1_0000_0001)
    stop = start + size
    while stop - start >= 64:
        xor_64(octets, target, start, word)
        start += 64
        target += 64
    if size & 32:
        xor_32(octets, target, start, word)
        start += 32
        target += 32
    if size & 16:
        xor_16(octets, target, start, word)
        start += 16
        target += 16
    if size & 8:
        xor_8(octets, target, start, word)
        start += 8
        target += 8
    if size & 4:
        xor_4(octets, target, start, word)
        start += 4
        target += 4
    if size & 2:
        xor_2(octets, target, start, word)
        start += 2
        target += 2
        word = np.uint64(key >> 16)
    if size & 1:
        xor_1(octets, target, start, word)
    return 0
