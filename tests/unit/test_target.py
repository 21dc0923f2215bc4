"""Request targets and authorities."""

import pytest

from triows._engine._target import Target, is_authority, parse_target


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/", Target(None, "/", "")),
        ("/a%20b?c=d?e", Target(None, "/a%20b", "c=d?e")),
        ("//a/b", Target(None, "//a/b", "")),
        ("/?", Target(None, "/", "")),
        ("http://a:80/b?c", Target("a:80", "/b", "c")),
        ("WSS://a", Target("a", "/", "")),
        ("https://[::1]:8?c", Target("[::1]:8", "/", "c")),
    ],
)
def test_parse(text, expected):
    """Origin-form and absolute-form come apart."""
    assert parse_target(text) == expected


@pytest.mark.parametrize(
    "text", ["", "*", "a", "a:80", "/a b", "/a\n", "/a#b", "/\x7f", "/ä", "ftp://a/", "http://u@a/"]
)
def test_malformed(text):
    """Any other form, and any character outside visible ASCII, is refused."""
    with pytest.raises(ValueError, match="malformed"):
        parse_target(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("/a", "/a"), ("/a%2Fb%C3%A4", "/a/bä"), ("/%ff", "/\ufffd"), ("/%zz", "/%zz")],
)
def test_decoded_path(text, expected):
    """Percent-encoding is undone, and never raises."""
    assert parse_target(text).decoded_path == expected


@pytest.mark.parametrize(
    "text",
    ["a", "a.b-c_d:0", "a:", "127.0.0.1:65535", "[::1]", "[::ffff:1.2.3.4]:80", "%41", "xn--a"],
)
def test_authority(text):
    """Names, addresses and ports are authorities."""
    assert is_authority(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "a:b",
        "a:65536",
        "a:1:2",
        "a/",
        "a@b",
        "a b",
        "a,b",
        "a%",
        "%4",
        "[a",
        "[]",
        "ä",
        "[::1",
        "[::1]x",
        "[:::]",
        "[::1%25eth0]",
        "[v1.a]",
        "a\r\n",
        "a\n",
        "[::1]:99999",
        "::1",
    ],
)
def test_no_authority(text):
    """Everything else is none."""
    assert not is_authority(text)
