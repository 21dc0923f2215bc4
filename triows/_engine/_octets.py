"""Buffers as the kernels want them: contiguous, writable arrays of octets."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Octets: TypeAlias = npt.NDArray[np.uint8]
"""uint8 (n,), C-contiguous."""

Writable: TypeAlias = bytearray | memoryview | Octets
Readable: TypeAlias = bytes | bytearray | memoryview | Octets


def writable_octets(buffer: Writable) -> Octets:
    """View *buffer* as octets that a kernel may change in place.

    Args:
        buffer: one-dimensional, contiguous and writable; any item size.

    Raises:
        TypeError: it is read-only or not contiguous; nothing was done.
    """
    if type(buffer) is np.ndarray and buffer.dtype == np.uint8 and buffer.ndim == 1:
        octets = buffer
    else:
        view = memoryview(buffer)
        if not view.c_contiguous:
            raise TypeError("the buffer is not contiguous")
        octets = np.frombuffer(view, np.uint8)
    if not (octets.flags.writeable and octets.flags.c_contiguous):
        raise TypeError("the buffer is read-only or not contiguous: pass a bytearray")
    return octets


def own_octets(buffer: Readable) -> Octets:
    """Return *buffer* as octets that a kernel may change, copying where it is read-only."""
    if isinstance(buffer, bytes):
        return np.frombuffer(bytearray(buffer), np.uint8)
    view = memoryview(buffer)
    return writable_octets(bytearray(view) if view.readonly else view)
