"""WebSocket URLs: what is dialled, what is asked for, and what is refused."""

import pytest

from triows._url import URL

GOOD = {
    "ws://example.com": ("ws", "example.com", 80, "/", "example.com"),
    "wss://example.com/": ("wss", "example.com", 443, "/", "example.com"),
    "WS://EXAMPLE.com/A": ("ws", "example.com", 80, "/A", "example.com"),
    "ws://example.com:": ("ws", "example.com", 80, "/", "example.com"),
    "ws://example.com:80/": ("ws", "example.com", 80, "/", "example.com"),
    "wss://example.com:80/": ("wss", "example.com", 80, "/", "example.com:80"),
    "ws://a:65535?q": ("ws", "a", 65535, "/?q", "a:65535"),
    "ws://a/b?c=d&e=%20": ("ws", "a", 80, "/b?c=d&e=%20", "a"),
    "ws://a?//b/@": ("ws", "a", 80, "/?//b/@", "a"),
    "ws://a/ä?ö": ("ws", "a", 80, "/%C3%A4?%C3%B6", "a"),
    "ws://127.0.0.1:8765/": ("ws", "127.0.0.1", 8765, "/", "127.0.0.1:8765"),
    "ws://[::1]:8765/": ("ws", "::1", 8765, "/", "[::1]:8765"),
    "wss://[2001:DB8::1]": ("wss", "2001:DB8::1", 443, "/", "[2001:DB8::1]"),
    "ws://bücher.example/": ("ws", "xn--bcher-kva.example", 80, "/", "xn--bcher-kva.example"),
    "ws://faß.example/": ("ws", "xn--fa-hia.example", 80, "/", "xn--fa-hia.example"),
    "ws://my_host.": ("ws", "my_host.", 80, "/", "my_host."),
}

BAD = {
    "http://a/": "not a ws:// or wss:// URL",
    "//a/": "not a ws",
    "a/b": "not a ws",
    "": "not a ws",
    "ws:/a": "not a ws",
    "ws://": "malformed host",
    "ws:///path": "malformed host",
    "ws://:80/": "malformed host",
    "ws://a/#": "fragment",
    "ws://a/b#c": "fragment",
    "ws://a#b": "fragment",
    "ws://user@a/": "credentials",
    "ws://user:secret@a/": "credentials",
    "ws://@a/": "credentials",
    "ws://a:0/": "1..65535",
    "ws://a:65536/": "1..65535",
    "ws://a:-1/": "malformed host or port",
    "ws://a:b/": "malformed host or port",
    "ws://a:\u0661/": "malformed host or port",
    "ws://a:1:2/": "malformed host or port",
    "ws://::1/": "malformed host or port",
    "ws://[::1/": "malformed host or port",
    "ws://[::1]x/": "malformed host or port",
    "ws://[::g]/": "malformed IPv6",
    "ws://[]/": "malformed IPv6",
    "ws://[fe80::1%25eth0]/": "malformed IPv6",
    "ws://[127.0.0.1]/": "malformed IPv6",
    "ws://a..b/": "malformed host",
    "ws://.a/": "malformed host",
    "ws://a%41/": "malformed host",
    "ws://a,b/": "malformed host",
    f"ws://{'a' * 64}/": "malformed host",
    "ws://-ü-\u2064.example/": "malformed host",
    "ws://a b/": "spaces",
    "ws://a/b c": "spaces",
    "ws://a/\r\nX: y": "spaces",
    "ws://a/\0": "spaces",
    " ws://a/": "spaces",
    "ws://a/\t": "spaces",
}


@pytest.mark.parametrize(("text", "expected"), GOOD.items(), ids=map(ascii, GOOD))
def test_good(text, expected):
    """A URL is taken apart: scheme, host, port, target, and the Host field."""
    url = URL.parse(text)

    assert (url.scheme, url.host, url.port, url.target, url.authority) == expected


@pytest.mark.parametrize(("text", "words"), BAD.items(), ids=map(ascii, BAD))
def test_bad(text, words):
    """What is no WebSocket URL is refused, and it is said why."""
    with pytest.raises(ValueError, match=words):
        URL.parse(text)


@pytest.mark.parametrize("text", ["ws://u:secret@a/", "x://u:secret@a/", "ws://u:secret@a/ b"])
def test_credentials_are_not_repeated(text):
    """A password that stands in a URL stands in no message."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        URL.parse(text)

    assert "secret@" not in str(caught.value).replace("[secret]@", "")
