"""Inflating: RFC 7692's examples, bounds, contexts, and what is no deflated message."""

import tracemalloc
import zlib

import pytest

from tests import naive_inflate
from triows._engine import Deflated, InflateError, Inflater, Message
from triows._engine import _inflater as inflating
from triows._engine._contexts import TAIL

TEXT, BINARY = 1, 2
HELLO = bytes.fromhex("f248cdc9c90700")


@pytest.fixture(params=[False, True], ids=["alone", "takeover"])
def make(request):
    """Make inflaters, with and without a context from message to message."""

    def make(bits=15, most=2**20):
        return Inflater(bits, takes_over=request.param, most=most)

    return make


def deflate(*messages, bits=15, level=6, takes_over=True):
    """Compress messages as zlib does, one after the other (§7.2.1)."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -bits)
    compressed = []
    for message in messages:
        if not takes_over:
            compressor = zlib.compressobj(level, zlib.DEFLATED, -bits)
        octets = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
        compressed.append(octets.removesuffix(TAIL))
    return compressed


def final(message, level=9):
    """Compress a message into final blocks (§7.2.3.4)."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    return compressor.compress(message) + compressor.flush() + b"\0"


def inflate_all(inflater, *messages):
    """Inflate messages, one after the other."""
    return [inflater.inflate(octets) for octets in messages]


def take_all(inflater, most):
    """Take all that there is, so many octets at a time."""
    taken = b""
    while inflater.has_more:
        piece = inflater.take(most)
        assert len(piece) <= most
        taken += piece
    return taken


# RFC 7692 §7.2.3.


@pytest.mark.parametrize(
    ("octets", "message"),
    [
        pytest.param(HELLO, b"Hello", id="7.2.3.1 one block"),
        pytest.param(bytes.fromhex("000500faff48656c6c6f00"), b"Hello", id="7.2.3.3 stored"),
        pytest.param(bytes.fromhex("f348cdc9c9070000"), b"Hello", id="7.2.3.4 final"),
        pytest.param(bytes.fromhex("f248050000 00ffffcac9c90700"), b"Hello", id="7.2.3.5 two"),
        pytest.param(b"\0", b"", id="7.2.3.6 empty"),
    ],
)
def test_the_rfcs_examples(make, octets, message):
    """Each example inflates, and so does what follows it."""
    inflater = make()

    assert inflater.inflate(octets) == message
    assert [inflater.inflate(one) for one in deflate(b"a", b"b" * 99)] == [b"a", b"b" * 99]


def test_the_rfcs_example_of_a_shared_window():
    """§7.2.3.2: the second "Hello" refers to the first, which only a context allows."""
    inflater = Inflater(15, takes_over=True, most=100)
    again = bytes.fromhex("f200110000")
    assert inflate_all(inflater, HELLO, again) == [b"Hello", b"Hello"]

    with pytest.raises(InflateError, match="1007"):
        inflate_all(Inflater(15, takes_over=False, most=100), HELLO, again)


# Bounds.


@pytest.mark.parametrize("excess", [0, 1, 1_000, 10**7])
def test_a_message_of_the_largest_size_passes_and_of_one_more_does_not(make, excess):
    """The bound counts what comes out, whatever is left to come."""
    most = 100_000
    octets = deflate(bytes(most + excess))[0]

    if excess:
        with pytest.raises(InflateError, match="1009"):
            make(most=most).inflate(octets)
    else:
        assert make(most=most).inflate(octets) == bytes(most)


def test_a_message_of_nothing_passes_where_nothing_may_come(make):
    """A bound of 0 allows the empty message."""
    assert make(most=0).inflate(b"\0") == b""
    with pytest.raises(InflateError, match="1009"):
        make(most=0).inflate(HELLO)


