"""Compressing: what is compressed, with which window, and what is kept in between."""

import random
import zlib

import pytest

from tests import naive_inflate
from triows import Deflate, DeflateParameters, PerMessageDeflate, PreparedMessage
from triows._engine import _contexts as contexts
from triows._engine._contexts import TAIL, Recipe, borrow, compress_alone, finish, give_back

LETTERS = bytes(range(97, 105))


def sample(kind, size):
    """Octets that compress well, or badly, or hardly."""
    source = random.Random(size)
    if kind == "words":
        words = [b"alpha", b"beta ", b"gamma", b"delta,", b'"price": ']
        return b"".join(source.choice(words) for _ in range(size // 5 + 1))[:size]
    if kind == "runs":
        runs = (bytes([source.choice(LETTERS)]) * source.randrange(1, 9) for _ in range(size))
        return b"".join(runs)[:size]
    return source.randbytes(size)


def make(*, is_server=True, **settings):
    """What a side compresses with, on a connection that agreed to its settings."""
    deflate = Deflate(**settings)
    agreed = DeflateParameters(
        server_no_context_takeover=not deflate.server_context_takeover,
        client_no_context_takeover=not deflate.client_context_takeover,
        server_max_window_bits=deflate.server_max_window_bits,
        client_max_window_bits=deflate.client_max_window_bits,
    )
    return PerMessageDeflate(deflate, agreed, is_server=is_server)


def inflated(*payloads):
    """What messages' payloads inflate to, one after the other, by zlib."""
    inflater = zlib.decompressobj(-15)
    return [inflater.decompress(payload + TAIL) for payload in payloads]


# Windows and levels.


@pytest.mark.parametrize("bits", range(8, 16))
@pytest.mark.parametrize("kind", ["words", "runs"])
def test_no_match_goes_further_back_than_the_window(bits, kind):
    """Not at any level, not with 256 octets either, which zlib has no window for (§7.1.2.1)."""
    for level in (1, 2, 3, 5, 6, 8, 9):
        for memory_level in (1, 8):
            octets = sample(kind, 1_500 if bits < 11 else 3_000)
            compressor = contexts.make_compressor(Recipe(level, memory_level, bits))
            stream = finish(compressor, octets) + TAIL + finish(compressor, octets) + TAIL
            found = naive_inflate.inflate(stream)
            assert found.octets == octets * 2
            assert 0 < found.farthest <= 1 << bits


@pytest.mark.parametrize("level", range(1, 10))
def test_a_level_means_what_it_means_to_zlib(level):
    """What a level makes of JSON is no larger than what zlib makes."""
    octets = b"".join(
        b'{"id": %d, "name": "%s", "price": %d.%02d}, '
        % (i * 7919 % 10_007, [b"ann", b"bob", b"eve"][i * i % 3], i * 31 % 97, i * 17 % 100)
        for i in range(400)
    )
    theirs = zlib.compressobj(level, zlib.DEFLATED, -15)
    size = len(theirs.compress(octets) + theirs.flush(zlib.Z_SYNC_FLUSH)) - len(TAIL)

    assert len(compress_alone(Recipe(level, 8, 15), octets)) <= size


# Messages that stand alone.


def test_a_message_that_stands_alone_refers_to_no_other():
    """One compressor serves all, and hands nothing on: not to a message, not to a connection."""
    secret = sample("words", 2_000)
    recipe = Recipe(6, 8, 15)
    alone = compress_alone(recipe, secret)

    for _ in range(3):
        assert compress_alone(recipe, secret) == alone
        assert zlib.decompressobj(-15).decompress(alone + TAIL) == secret
        assert naive_inflate.inflate(alone + TAIL).octets == secret


def test_an_idle_connection_holds_no_compressor(monkeypatch):
    """However many connections send, as many compressors are made as are in use at once."""
    made = []
    real = contexts.make_compressor
    monkeypatch.setattr(contexts, "_spare", {})
    monkeypatch.setattr(contexts, "make_compressor", lambda recipe: made.append(1) or real(recipe))

    sides = [make(threshold=0) for _ in range(20)]
    for _ in range(3):
        for side in sides:
            side.deflater.compress(b"message" * 9)
            side.deflater.compress_part(b"part", is_last=False)
            side.deflater.compress_part(b"", is_last=True)

    assert len(made) == 1
    assert all(side.deflater._context is side.deflater._parts is None for side in sides)


def test_few_spare_compressors_are_kept():
    """What many took at once is not kept for ever."""
    recipe = Recipe(1, 1, 9)
    taken = [borrow(recipe) for _ in range(50)]
    for one in taken:
        contexts.finish_alone(one, b"")
        give_back(recipe, one)

    assert len(contexts._spare[recipe]) <= contexts._SPARE_MOST


# What is compressed.


@pytest.mark.parametrize("takes_over", [False, True])
@pytest.mark.parametrize(
    ("message", "is_compressed"),
    [
        (b"a" * 99, False),
        (b"a" * 100, True),
        (bytearray(b"a" * 100), True),
        (memoryview(b"a" * 100), True),
    ],
)
def test_short_messages_go_as_they_are(message, is_compressed, takes_over):
    """Below the threshold a message is left alone."""
    side = make(threshold=100, server_context_takeover=takes_over)
    payload = side.deflater.compress(message)

    assert (payload is not None) is is_compressed
    if payload is not None:
        assert inflated(payload) == [bytes(message)]


def test_what_does_not_shrink_goes_as_it_is_where_it_stands_alone():
    """A message that grows is not worth it; with a context the next ones may refer to it."""
    noise = sample("noise", 1_000)

    assert make().deflater.compress(noise) is None
    everything = make(threshold=0).deflater.compress(noise)
    context = make(server_context_takeover=True).deflater
    assert everything is not None
    first, second = context.compress(noise), context.compress(noise)
    assert first is not None
    assert second is not None
    assert inflated(first, second) == [noise, noise]
    assert len(second) < 50 < len(first)


@pytest.mark.parametrize("takes_over", [False, True])
def test_the_empty_message_is_one_octet(takes_over):
    """§7.2.3.6: compressed, it is a zero, time and again."""
    deflater = make(threshold=0, server_context_takeover=takes_over).deflater

    assert [deflater.compress(b"") for _ in range(3)] == [b"\0"] * 3


@pytest.mark.parametrize("takes_over", [False, True])
@pytest.mark.parametrize("is_server", [False, True])
def test_each_side_keeps_to_its_own_parameters(is_server, takes_over):
    """What the server sends is the server's context and window, and the client's the client's."""
    side = make(
        is_server=is_server,
        server_context_takeover=takes_over if is_server else not takes_over,
        client_context_takeover=not takes_over if is_server else takes_over,
        server_max_window_bits=9 if is_server else 15,
        client_max_window_bits=15 if is_server else 9,
    )
    octets = sample("words", 3_000)
    first, second = side.deflater.compress(octets), side.deflater.compress(octets[:400])
    assert first is not None
    assert second is not None

    assert naive_inflate.inflate(first + TAIL).farthest <= 512
    assert (naive_inflate.inflate(second + TAIL, octets).farthest > 400) <= takes_over
    assert side.inflater.takes_over is not takes_over


@pytest.mark.parametrize("takes_over", [False, True])
def test_parts_are_inflated_as_they_come(takes_over):
    """Each part can be inflated when it has come, and the parts together are a message."""
    deflater = make(server_context_takeover=takes_over).deflater
    parts = [b"first, " * 50, b"second, " * 50, b"x"]
    for _ in range(2):
        inflater = zlib.decompressobj(-15)
        for part in parts:
            assert inflater.decompress(deflater.compress_part(part, is_last=False)) == part
        assert deflater.compress_part(b"", is_last=True) == b"\0"
        assert inflater.decompress(b"\0" + TAIL) == b""
        if takes_over:
            break
    last = deflater.compress_part(b"whole" * 99, is_last=True)
    if not takes_over:
        assert inflated(last) == [b"whole" * 99]


def test_what_is_discarded_is_freed():
    """Once nothing more is sent, no context is held."""
    deflater = make(server_context_takeover=True).deflater
    deflater.compress(b"a" * 999)
    deflater.compress_part(b"a", is_last=False)
    deflater.discard()

    assert deflater._context is deflater._parts is None


# Prepared messages.

RECIPE = Recipe(3, 8, 15)


def test_a_prepared_message_is_compressed_once_for_all_that_compress_alike():
    """Every connection with the same parameters gets the same octets, in one object."""
    prepared = PreparedMessage("words and " * 99)
    sides = [make() for _ in range(3)]

    payloads = {id(side.deflater.compress(prepared)) for side in sides}
    frames = {id(side.deflater.frame(prepared)) for side in sides}
    small = make(server_max_window_bits=9).deflater.compress(prepared)

    assert len(payloads) == len(frames) == 1
    assert small is not prepared.compressed(RECIPE)
    assert inflated(small) == [prepared.payload]
    frame = sides[0].deflater.frame(prepared)
    assert frame[0] == 0x80 | 0x40 | 1
    assert frame.endswith(prepared.compressed(RECIPE))


@pytest.mark.parametrize(
    ("compress", "takes_over", "is_compressed"),
    [
        (None, False, True),
        (None, True, False),
        (True, False, True),
        (True, True, True),
        (False, False, False),
        (False, True, False),
    ],
)
def test_where_a_prepared_message_is_compressed(compress, takes_over, is_compressed):
    """With a context it goes as it is, unless more was asked for."""
    prepared = PreparedMessage("words and " * 99, compress=compress)
    deflater = make(server_context_takeover=takes_over).deflater
    payload, frame = deflater.compress(prepared), deflater.frame(prepared)

    assert (payload is not None) is bool(frame[0] & 0x40) is is_compressed
    if payload is not None:
        assert inflated(payload) == [prepared.payload]
    else:
        assert frame is prepared.frame


@pytest.mark.parametrize("message", ["short", sample("noise", 1_000)])
def test_a_prepared_message_that_gains_nothing_goes_as_it_is(message):
    """It is short, or does not shrink; if that was asked for, it is compressed all the same."""
    deflater = make().deflater
    indifferent, decided = PreparedMessage(message), PreparedMessage(message, compress=True)

    assert deflater.compress(indifferent) is None
    assert deflater.frame(indifferent) is indifferent.frame
    assert indifferent.compressed_frame(RECIPE) is None or len(message) < 256
    payload = deflater.compress(decided)
    assert payload is not None
    assert inflated(payload) == [decided.payload]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"level": 10}, r"'level' must be in 1\.\.9: 10"),
        ({"memory_level": 0}, r"'memory_level' must be in 1\.\.9: 0"),
        ({"server_max_window_bits": 7}, r"'server_max_window_bits' must be in 8\.\.15: 7"),
        ({"threshold": -1}, "'threshold' must be >= 0: -1"),
    ],
    ids=str,
)
def test_settings_out_of_range(setting, words):
    """They are refused by their names, in a line."""
    with pytest.raises(ValueError, match=f"^{words}$"):
        Deflate(**setting)
