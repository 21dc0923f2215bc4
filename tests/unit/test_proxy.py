"""Which proxy is used: URLs of proxies, and what the environment says."""

import pytest

from triows._proxy import Proxy, choose_proxy
from triows._url import URL

WS, WSS = URL.parse("ws://server.test/"), URL.parse("wss://server.test/")


@pytest.mark.parametrize(
    ("text", "name", "credentials"),
    [
        ("http://p.test:3128", "http://p.test:3128", None),
        ("http://p.test/", "http://p.test:80", None),
        ("p.test:3128", "http://p.test:3128", None),
        ("HTTPS://u:p@P.test", "https://p.test:443", ("u", "p")),
        ("http://u%40x:p%3a%2f@p.test", "http://p.test:80", ("u@x", "p:/")),
        ("http://u@p.test", "http://p.test:80", ("u", "")),
        ("socks5://p.test", "socks5://p.test:1080", None),
        ("socks5h://u:p@[::1]:9", "socks5h://[::1]:9", ("u", "p")),
    ],
)
def test_urls(text, name, credentials):
    """Scheme, host, port and credentials are taken apart; the last are not shown."""
    proxy = Proxy.parse(text)
    assert proxy.name == name
    assert proxy.credentials == credentials
    assert proxy.is_socks == text.startswith("socks")
    assert "('u'" not in repr(proxy)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://p.test",
        "socks4://p.test",
        "http://",
        "http://p.test:0",
        "http://p.test:99999",
        "http://p.test/path",
        "http://p.test:80a",
        "http://[::1",
        "http://a b",
        "http://[x]",
        "http://p.test\r\nX: y",
        "http://p%zz.test",
    ],
)
def test_malformed_urls(text):
    """What is no proxy's URL is refused."""
    with pytest.raises(ValueError, match="prox"):
        Proxy.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://a%3Ab:s3cret@p.test",
        "socks5://ü:s3cret@p.test",
        "socks5://a@p.test",
        "socks5://a:" + "s3cret" * 50 + "@p.test",
        "ftp://a:s3cret@p.test",
    ],
)
def test_credentials_that_cannot_be_sent(text):
    """They are refused, and no message shows a password."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        Proxy.parse(text)
    assert "s3cret" not in str(caught.value)


def test_settings():
    """None is none whatever the environment says; a URL is that proxy."""
    assert choose_proxy(None, WSS) is None
    assert choose_proxy("socks5://p.test", WSS) == Proxy.parse("socks5://p.test")
    assert choose_proxy(True, WSS) is None


@pytest.mark.parametrize(
    ("variables", "ws", "wss"),
    [
        ({"HTTPS_PROXY": "a"}, None, "a"),
        ({"HTTP_PROXY": "a"}, "a", None),
        ({"ALL_PROXY": "a"}, "a", "a"),
        ({"ALL_PROXY": "a", "HTTPS_PROXY": "b"}, "a", "b"),
        ({"HTTPS_PROXY": "a", "https_proxy": "b"}, None, "b"),
        ({"HTTPS_PROXY": "a", "https_proxy": ""}, None, None),
        ({"WSS_PROXY": "a", "https_proxy": "b"}, None, "a"),
        ({"HTTPS_PROXY": ""}, None, None),
        ({"HTTP_PROXY": "a", "REQUEST_METHOD": "GET"}, None, None),
        ({"http_proxy": "a", "REQUEST_METHOD": "GET"}, "a", None),
        ({"ALL_PROXY": "a", "NO_PROXY": "server.test"}, None, None),
        ({"ALL_PROXY": "a", "NO_PROXY": "*"}, None, None),
        ({"ALL_PROXY": "a", "NO_PROXY": "x.test, server.test:443"}, "a", None),
    ],
)
def test_the_environment(monkeypatch, variables, ws, wss):
    """Each variable counts for its scheme; lower case goes first; CGI's HTTP_PROXY is a trap."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert [choose_proxy(True, url) for url in (WS, WSS)] == [
        host and Proxy.parse(host) for host in (ws, wss)
    ]


@pytest.mark.parametrize(
    ("entry", "url", "is_exempt"),
    [
        ("server.test", "ws://SERVER.test/", True),
        ("test", "ws://server.test/", True),
        (".test", "ws://server.test/", True),
        ("*.test", "ws://server.test/", True),
        ("server.test", "ws://a.server.test./", True),
        ("rver.test", "ws://server.test/", False),
        ("server.test:81", "ws://server.test/", False),
        ("server.test:80", "ws://server.test/", True),
        ("10.0.0.0/8", "ws://10.1.2.3/", True),
        ("10.0.0.0/8", "ws://11.1.2.3/", False),
        ("10.1.2.3", "ws://10.1.2.3:8/", True),
        ("10.1.2.3:9", "ws://10.1.2.3:8/", False),
        ("::1", "ws://[::1]/", True),
        ("[::1]:80", "ws://[::1]/", True),
        ("::/0", "ws://127.0.0.1/", False),
        ("", "ws://server.test/", False),
        (":80", "ws://server.test/", False),
    ],
)
def test_exemptions(monkeypatch, entry, url, is_exempt):
    """NO_PROXY holds hosts, domains, addresses and networks, some with a port."""
    monkeypatch.setenv("ALL_PROXY", "p.test")
    monkeypatch.setenv("NO_PROXY", f"other.test,{entry}")
    assert (choose_proxy(True, URL.parse(url)) is None) == is_exempt
