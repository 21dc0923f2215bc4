"""A plugin of pytest: every loop's arrays lie flush against pages that may not be touched.

``GUARD=start`` or ``GUARD=end`` says which end of an array is guarded. With ``GUARD=overrun``
a kernel reads one octet too far in each array of octets, to show that this is noticed.
"""

import ctypes
import mmap
import os

import numpy as np

from tests.hostile.guard_pages import PAGE, PROT_NONE, libc
from triows._kernels import mask
from triows._reactor import _loop

GUARD = os.environ["GUARD"]

_kept = []
"""The memory of all loops: a view of it may live longer than its loop."""


class GuardedNumpy:
    """NumPy, but for where `zeros` puts an array."""

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def zeros(shape, dtype):
        """Make an array that begins, or ends, where a page does that may be touched."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        room = -(-size // PAGE) * PAGE
        memory = mmap.mmap(-1, room + 2 * PAGE)
        _kept.append(memory)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for guard in (address, address + PAGE + room):
            if libc.mprotect(guard, PAGE, PROT_NONE) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")
        start = PAGE if GUARD == "start" else PAGE + room - size
        array = np.frombuffer(memory, dtype, int(np.prod(shape)), start).reshape(shape)
        if GUARD == "overrun" and dtype is np.uint8:
            mask(array, 0, size + 1, 0, 0)
        return array


_loop.np = GuardedNumpy()
