"""The grammar of Sec-WebSocket-Extensions."""

import pytest

from triows._engine._extensions import parse_extensions


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
