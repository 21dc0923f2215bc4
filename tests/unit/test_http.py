"""HTTP responses, as they are written."""

import pytest

from triows._engine import HandshakeRefused, Headers, HTTPResponse


def test_empty():
    """A response is framed and ends its connection."""
    assert HTTPResponse(404).to_octets() == (
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )


def test_text():
    """Text is sent as UTF-8 and says so."""
    octets = HTTPResponse(200, body="ä").to_octets()
    assert b"\r\nContent-Type: text/plain; charset=utf-8\r\n" in octets
    assert octets.endswith(b"Content-Length: 2\r\nConnection: close\r\n\r\n\xc3\xa4")


def test_own_content_type():
    """A content type that is given is left alone."""
    octets = HTTPResponse(200, {"content-type": "text/html"}, "<p>").to_octets()
    assert octets.lower().count(b"content-type") == 1


def test_octets():
    """Octets get no content type."""
    assert b"Content-Type" not in HTTPResponse(200, body=b"a").to_octets()


def test_headers():
    """Fields come in order, repeats included."""
    response = HTTPResponse(302, [("Set-Cookie", "a"), ("Set-Cookie", "b")])
    assert response.headers == Headers([("set-cookie", "a"), ("set-cookie", "b")])
    assert b"Found\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n" in response.to_octets()


def test_unregistered_status():
    """A status without a registered phrase has an empty one."""
    assert HTTPResponse(499).to_octets().startswith(b"HTTP/1.1 499 \r\n")


def test_no_content():
    """A status without a body has no length either."""
    assert HTTPResponse(204).to_octets() == b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


def test_omitted_body():
    """The answer to HEAD has the length of the body that it leaves out."""
    octets = HTTPResponse(200, body=b"abc").to_octets(omit_body=True)
    assert octets.endswith(b"Content-Length: 3\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize("status", [0, 99, 1000, -1])
def test_bad_status(status):
    """A status outside 100..999 is refused."""
    with pytest.raises(ValueError, match="status"):
        HTTPResponse(status)


def test_body_with_no_content():
    """A body is refused where the status allows none."""
    with pytest.raises(ValueError, match="204"):
        HTTPResponse(204, body="a")


def test_header_injection():
    """A header that would end early is refused."""
    with pytest.raises(ValueError, match="cannot be sent"):
        HTTPResponse(200, {"a": "b\r\nc: d"})


@pytest.mark.parametrize("name", ["Content-Length", "connection", "Transfer-Encoding"])
def test_framing_header(name):
    """A header that frames the response is not for the application to set."""
    with pytest.raises(ValueError, match="to set"):
        HTTPResponse(200, {name: "1"}).to_octets()


def test_interim():
    """An interim status ends no request, and is not sent as if it did."""
    with pytest.raises(ValueError, match="ends no request"):
        HTTPResponse(101).to_octets()


def test_refused_carries_its_response():
    """A refusal carries what to answer."""
    response = HTTPResponse(400)
    assert HandshakeRefused(response).response is response
