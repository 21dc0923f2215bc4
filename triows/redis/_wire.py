"""The octets of items, batches and what Redis sends round; no I/O.

An item goes as an envelope: the process that it came from (16 octets), that process's number of
it (8), what it is (1), and itself.
"""

import contextlib
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs

_HEAD: Final = struct.Struct(">16sQc")
_SIZE: Final = struct.Struct(">I")
_TEXT: Final = b"t"
_BINARY: Final = b"b"


@attrs.frozen
class Parcel:
    """An item on its way."""

    process: bytes
    """Whose it is: 16 octets."""
    serial: int
    """Its number among those of its process, from 1."""
    item: Any


def pack(parcel: Parcel) -> bytes:
    """Write the envelope.

    Raises:
        TypeError: the item is neither text nor octets.
    """
    item = parcel.item
    if isinstance(item, str):
        return _HEAD.pack(parcel.process, parcel.serial, _TEXT) + item.encode()
    if isinstance(item, bytes | bytearray | memoryview):
        return _HEAD.pack(parcel.process, parcel.serial, _BINARY) + bytes(item)
    raise TypeError(f"what goes to other processes is str or bytes, not {type(item).__name__}")


def unpack(octets: bytes) -> Parcel:
    """Read the envelope.

    Raises:
        ValueError: it is none.
    """
    if len(octets) < _HEAD.size:
        raise ValueError("an item is too short for its envelope")
    process, serial, kind = _HEAD.unpack_from(octets)
    content = octets[_HEAD.size :]
    return Parcel(process, serial, content.decode() if kind == _TEXT else content)


def unpack_published(octets: bytes) -> tuple[str, int, list[Parcel]]:
    """Read what a publish has sent round: the epoch, the number before the first item, items.

    Raises:
        ValueError: it is malformed.
    """
    head, _, rest = octets.partition(b"\n")
    epoch, _, number = head.decode("ascii").partition(" ")
    return epoch, int(number), [unpack(piece) for piece in _pieces(rest)]


def _pieces(octets: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(octets):
        content = start + _SIZE.size
        stop = content + int.from_bytes(octets[start:content])
        if stop > len(octets):
            raise ValueError("what was sent round is cut short")
        yield octets[content:stop]
        start = stop


def unpack_logged(entries: Sequence[bytes]) -> list[tuple[int, Parcel]]:
    """Read what a room's log has: ids and envelopes in turn; gives numbers and items.

    What is no envelope is left out: its number is then a gap, as that of anything lost.
    """
    logged = []
    for identity, envelope in zip(entries[::2], entries[1::2], strict=True):
        with contextlib.suppress(ValueError):
            logged.append((number_of(identity), unpack(envelope)))
    return logged


def number_of(identity: bytes) -> int:
    """Read the number in a stream's id."""
    return int(identity.partition(b"-")[0])
