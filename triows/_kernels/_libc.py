"""Memory seen other than as octets: the one module that takes addresses.

Its functions take an array, an offset and a size, so that no address ever
travels through a kernel. Each has a twin in plain Python, chosen when kernels
are not compiled: there numba's intrinsics do not work.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from triows._kernels._registry import JIT

Octets = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]

WORD_SIZE: Final = 8
"""Octets in a word."""


def _plain_piece(octets: Octets, start: int, size: int) -> Octets:
    """The twin of `piece`: NumPy's own slice."""
    return octets[start : start + size]


def _plain_words(octets: Octets, start: int, count: int) -> Words:
    """The twin of `words`: NumPy's own views may be unaligned."""
    return octets[start : start + WORD_SIZE * count].view(np.uint64)


# numba runs these while it compiles, which it does not do where coverage is measured.
def _view_as(item: Any, item_size: int) -> Any:  # pragma: no cover
    """Make the intrinsic that views octets[start:] as *count* items of another type.

    It builds the view's descriptor, and copies, allocates and counts nothing.
    A slice would do for octets, but counts references and admits negative offsets,
    so that LLVM vectorises no loop over it.
    """

    def typed(_context: Any, octets: Any, _start: Any, _count: Any) -> Any:
        # Not aligned: LLVM would take an offset that is a multiple of 8 for granted.
        view = types.Array(item, 1, "C", readonly=not octets.mutable, aligned=item_size == 1)

        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array, first, number = arguments
            source = make_array(signature.args[0])(context, builder, array)
            target = make_array(view)(context, builder)
            data = cgutils.gep_inbounds(builder, source.data, first)
            size = context.get_constant(types.intp, item_size)
            populate_array(
                target,
                data=builder.bitcast(data, target.data.type),
                shape=cgutils.pack_array(builder, [number]),
                strides=cgutils.pack_array(builder, [size]),
                itemsize=size,
                meminfo=None,  # borrowed: it lives no longer than the octets' array
            )
            return target._getvalue()  # noqa: SLF001 - how numba's own code reads a struct

        return view(octets, types.int64, types.int64), build

    return intrinsic(typed)


piece: Any = _view_as(types.uint8, 1) if JIT else _plain_piece
"""piece(octets, start, size): octets[start:start + size], for loops that count from 0.

octets  uint8 (n,), C-contiguous
start   offset, 0 <= start <= n - size; unchecked
size    octets, >= 0

The view borrows the memory of *octets* and must not outlive the kernel that made it.
"""

words: Any = _view_as(types.uint64, WORD_SIZE) if JIT else _plain_words
"""words(octets, start, count): octets[start:start + 8 * count] as *count* uint64.

octets  uint8 (n,), C-contiguous
start   offset, at any alignment, 0 <= start <= n - 8 * count; unchecked
count   words, >= 0

The words are in the machine's own order of octets. The view borrows the
memory of *octets* and must not outlive the kernel that made it.
"""


# As above: numba runs it while it compiles.
def _typed_borrow(_context: Any, array: Any) -> Any:  # pragma: no cover
    """Make the intrinsic that forgets who owns an array."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source = make_array(signature.args[0])(context, builder, arguments[0])
        target = make_array(array)(context, builder)
        populate_array(
            target,
            data=source.data,
            shape=source.shape,
            strides=source.strides,
            itemsize=source.itemsize,
            meminfo=None,
        )
        return target._getvalue()  # noqa: SLF001 - how numba's own code reads a struct

    return array(array), build


def _plain_borrow(array: Any) -> Any:
    """The twin of `borrow`."""
    return array


borrow: Any = intrinsic(_typed_borrow) if JIT else _plain_borrow
"""borrow(array): the same array, with no one counting who refers to it or to its slices.

Counting is atomic, and every row and slice is counted: tenfold the cost of small frames.
The caller of the kernel keeps the array alive.
"""
