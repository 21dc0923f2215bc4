"""Frames: received octets cut into pieces, and payloads made into frames (RFC 6455 §5).

The reader keeps what one receive leaves over: an unfinished header or control
frame, at most 131 octets, in a buffer that exists only as long. Data that has
arrived is handed on at once, frame finished or not.
"""

import functools
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from triows import _kernels as kernels
from triows._engine._octets import Octets
from triows._errors import ProtocolError
from triows._kernels import FAULTS
from triows._options import Limits
from triows._spec import MAX_CONTROL_PAYLOAD, MAX_HEADER

FIN = 0x80
RSV1 = 0x40
"""In a frame's first octet: its message is compressed (RFC 7692 §6)."""

_ROWS = 128
_CARRY = 2 + 4 + MAX_CONTROL_PAYLOAD  # a masked control frame, the most that is carried

Piece = list[int]
"""A row of the scan: opcode, flags, start, size, header (see `triows._kernels`)."""


Batch: TypeAlias = tuple[Octets, list[Piece]]
"""Pieces, and the octets that they lie in until the next batch is asked for."""


class FrameReader:
    """Cuts the octets of one connection into pieces of frames, as they come.

    Args:
        limits: of messages, fragments.
        expect_mask: whether the peer must mask; otherwise it must not.
        allows_rsv1: whether messages may be compressed (RFC 7692 §6).
    """

    __slots__ = ("_carry", "_needed", "_state", "_table", "carried")

    def __init__(self, limits: Limits, *, expect_mask: bool, allows_rsv1: bool = False) -> None:
        kernels.ensure_warm()
        self._state = np.zeros(kernels.STATE_SIZE, np.int64)
        self._state[kernels.EXPECT_MASK] = expect_mask
        self._state[kernels.ALLOWED_RSV] = kernels.RSV1 if allows_rsv1 else 0
        self._state[kernels.MAX_MESSAGE] = limits.max_message
        self._state[kernels.MAX_FRAGMENTS] = limits.max_fragments
        self._carry: Octets | None = None
        self._needed = 0
        self.carried = 0

    def read(self, octets: Octets) -> Iterator[Batch]:
        """Cut *octets* into pieces, unmasking in place.

        Args:
            octets: what the peer sent next, any number; taken whole once the
                iterator is exhausted.

        Raises:
            ProtocolError: what follows the last piece is not what RFC 6455 allows.
        """
        start = 0
        stop = len(octets)
        while self.carried and start < stop:
            start = self._top_up(octets, start)
            yield from self._read_carry()
        is_full = 1
        while is_full and start < stop:
            pieces, (start, fault, needed, is_full, _) = self._scan(octets, start, stop)
            if pieces:
                yield octets, pieces
            if fault:
                raise ProtocolError(*FAULTS[fault])
        if start < stop:
            self._carry = np.empty(_CARRY, np.uint8)
            self.carried = stop - start
            self._carry[: self.carried] = octets[start:stop]
            self._needed = needed

    def discard(self) -> None:
        """Forget what is carried: nothing more will be read."""
        self._carry = None
        self.carried = 0

    def _top_up(self, octets: Octets, start: int) -> int:
        assert self._carry is not None
        take = min(self._needed - self.carried, len(octets) - start)
        self._carry[self.carried : self.carried + take] = octets[start : start + take]
        self.carried += take
        return start + take

    def _read_carry(self) -> Iterator[Batch]:
        # Even before it is whole: a header may show its fault early.
        assert self._carry is not None
        pieces, (_, fault, needed, _, _) = self._scan(self._carry, 0, self.carried)
        if needed:
            self._needed = needed
        else:
            octets = self._carry
            self.discard()
            if pieces:
                yield octets, pieces
            if fault:
                raise ProtocolError(*FAULTS[fault])

    def _scan(self, octets: Octets, start: int, stop: int) -> tuple[list[Piece], Piece]:
        table = _SPARE_TABLES.pop() if _SPARE_TABLES else _new_table()
        rows = kernels.scan(octets, start, stop, self._state, table)
        pieces: list[Piece] = table[: rows + 1, : kernels.PIECE_COLUMNS].tolist()
        _SPARE_TABLES.append(table)
        return pieces, pieces.pop()


def _new_table() -> npt.NDArray[np.int64]:
    return np.zeros((_ROWS + 1, kernels.COLUMNS), np.int64)


_SPARE_TABLES: list[npt.NDArray[np.int64]] = []
"""Tables not in use: as many as there were threads scanning at once, for all connections.

A kernel runs without the GIL, so that one table for everyone would not do;
popping from a list and appending to it are atomic.
"""


def header_size(payload_size: int, *, is_masked: bool) -> int:
    """Octets of the minimal header of a frame (RFC 6455 §5.2)."""
    extended = 0 if payload_size <= MAX_CONTROL_PAYLOAD else 2 if payload_size < 65_536 else 8
    return 2 + extended + 4 * is_masked


@functools.lru_cache(maxsize=1024)
def server_header(first_octet: int, payload_size: int) -> bytes:
    """Build the header of an unmasked frame (RFC 6455 §5.2)."""
    header = np.empty(MAX_HEADER, np.uint8)
    size = kernels.write_header(header, 0, first_octet, payload_size, -1)
    return header[:size].tobytes()


def masked_frame(first_octet: int, payload: bytes | bytearray | memoryview, key: int) -> bytearray:
    """Build a masked frame around a copy of *payload* (RFC 6455 §5.3).

    Args:
        first_octet: FIN, reserved bits and opcode.
        payload: one-dimensional octets.
        key: the four mask octets as a little-endian integer.
    """
    size = len(payload)
    start = header_size(size, is_masked=True)
    frame = bytearray(start + size)
    frame[start:] = payload
    octets = np.frombuffer(frame, np.uint8)
    kernels.write_header(octets, 0, first_octet, size, key)
    kernels.mask(octets, start, start + size, key, 0)
    return frame