@pytest.mark.parametrize(
    "bomb",
    [
        deflate(bytes(2**23))[0],
        deflate(bytes(2**22))[0] + b"\xff",
        deflate(bytes(2**22 - 99))[0] + TAIL + b"\x00\x20\x00\xdf\xff" + bytes(9),
    ],
    ids=["too large", "invalid in the end", "cut short"],
)
def test_what_a_bomb_gave_is_not_kept_by_its_exception(bomb):
    """Its traceback leads to the frames that inflated, and may be kept for long."""
    inflater = Inflater(15, takes_over=False, most=2**22)
    tracemalloc.start()
    try:
        with pytest.raises(InflateError) as raised:
            inflater.inflate(bomb)
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert raised.value.__traceback__ is not None
    assert most > 2**21
    assert held < 2**18


def test_zlib_is_never_asked_for_more_than_the_bound(make, monkeypatch):
    """A bomb of 64 MiB takes no more memory than a message may have octets."""
    asked = []

    class Spy:
        def __init__(self, bits, window=b""):
            self._real = zlib.decompressobj(-bits)

        def decompress(self, octets, most):
            asked.append((len(octets), most))
            return self._real.decompress(octets, most)

        def __getattr__(self, name):
            return getattr(self._real, name)

    monkeypatch.setattr(inflating, "make_inflater", Spy)
    with pytest.raises(InflateError, match="1009"):
        make(most=50_000).inflate(deflate(bytes(2**24), level=9)[0])

    assert asked == [(inflating.SLICE, 50_001)] or max(most for _, most in asked) == 50_001
    assert all(0 < most <= 50_001 and size <= inflating.SLICE for size, most in asked)


def test_input_comes_in_slices(make):
    """A message that does not shrink is inflated slice by slice."""
    message = bytes(i * i % 251 for i in range(300_000))
    stored = deflate(message, level=0)[0]

    assert make().inflate(stored) == message


# Parts.


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize("most", [1, 10, 100_000])
def test_parts_are_the_message(make, step, most):
    """However it is cut, and however little is taken at once, the octets are the same."""
    inflater = make(most=20_000)
    messages = [b"abc" * 1_000 + bytes(500), b"abc" * 500, b""]
    for message, octets in zip(
        messages, deflate(*messages, takes_over=inflater.takes_over), strict=True
    ):
        taken = b""
        cuts = list(range(0, len(octets), step))
        for at in cuts:
            inflater.feed(octets[at : at + step], is_last=at == cuts[-1])
            taken += take_all(inflater, most)
        assert taken == message


def test_parts_count_together(make):
    """The bound is the message's, not a part's."""
    inflater = make(most=5_000)
    octets = deflate(bytes(5_001))[0]
    inflater.feed(octets, is_last=True)

    assert inflater.take(4_000) == bytes(4_000)
    with pytest.raises(InflateError, match="1009"):
        take_all(inflater, 4_000)


def test_what_is_discarded_leaves_no_trace(make):
    """After `discard` a message stands alone, and the bound counts from nothing."""
    inflater = make(most=5_000)
    inflater.feed(deflate(bytes(5_000))[0][:-3], is_last=False)
    inflater.take(4_000)
    inflater.discard()

    assert not inflater.has_more
    assert inflater.inflate(deflate(bytes(5_000))[0]) == bytes(5_000)


# Final blocks.


def test_final_blocks_do_not_end_a_message_or_a_connection(make):
    """Behind a final block the message goes on, and so do the messages after it (§7.2.1)."""
    inflater = make()
    both = final(b"first ").removesuffix(b"\0") + final(b"second")

    assert [inflater.inflate(both), inflater.inflate(final(b"third"))] == [
        b"first second",
        b"third",
    ]
    assert inflater.inflate(HELLO) == b"Hello"


