"""Redirects of the opening handshake: whether to follow, and where to (RFC 9110 §15.4).

A server that redirects decides what the client does next; that is worth some distrust. No
redirect leaves TLS. What the application meant for one origin goes to no other.
"""

from typing import Final

from triows._errors import HandshakeRejected, RedirectRefused
from triows._url import URL

_FOLLOWED: Final = frozenset({301, 302, 303, 307, 308})


def is_redirect(rejected: HandshakeRejected) -> bool:
    """Whether the server's answer sends the client elsewhere."""
    return rejected.status in _FOLLOWED and bool(_locations(rejected))


def redirected(url: URL, rejected: HandshakeRejected) -> URL:
    """Say where a redirect leads.

    Args:
        url: what was asked for.
        rejected: the answer, for which `is_redirect` holds.

    Raises:
        RedirectRefused: it must not be followed.
    """
    locations = _locations(rejected)
    if len(locations) > 1:
        raise RedirectRefused(rejected, "it names more than one place")
    try:
        target = url.resolve(locations[0])
    except ValueError as error:
        raise RedirectRefused(rejected, str(error)) from None
    if url.scheme == "wss" and target.scheme != "wss":
        raise RedirectRefused(rejected, f"it leaves TLS, for {str(target)[:80]!a}")
    return target


def _locations(rejected: HandshakeRejected) -> list[str]:
    return [value for name, value in rejected.headers if name.lower() == "location"]
