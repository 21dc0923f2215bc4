"""Memory seen other than as octets: the one module that takes addresses.

Its functions take an array, an offset and a size, so that no address ever
travels through a kernel. Each has a twin in plain Python, chosen when kernels
are not compiled: there numba's intrinsics do not work.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir
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
def _xor_move(size: int) -> Any:  # pragma: no cover
    """Make the intrinsic that moves *size* octets and applies a mask to them on the way.

    One load, one store: an instruction each, where the processor has vectors of that size.
    """
    lanes, item = (size // WORD_SIZE, 64) if size >= WORD_SIZE else (1, 8 * size)
    number = ir.IntType(item)
    whole = ir.VectorType(number, lanes) if lanes > 1 else number

    def typed(_context: Any, octets: Any, _target: Any, _start: Any, _word: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array, target, start, word = arguments
            data = make_array(signature.args[0])(context, builder, array).data
            address = [
                builder.bitcast(cgutils.gep_inbounds(builder, data, at), whole.as_pointer())
                for at in (start, target)
            ]
            if item < 64:
                word = builder.trunc(word, number)
            if lanes > 1:
                first = ir.Constant(ir.IntType(32), 0)
                word = builder.insert_element(ir.Constant(whole, ir.Undefined), word, first)
                every = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
                word = builder.shuffle_vector(word, word, every)
            octets = builder.load(address[0], align=1)
            builder.store(builder.xor(octets, word), address[1], align=1)
            return context.get_dummy_value()

        return types.void(octets, types.int64, types.int64, types.uint64), build

    return intrinsic(typed)


def _plain_xor_move(size: int) -> Any:
    """Make the twin of `_xor_move`."""

    def xor_move(octets: Octets, target: int, start: int, word: int) -> None:
        stream = np.resize(np.frombuffer(int(word).to_bytes(WORD_SIZE, "little"), np.uint8), size)
        octets[target : target + size] = octets[start : start + size] ^ stream

    return xor_move


_xor: Any = _xor_move if JIT else _plain_xor_move

xor_1, xor_2, xor_4, xor_8, xor_16, xor_32, xor_64 = map(_xor, (1, 2, 4, 8, 16, 32, 64))
"""xor_n(octets, target, start, word): n octets to octets[target:] from octets[start:], XORed.

octets  uint8 (n,), C-contiguous
target  offset, 0 <= target <= n - size; unchecked
start   offset, likewise; the two stretches may overlap
word    uint64: what the octets are XORed with, the lowest octet first, again and again

On machines that have the highest octet first, n < 8 takes the wrong ones.
"""
