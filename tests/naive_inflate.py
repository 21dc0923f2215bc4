"""A plain inflater, written from RFC 1951 and for reading: the oracle of compression.

It knows what zlib does not tell: how far back the farthest match of a stream lies, how many
blocks are final, and whether the stream ends where a block may begin.
"""

from dataclasses import dataclass, field

LENGTHS = [(257 + i, 3 + i, 0) for i in range(8)]
for extra in range(1, 6):
    for _ in range(4):
        code, base, before = LENGTHS[-1]
        width = 1 << before
        LENGTHS.append((code + 1, base + width, extra))
LENGTHS.append((285, 258, 0))  # RFC 1951 §3.2.5: the last code is an exception
LENGTH_OF = {code: (base, extra) for code, base, extra in LENGTHS}
DISTANCES = [(1, 0), (2, 0)]
for bits in range(14):
    for _ in range(2):
        base, extra = DISTANCES[-1]
        DISTANCES.append((base + (1 << extra), bits))
ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
FIXED = [8] * 144 + [9] * 112 + [7] * 24 + [8] * 8


class CorruptError(Exception):
    """The octets are no stream of deflate's."""


@dataclass
class Inflated:
    """What a stream holds, and how."""

    octets: bytearray = field(default_factory=bytearray)
    farthest: int = 0
    """The distance of its farthest match; counts into *window* too."""
    finals: int = 0
    ends_at_boundary: bool = False


class Bits:
    """The bits of octets, the lowest of each first (RFC 1951 §3.1.1)."""

    def __init__(self, octets):
        self.octets = octets
        self.at = 0

    @property
    def left(self):
        """How many there are."""
        return 8 * len(self.octets) - self.at

    def take(self, count):
        """The next bits as a number."""
        if count > self.left:
            raise EOFError
        number = 0
        for i in range(count):
            number |= (self.octets[self.at >> 3] >> (self.at & 7) & 1) << i
            self.at += 1
        return number

    def align(self):
        """Skip to the next octet."""
        self.at = (self.at + 7) & ~7


def make_codes(lengths):
    """The canonical codes of symbols with these lengths (RFC 1951 §3.2.2)."""
    codes, code = {}, 0
    for length in range(1, 16):
        for symbol, size in enumerate(lengths):
            if size == length:
                codes[length, code] = symbol
                code += 1
        code <<= 1
    return codes


def take_symbol(bits, codes):
    """The next symbol."""
    code = 0
    for length in range(1, 16):
        code = code << 1 | bits.take(1)
        if (length, code) in codes:
            return codes[length, code]
    raise CorruptError("no such code")


def take_tables(bits):
    """The codes of a dynamic block (RFC 1951 §3.2.7)."""
    literals, distances, count = bits.take(5) + 257, bits.take(5) + 1, bits.take(4) + 4
    sizes = [0] * 19
    for index in ORDER[:count]:
        sizes[index] = bits.take(3)
    codes = make_codes(sizes)
    lengths = []
    while len(lengths) < literals + distances:
        symbol = take_symbol(bits, codes)
        if symbol < 16:
            lengths.append(symbol)
        elif symbol == 16:
            lengths += [lengths[-1]] * (3 + bits.take(2))
        else:
            lengths += [0] * (3 + bits.take(3) if symbol == 17 else 11 + bits.take(7))
    return make_codes(lengths[:literals]), make_codes(lengths[literals:])


def inflate(octets, window=b""):
    """Inflate *octets*, which may refer back to *window*; returns an `Inflated`.

    Blocks follow each other to the end, final or not, as in a message (RFC 7692 §7.2.1).
    """
    found = Inflated(bytearray(window))
    bits = Bits(octets)
    try:
        while bits.left:
            found.ends_at_boundary = False
            is_final, kind = bits.take(1), bits.take(2)
            take_block(bits, kind, found)
            if is_final:
                found.finals += 1
                bits.align()
            found.ends_at_boundary = True
    except EOFError:
        pass
    del found.octets[: len(window)]
    return found


def take_block(bits, kind, found):
    """Inflate the next block."""
    if kind == 0:
        bits.align()
        size, check = bits.take(16), bits.take(16)
        if size ^ check != 0xFFFF:
            raise CorruptError("a stored block's length")
        for _ in range(size):
            found.octets.append(bits.take(8))
        return
    if kind == 3:
        raise CorruptError("no such kind of block")
    literals, distances = (
        (make_codes(FIXED), make_codes([5] * 30)) if kind == 1 else take_tables(bits)
    )
    while (symbol := take_symbol(bits, literals)) != 256:
        if symbol < 256:
            found.octets.append(symbol)
            continue
        base, extra = LENGTH_OF[symbol]
        size = base + bits.take(extra)
        base, extra = DISTANCES[take_symbol(bits, distances)]
        distance = base + bits.take(extra)
        if distance > len(found.octets):
            raise CorruptError("a match before the beginning")
        found.farthest = max(found.farthest, distance)
        for _ in range(size):
            found.octets.append(found.octets[-distance])
