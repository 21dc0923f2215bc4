"""Buffers as the kernels want them: contiguous, writable arrays of octets."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Octets: TypeAlias = npt.NDArray[np.uint8]
"""uint8 (n,), C-contiguous."""

Writable: TypeAlias = bytearray | memoryview | Octets
Readable: TypeAlias = bytes | bytearray | memoryview | Octets


def view_of(buffer: Readable) -> memoryview:
    """View *buffer* as it is."""
    return buffer.data if isinstance(buffer, np.ndarray) else memoryview(buffer)


def writable_octets(buffer: Writable) -> Octets:
    """View *buffer* as octets that a kernel may change in place.

    Args:
        buffer: one-dimensional, contiguous and writable; any item size.

    Raises:
        TypeError: it is read-only or not contiguous; nothing was done.
    """
    view = view_of(buffer)
    if view.readonly or not view.c_contiguous:
        raise TypeError("the buffer is read-only or not contiguous: pass a bytearray")
    if isinstance(buffer, np.ndarray) and view.format == "B" and view.ndim == 1:
        return buffer
    return np.frombuffer(view, np.uint8)


def own_octets(buffer: Readable) -> Octets:
    """Return *buffer* as octets that a kernel may change, copying where it is read-only.

    An array is taken as it is: a driver passes one for each receive, and the
    kernels refuse any that is not uint8, writable and contiguous.
    """
    if isinstance(buffer, np.ndarray):
        return buffer
    if isinstance(buffer, bytes):
        return np.frombuffer(bytearray(buffer), np.uint8)
    view = memoryview(buffer)
    return writable_octets(bytearray(view) if view.readonly else view)
