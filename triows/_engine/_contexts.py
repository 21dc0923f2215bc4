"""Compressors and inflaters: the only place that knows zlib-ng (RFC 1951, RFC 7692 §7.2).

**One compressor for all.** Where no context is taken over, a compressor is needed for the
time of one message. It is borrowed from those that are spare, and emptied by a full flush,
after which nothing can refer back to what it had before: that is much cheaper than making
one, and so an idle connection holds none. There are as many as were in use at once.

**Windows of 256 octets.** zlib cannot make them, but no match that it finds with one of 512
is further back than 512 - 262 octets, since it keeps a distance of a longest match from the
window's end. So a compressor of 9 bits serves a peer that asked for 8.

**Levels.** They count as zlib's do, and what they make is no larger than zlib's, or hardly.
Some of zlib-ng's own levels trade size for speed where zlib's of the same number do not, and
are passed over: `benches/results/deflate.json` has the figures.
"""

from typing import Any, Final, NamedTuple, cast

from zlib_ng import zlib_ng

DEFLATE_ERROR: Final = cast("type[Exception]", zlib_ng.error)

TAIL: Final = b"\x00\x00\xff\xff"
"""What ends a flushed message, is taken off by its sender, and put back by its receiver."""

EMPTY: Final = b"\x00"
"""A message, or a last part, with nothing in it (RFC 7692 §7.2.3.6)."""

FINAL: Final = b"\x03\x00"
"""An empty last block: it ends a stream that stands where a block may begin."""

_LEVELS: Final = (0, 2, 3, 3, 4, 7, 7, 7, 8, 8)
_LEAST_BITS: Final = 9
_SPARE_MOST: Final = 4


class Recipe(NamedTuple):
    """What two compressors have in common that make the same of the same message."""

    level: int
    memory_level: int
    bits: int


def make_compressor(recipe: Recipe) -> Any:
    """Make a compressor."""
    return zlib_ng.compressobj(
        _LEVELS[recipe.level],
        zlib_ng.DEFLATED,
        -max(recipe.bits, _LEAST_BITS),
        recipe.memory_level,
    )


_spare: Final[dict[Recipe, list[Any]]] = {}
"""Compressors that have been emptied; appending and popping are atomic, so threads share them."""


def borrow(recipe: Recipe) -> Any:
    """Return an empty compressor that is no one else's until `give_back`."""
    spare = _spare.get(recipe)
    return spare.pop() if spare else make_compressor(recipe)


def give_back(recipe: Recipe, compressor: Any) -> None:
    """Let others have a compressor; its last call was `finish_alone`."""
    spare = _spare.setdefault(recipe, [])
    if len(spare) < _SPARE_MOST:
        spare.append(compressor)


def finish(compressor: Any, octets: Any) -> bytes:
    """Compress the end of a message, keeping the context (RFC 7692 §7.2.1)."""
    return _without_tail(compressor.compress(octets) + compressor.flush(zlib_ng.Z_SYNC_FLUSH))


def finish_alone(compressor: Any, octets: Any) -> bytes:
    """Compress the end of a message, and empty the compressor."""
    return _without_tail(compressor.compress(octets) + compressor.flush(zlib_ng.Z_FULL_FLUSH))


def go_on(compressor: Any, octets: Any) -> bytes:
    """Compress a part of a message so that the peer can inflate all of it."""
    return bytes(compressor.compress(octets) + compressor.flush(zlib_ng.Z_SYNC_FLUSH))


def compress_alone(recipe: Recipe, octets: Any) -> bytes:
    """Compress a whole message that refers to no other."""
    compressor = borrow(recipe)
    compressed = finish_alone(compressor, octets)
    give_back(recipe, compressor)
    return compressed


def _without_tail(compressed: bytes) -> bytes:
    return compressed[:-4] if compressed.endswith(TAIL) else EMPTY


def make_inflater(bits: int, window: bytes = b"") -> Any:
    """Make an inflater that knows *window*, what came before."""
    if window:
        return zlib_ng.decompressobj(-bits, zdict=window)
    return zlib_ng.decompressobj(-bits)
