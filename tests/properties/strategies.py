"""Frame streams, right and wrong, and ways to cut them."""

from hypothesis import strategies as st

from tests import naive
from tests.naive_reception import BINARY, CLOSE, PING, PONG, TEXT, build_frame

LENGTHS = [0, 1, 7, 124, 125, 126, 127, 300, 1_000]
"""Around the sizes at which a header changes, and small enough to be cut to octets."""

payloads = st.one_of(st.binary(max_size=20), st.sampled_from(LENGTHS).map(lambda size: b"p" * size))
characters = st.text("\0aß漢\uffff😀", max_size=20)
texts = st.one_of(
    characters.map(str.encode), st.sampled_from(["ä" * 100, "漢😀" * 40]).map(str.encode)
)
reasons = characters.map(str.encode)
codes = st.sampled_from([1000, 1001, 1003, 1007, 1014, 3000, 4999])
keys = st.one_of(st.binary(min_size=4, max_size=4), st.just(bytes(4)), st.just(b"\xff" * 4))
closes = st.one_of(
    st.just(b""), st.builds(lambda code, reason: code.to_bytes(2, "big") + reason, codes, reasons)
)


@st.composite
def frames(draw, opcode, payload, *, is_masked, fin=True, rsv=0):
    """One frame with a key of its own."""
    return build_frame(opcode, payload, fin=fin, rsv=rsv, key=draw(keys) if is_masked else None)


def control_frames(*, is_masked):
    """A Ping or a Pong."""
    return st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)).flatmap(
        lambda pair: frames(*pair, is_masked=is_masked)
    )


@st.composite
def messages(draw, *, is_masked):
    """The frames of one message, with control frames among its fragments."""
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    payload = draw(texts if opcode == TEXT else payloads)
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    content = []
    for index, (start, stop) in enumerate(zip([0, *cuts], [*cuts, len(payload)], strict=True)):
        content += draw(st.lists(control_frames(is_masked=is_masked), max_size=1))
        fragment = frames(
            0 if index else opcode,
            payload[start:stop],
            is_masked=is_masked,
            fin=index == len(cuts),
        )
        content.append(draw(fragment))
    return b"".join(content)


@st.composite
def valid_streams(draw, *, is_masked):
    """Messages, control frames, and at times a Close with octets behind it."""
    part = st.one_of(messages(is_masked=is_masked), control_frames(is_masked=is_masked))
    content = b"".join(draw(st.lists(part, max_size=6)))
    if draw(st.booleans()):
        content += draw(closes.flatmap(lambda body: frames(CLOSE, body, is_masked=is_masked)))
        content += draw(st.binary(max_size=4))
    return content


@st.composite
def wrong_frames(draw, *, is_masked):
    """A frame whose fields are drawn without regard for the RFC."""
    opcode = draw(st.integers(0, 15))
    payload = draw(st.one_of(payloads, st.binary(max_size=3)))
    fin = draw(st.booleans())
    rsv = draw(st.sampled_from([0, 0, 0, 1, 2, 4]))
    return draw(frames(opcode, payload, is_masked=is_masked, fin=fin, rsv=rsv))


@st.composite
def long_frames(draw, *, is_masked):
    """A message in a frame whose length has more octets than it needs (RFC 6455 §5.2)."""
    payload = draw(payloads)
    marker, width = draw(st.sampled_from([(126, 2), (127, 8)]))
    key = draw(keys) if is_masked else None
    body = payload if key is None else key + naive.mask(payload, key)
    return bytes([0x82, marker | is_masked << 7]) + len(payload).to_bytes(width, "big") + body


WRONGS = ["flip", "cut", "insert", "long length", "wrong frame", "wrong direction"]


@st.composite
def mutated_streams(draw, *, is_masked):
    """A valid stream with octets changed, removed or put in, or a wrong frame among its own."""
    content = bytearray(draw(valid_streams(is_masked=is_masked)))
    kind = draw(st.sampled_from(WRONGS))
    at = draw(st.integers(0, len(content)))
    if kind == "flip" and at < len(content):
        content[at] ^= draw(st.integers(1, 255))
    elif kind == "cut":
        del content[at : at + draw(st.integers(1, 5))]
    elif kind == "insert":
        content[at:at] = draw(st.binary(min_size=1, max_size=3))
    elif kind == "long length":
        content += draw(long_frames(is_masked=is_masked))
    elif kind == "wrong frame":
        content = draw(valid_streams(is_masked=is_masked)) + draw(wrong_frames(is_masked=is_masked))
        content += draw(valid_streams(is_masked=is_masked))
    else:
        content += draw(messages(is_masked=not is_masked))
    return bytes(content)


def streams(*, is_masked):
    """Frame streams, right and wrong."""
    return st.one_of(
        valid_streams(is_masked=is_masked),
        mutated_streams(is_masked=is_masked),
        huge_streams(is_masked=is_masked),
    )


def huge_streams(*, is_masked):
    """A stream that ends with the header of a frame around the sizes that overflow."""
    sizes = st.sampled_from([2**20, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1])
    key = b"abcd" if is_masked else None
    return st.builds(
        lambda content, size: content + naive.build_header(0x82, size, key),
        valid_streams(is_masked=is_masked),
        sizes,
    )


@st.composite
def pieces(draw, content):
    """*content* cut anywhere, at times into single octets."""
    if draw(st.integers(0, 4)) == 0:
        return [content[at : at + 1] for at in range(len(content))]
    cuts = sorted(draw(st.lists(st.integers(0, len(content)), max_size=8)))
    return [
        content[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(content)], strict=True)
    ]