@pytest.mark.parametrize("sizes", [[10], [40_000], [700] * 60, [1] * 200, [30_000, 9_000]])
def test_the_window_outlives_a_final_block(sizes):
    """What comes after a final block may refer to what was before it: blocks share a window."""
    inflater = Inflater(15, takes_over=True, most=2**20)
    history = b""
    for number, size in enumerate(sizes):
        message = bytes((number * 7 + i * i // 3) % 256 for i in range(size))
        history += message
        compressor = zlib.compressobj(6, zlib.DEFLATED, -15, zdict=history[: -len(message)] or b"-")
        octets = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
        assert inflater.inflate(octets.removesuffix(TAIL)) == message
    inflater.inflate(final(b"the end"))
    history += b"the end"

    compressor = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=history[-32_768:])
    again = history[-32_768:][:500]
    octets = compressor.compress(again) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert naive_inflate.inflate(octets, history[-32_768:]).octets == again
    assert inflater.inflate(octets.removesuffix(TAIL)) == again


def test_too_many_final_blocks_are_refused(make):
    """Each costs an inflater, so that a message may have only so many."""
    few, many = (b"\x03\x00" * count + b"\0" for count in (60, 70))

    assert make().inflate(few) == b""
    with pytest.raises(InflateError, match="1007"):
        make().inflate(many)


# What is no deflated message.


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"\x07\x00", id="a kind of block that does not exist"),
        pytest.param(b"\x00\x05\x00\xfa\xfe" + bytes(5), id="a stored block's length"),
        pytest.param(bytes.fromhex("f200110000"), id="a match before the beginning"),
        pytest.param(b"\xff" * 20, id="garbage"),
        pytest.param(final(b"x").removesuffix(b"\0"), id="nothing behind a final block"),
        pytest.param(final(b"x") + b"\xff" * 9, id="garbage behind a final block"),
    ],
)
def test_what_deflate_does_not_make_is_refused(make, octets):
    """It ends the connection with 1007, and frees what was held; at the latest with the next."""
    inflater = make()
    # One that takes over needs its context for what follows, and so cannot look.
    messages = [octets, HELLO] if inflater.takes_over else [octets]
    with pytest.raises(InflateError) as caught:
        inflate_all(inflater, *messages)

    assert caught.value.code == 1007
    assert inflater._context is None


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        HELLO[:3],
        b"\x00\x20\x00\xdf\xff" + bytes(9),
        deflate(bytes(range(256)) * 9)[0][:-40],
        b"\x00\x05",
    ],
)
def test_a_message_that_stands_alone_must_be_whole(octets):
    """What is cut in the middle of a block is no message."""
    with pytest.raises(InflateError, match="1007"):
        Inflater(15, takes_over=False, most=10**6).inflate(octets)


def test_a_match_beyond_the_agreed_window_is_refused():
    """A peer that agreed to 256 octets cannot refer back to more."""
    message = bytes(range(250)) * 2 + bytes(2_000) + bytes(range(250)) * 2
    octets = deflate(message, bits=15)[0]
    assert naive_inflate.inflate(octets).farthest > 2_000

    inflater = Inflater(8, takes_over=False, most=10**6)
    inflater.feed(octets, is_last=True)
    with pytest.raises(InflateError, match="1007"):
        take_all(inflater, 100)  # what is taken at once is there to be referred to


# Messages.


def test_a_message_has_its_kind(make):
    """Text comes as str, binary as bytes; the size is that of the octets."""
    inflater = make()
    text, octets = deflate("grüße".encode(), b"\xff\x00")

    assert inflater.message(Deflated(text, TEXT)) == Message("grüße", 7)
    assert inflater.message(Deflated(octets, BINARY)) == Message(b"\xff\x00", 2)


@pytest.mark.parametrize("bad", [b"\xff", b"gr\xc3", b"\xed\xa0\x80", b"\xc0\x80"])
def test_text_that_is_no_utf8_is_refused(make, bad):
    """Text is validated once it is inflated (RFC 6455 §8.1)."""
    for take in (make().message, make().octets):
        with pytest.raises(InflateError, match="1007"):
            take(Deflated(deflate(bad)[0], TEXT))
    assert make().octets(Deflated(deflate(bad)[0], BINARY)) == bad
