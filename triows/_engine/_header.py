"""The header of one frame, and unmasking, for those who cut their own octets (RFC 6455 §5.2)."""

from typing import NamedTuple

import numpy as np

from triows import _kernels as kernels
from triows._engine._octets import Readable, Writable, own_octets, view_of, writable_octets
from triows._errors import ProtocolError
from triows._kernels import FAULTS
from triows._spec import MAX_HEADER


class Header(NamedTuple):
    """A frame's header (RFC 6455 §5.2)."""

    fin: bool
    """Whether this is its message's last frame."""
    rsv: int
    """The three reserved bits, 0..7; 4 is RSV1."""
    opcode: int
    mask: bytes | None
    """The four mask octets, or None for an unmasked frame."""
    header_size: int
    """Octets, 2..14."""
    payload_size: int
    """Octets, 0..2**63 - 1."""


class Incomplete(NamedTuple):
    """There are too few octets for a header."""

    at_least: int
    """Octets, counted from the frame's first, without which there is no use in another try."""


def parse_header(buffer: Readable, start: int = 0, stop: int | None = None) -> Header | Incomplete:
    """Parse the frame header at buffer[start:stop] (RFC 6455 §5.2, §5.5).

    Args:
        buffer: one-dimensional octets; read only.
        start: the frame's first octet, 0..len(buffer).
        stop: one past the last octet to look at, start..len(buffer); by default the end.

    Returns:
        The header, or how many octets there must be at least.

    Raises:
        ProtocolError: the octets, as far as they go, begin no frame that the RFC allows: a
            reserved opcode, a fragmented or too long control frame, a length that is not
            minimal or has its top bit set. Reserved bits and the direction of masking are
            left to the caller, who knows what was negotiated.
        ValueError: *start* or *stop* is out of range.
    """
    kernels.ensure_warm()
    size = len(buffer)
    stop = size if stop is None else stop
    if not 0 <= start <= stop <= size:
        raise ValueError(f"start {start} and stop {stop} are not in order within 0..{size}")
    octets = own_octets(bytes(view_of(buffer)[start : min(stop, start + MAX_HEADER)]))
    fields = np.empty(kernels.FIELDS, np.int64)
    code = kernels.read_header(octets, 0, len(octets), fields)
    if code < 0:
        raise ProtocolError(*FAULTS[code])
    if code > 0:
        return Incomplete(at_least=code)
    fin, rsv, opcode, masked, key, header_size, payload_size = fields.tolist()
    mask = key.to_bytes(4, "little") if masked else None
    return Header(bool(fin), rsv, opcode, mask, header_size, payload_size)


def unmask(buffer: Writable, key: bytes | bytearray | memoryview, offset: int = 0) -> None:
    """Mask or unmask *buffer* in place (RFC 6455 §5.3).

    Args:
        buffer: one-dimensional octets of a payload, of any length and alignment.
        key: the four mask octets.
        offset: where in the payload the buffer starts, 0 or more: a payload may be
            unmasked in pieces.

    Raises:
        TypeError: *buffer* is read-only or not contiguous; nothing was changed.
        ValueError: *key* has not four octets or *offset* is negative; nothing was changed.
    """
    kernels.ensure_warm()
    if len(key) != 4:
        raise ValueError(f"a mask has 4 octets, not {len(key)}")
    if offset < 0:
        raise ValueError(f"offset {offset} is negative")
    octets = writable_octets(buffer)
    kernels.mask(octets, 0, len(octets), int.from_bytes(key, "little"), offset & 3)
