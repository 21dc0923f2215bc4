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


def _plain_words(octets: Octets, start: int, count: int) -> Words:
    """The twin of `words`: NumPy's own views may be unaligned."""
    return octets[start : start + WORD_SIZE * count].view(np.uint64)


# numba compiles this function's inside: coverage cannot see it run.
def _typed_words(_context: Any, octets: Any, start: Any, count: Any) -> Any:  # pragma: no cover
    """Build the view's descriptor; nothing is copied, allocated or counted."""
    # Not aligned: LLVM would take an offset that is a multiple of 8 for granted.
    view = types.Array(types.uint64, 1, "C", readonly=not octets.mutable, aligned=False)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, first, number = arguments
        source = make_array(signature.args[0])(context, builder, array)
        words = make_array(view)(context, builder)
        data = cgutils.gep_inbounds(builder, source.data, first)
        populate_array(
            words,
            data=builder.bitcast(data, words.data.type),
            shape=cgutils.pack_array(builder, [number]),
            strides=cgutils.pack_array(builder, [context.get_constant(types.intp, WORD_SIZE)]),
            itemsize=context.get_constant(types.intp, WORD_SIZE),
            meminfo=None,  # borrowed: it lives no longer than the octets' array
        )
        return words._getvalue()  # noqa: SLF001 - how numba's own code reads a struct

    return view(octets, start, count), build


words: Any = intrinsic(_typed_words) if JIT else _plain_words
"""words(octets, start, count): octets[start:start + 8 * count] as *count* uint64.

octets  uint8 (n,), C-contiguous
start   offset, at any alignment, 0 <= start <= n - 8 * count; unchecked
count   words, >= 0

The words are in the machine's own order of octets. The view borrows the
memory of *octets* and must not outlive the kernel that made it.
"""
