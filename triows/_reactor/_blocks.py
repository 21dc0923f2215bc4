"""Blocks of libc's that kernels have left to Python."""

import ctypes

import numpy as np


class Block:
    """A block that a message was joined in, freed when the last view of it is gone."""

    def __init__(self, handle: int, start: int, size: int) -> None:
        self._handle = handle
        self.__array_interface__ = {
            "data": (handle + start, False),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }

    def view(self) -> memoryview:
        """View the message."""
        return np.asarray(self).data

    def __del__(self) -> None:
        _free(self._handle)


def octets_at(address: int, size: int) -> bytes:
    """Copy so many octets of a block."""
    return ctypes.string_at(address, size)


def address_of(octets: bytearray) -> int:
    """Return where octets are, as long as they live and keep their size."""
    return ctypes.addressof(ctypes.c_char.from_buffer(octets)) if octets else 0


def free(handle: int) -> None:
    """Free a block; nothing for 0."""
    _free(handle)


_free = ctypes.CDLL(None).free
_free.argtypes = [ctypes.c_void_p]
_free.restype = None
