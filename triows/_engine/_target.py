"""Request targets and authorities (RFC 9112 §3.2, RFC 3986 §3.2).

Knows which forms of a target a WebSocket server takes and what a host may look like;
refuses to know routes and names: nothing is resolved.
"""

import ipaddress
import re
from urllib.parse import unquote

import attrs

# RFC 3986's reg-name or IPv4address, not empty, and without the comma: that is how an
# intermediary joins two Host fields. Each alternative begins differently, so that the
# match is one pass.
_NAMED = re.compile(r"(?:[0-9A-Za-z\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+(?::([0-9]{0,5}))?")
_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::([0-9]{0,5}))?")

_ABSOLUTE = re.compile(r"(?:http|ws)s?://([^/?]*)(.*)", re.IGNORECASE)

# Visible ASCII but "#": a target has no fragment (RFC 6455 §3).
_ORIGIN_FORM = re.compile(r"/[!\"$-~]*")


def is_authority(text: str) -> bool:
    """Whether *text* is a host, optionally with a port (RFC 9110 §7.2), and not empty."""
    if (match := _NAMED.fullmatch(text)) is not None:
        return _is_port(match[1])
    if (match := _BRACKETED.fullmatch(text)) is not None:
        return _is_ipv6(match[1]) and _is_port(match[2])
    return False


def _is_port(digits: str | None) -> bool:
    return not digits or int(digits) <= 65_535


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


@attrs.frozen
class Target:
    """A request target, taken apart.

    Attributes:
        authority: the host of an absolute-form target, which outranks the Host field
            (RFC 9112 §3.2.2); None in origin-form.
        path: begins with a slash; still percent-encoded.
        query: what follows the question mark, still encoded; empty if there is none.
    """

    authority: str | None
    path: str
    query: str

    @property
    def decoded_path(self) -> str:
        """The path with its percent-encoding undone; what is not UTF-8 shows as U+FFFD."""
        return unquote(self.path) if "%" in self.path else self.path


def parse_target(text: str) -> Target:
    """Take a request target apart: origin-form, or absolute-form with http, https, ws or wss.

    Raises:
        ValueError: *text* is of another form, or holds a fragment, user information or
            a character that no target may hold.
    """
    authority = None
    rest = text
    if (match := _ABSOLUTE.fullmatch(text)) is not None:
        authority, rest = match[1], match[2]
        if not is_authority(authority):
            raise ValueError("the target's authority is malformed")
        if not rest.startswith("/"):
            rest = f"/{rest}"
    if _ORIGIN_FORM.fullmatch(rest) is None:
        raise ValueError("the target is malformed")
    path, _, query = rest.partition("?")
    return Target(authority, path, query)
