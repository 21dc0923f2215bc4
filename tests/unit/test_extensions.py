"""The grammar of Sec-WebSocket-Extensions."""

import tracemalloc

import pytest

from triows._engine._extensions import MOST_PIECES, parse_extensions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", [("a", [])]),
        (" a\t,b ", [("a", []), ("b", [])]),
        (",, a, ,b,", [("a", []), ("b", [])]),
        ("a;b", [("a", [("b", None)])]),
        ("a ; b = c ; d", [("a", [("b", "c"), ("d", None)])]),
        ('a; b="c"; d="\\e"', [("a", [("b", "c"), ("d", "e")])]),
        ("a; b=1, a", [("a", [("b", "1")]), ("a", [])]),
    ],
)
def test_parse(text, expected):
    """Names and parameters come in order; a quoted value equals a token."""
    assert parse_extensions(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ",",
        ";",
        "a;",
        "a;;b",
        "a;,b",
        "a b",
        "a=b",
        'a="b"',
        "a;b=",
        "a;b=c d",
        "a\x00",
        'a;b="',
        'a;b="c',
        'a;b="c d"',
        'a;b=""',
        'a;b="c"d',
        'a;b="\\',
        "a;b=c;",
        "(a)",
        "ä",
        "a;=c",
    ],
)
def test_malformed(text):
    """What does not follow the grammar is refused."""
    with pytest.raises(ValueError, match=r"extension|parameter"):
        parse_extensions(text)


@pytest.mark.parametrize("unit", ["a,", "a;b,", "a;b;c,"])
def test_as_many_as_anyone_offers(unit):
    """A list of `MOST_PIECES` extensions and parameters is read; one more is refused."""
    each = unit.count(",") + unit.count(";")
    text = unit * (MOST_PIECES // each) + "a," * (MOST_PIECES % each)
    assert len(parse_extensions(text)) == MOST_PIECES // each + MOST_PIECES % each
    with pytest.raises(ValueError, match="more than"):
        parse_extensions(text + "a")


def test_too_many_are_refused_before_they_are_read():
    """A list of a million extensions leaves no more objects than one of `MOST_PIECES` does.

    It took seven times as long as one of half a million: by the garbage collector.
    """
    text = "a," * 1_000_000
    tracemalloc.start()
    with pytest.raises(ValueError, match="more than"):
        parse_extensions(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
