"""The octets of items, bundles and what Redis sends round; no I/O.

What goes together from one process to one room is a *bundle*: the process (16 octets), how many
items there are (4); of each its number in its process (8), its size (4), what it is (1); then they
themselves. Redis keeps a bundle as it is, and sends it round behind a line that says where it is
in the room's order.
"""

import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

_HEAD: Final = struct.Struct(">16sI")
_PIECE: Final = struct.Struct(">QIc")
_TEXT: Final = b"t"
_BINARY: Final = b"b"


class Parcel(NamedTuple):
    """An item on its way; a tuple, as one is made for each."""

    process: bytes
    """Whose it is: 16 octets."""
    serial: int
    """Its number among those of its process, from 1."""
    item: Any
    """Text or octets."""


def encode(item: Any) -> tuple[bytes, bytes]:
    """Return what an item is, and its octets.

    Raises:
        TypeError: it is neither text nor octets.
        UnicodeEncodeError: it has half a character in it.
    """
    if isinstance(item, str):
        return _TEXT, item.encode()
    if isinstance(item, bytes | bytearray | memoryview):
        return _BINARY, bytes(item)
    raise TypeError(f"what goes to other processes is str or bytes, not {type(item).__name__}")


def pack_bundle(process: bytes, pieces: Sequence[tuple[int, bytes, bytes]]) -> bytes:
    """Write a bundle.

    Args:
        process: whose it is.
        pieces: of each item its serial, and what `encode` has given.
    """
    heads = [_PIECE.pack(serial, len(octets), kind) for serial, kind, octets in pieces]
    head = _HEAD.pack(process, len(pieces))
    return b"".join([head, *heads, *(octets for _, _, octets in pieces)])


def unpack_bundle(octets: bytes, known: Sequence[Parcel] = ()) -> list[Parcel]:
    """Read a bundle.

    Args:
        octets: it.
        known: what this process has sent: returned, if that is what it is.

    Raises:
        ValueError: it is malformed.
    """
    if len(octets) < _HEAD.size:
        raise ValueError("a bundle is too short for its head")
    process, count = _HEAD.unpack_from(octets)
    start, stop = _HEAD.size, _HEAD.size + count * _PIECE.size
    if len(octets) < stop:
        raise ValueError("a bundle is too short for its items")
    if count == len(known) and count and known[0].process == process:
        first, _, _ = _PIECE.unpack_from(octets, start)
        if first == known[0].serial:
            return list(known)
    pieces = list(_PIECE.iter_unpack(memoryview(octets)[start:stop]))
    if stop + sum(size for _, size, _ in pieces) != len(octets):
        raise ValueError("a bundle is not of the size that it says")
    parcels, at = [], stop
    for serial, size, kind in pieces:
        content = octets[at : at + size]
        at += size
        parcels.append(Parcel(process, serial, content.decode() if kind == _TEXT else content))
    return parcels


def unpack_published(octets: bytes) -> tuple[str, int, bytes]:
    """Read what a publish has sent round: the epoch, the number before the first item, a bundle.

    Raises:
        ValueError: it is malformed.
    """
    head, _, bundle = octets.partition(b"\n")
    epoch, _, number = head.decode("ascii").partition(" ")
    return epoch, int(number), bundle


def unpack_logged(entries: Sequence[bytes], after: int) -> list[tuple[int, Parcel]]:
    """Read what a room's log has: ids, which are numbers of last items, and bundles in turn.

    What is no bundle is left out: its numbers are then a gap, as those of anything lost.

    Returns:
        The numbers above *after*, and their items.
    """
    logged: list[tuple[int, Parcel]] = []
    for identity, bundle in zip(entries[::2], entries[1::2], strict=True):
        try:
            parcels = unpack_bundle(bundle)
        except ValueError:
            continue
        before = int(identity.partition(b"-")[0]) - len(parcels)
        logged += [one for one in enumerate(parcels, before + 1) if one[0] > after]
    return logged
