"""WebSocket URLs, taken apart (RFC 6455 §3, RFC 3986).

Strict: what RFC 6455 has no place for is refused, not guessed at. Refuses to know
names and addresses: nothing is resolved.
"""

import re
from typing import Self
from urllib.parse import quote, urljoin

import attrs
import idna

from triows._engine import is_authority

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?#]*)([^#]*)(#.*)?", re.DOTALL)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]*))?")
_NAME = re.compile(r"(?:[0-9A-Za-z_\-]{1,63}\.)*[0-9A-Za-z_\-]{1,63}\.?")
_UNSENDABLE = re.compile(r"[\x00-\x20\x7f]")
_PORTS = {"ws": 80, "wss": 443}
_TWINS = {"http": "ws", "https": "wss"}
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))


@attrs.frozen(kw_only=True)
class URL:
    """A WebSocket URL, fit to be dialled."""

    scheme: str
    """``ws`` or ``wss``."""
    host: str
    """A name or address in ASCII; an IPv6 address without its brackets."""
    port: int
    """1..65535."""
    target: str
    """The path and query, percent-encoded."""

    @property
    def authority(self) -> str:
        """The host as the Host field has it: with the port, unless that is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def host_and_port(self) -> str:
        """The host with its port, even if that is the scheme's own."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        """What must be the same for credentials to go along (RFC 6454 §4)."""
        return self.scheme, self.host, self.port

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    def resolve(self, reference: str) -> Self:
        """Say where *reference*, a redirect's Location, leads from here (RFC 9110 §10.2.2).

        ``http`` and ``https`` stand for ``ws`` and ``wss``; a fragment is left out.

        Args:
            reference: as a header field gives it, in ISO-8859-1.

        Raises:
            ValueError: it leads to no WebSocket URL, see `parse`.
        """
        encoded = quote(reference.encode("iso-8859-1"), safe=_VISIBLE + " ")
        if _UNSENDABLE.search(encoded):
            raise ValueError(f"a URL holds no spaces and control characters: {_shown(reference)}")
        absolute = urljoin(str(self), encoded.partition("#")[0])
        scheme, colon, rest = absolute.partition(":")
        return self.parse(_TWINS.get(scheme.lower(), scheme) + colon + rest)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take *text* apart.

        A host name may be an international one (RFC 5891); characters of the path and
        query that are not ASCII are percent-encoded as UTF-8 (RFC 3987 §3.1).

        Raises:
            ValueError: *text* is no absolute ws or wss URL; it holds a space, a control
                character or a fragment (RFC 6455 §3), user information, a malformed host,
                or a port outside 1..65535. The message never holds a password.
        """
        if not isinstance(text, str):
            raise TypeError(f"a URL is a str, not {ascii(text)[:80]}")
        if _UNSENDABLE.search(text):
            raise ValueError(f"a URL holds no spaces and control characters: {_shown(text)}")
        match = _URL.fullmatch(text)
        scheme = match[1].lower() if match else ""
        if match is None or scheme not in _PORTS:
            raise ValueError(f"not a ws:// or wss:// URL: {_shown(text)}")
        if match[4] is not None:
            raise ValueError(f"a WebSocket URL has no fragment: {_shown(text)}")
        host, port = _parse_authority(match[2])
        target = quote(match[3], safe=_VISIBLE)
        return cls(
            scheme=scheme,
            host=host,
            port=_PORTS[scheme] if port is None else port,
            target=target if target.startswith("/") else f"/{target}",
        )


def _parse_authority(authority: str) -> tuple[str, int | None]:
    """Return the host in ASCII and the port, if any."""
    if "@" in authority:
        # The RFC's grammar has no user information, and URLs end up in logs.
        raise ValueError("a WebSocket URL holds no credentials: give an Authorization header")
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise ValueError(f"malformed host or port: {_shown(authority)}")
    port = int(match[2]) if match[2] else None
    if port is not None and not 1 <= port <= 65_535:
        raise ValueError(f"a port is in 1..65535: {_shown(authority)}")
    return _parse_host(match[1]), port


def _parse_host(host: str) -> str:
    if host.startswith("["):
        if not is_authority(host):
            raise ValueError(f"malformed IPv6 address: {_shown(host)}")
        return host[1:-1]
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(f"malformed host {_shown(host)}: {error}") from None
    if _NAME.fullmatch(host) is None:
        raise ValueError(f"malformed host: {_shown(host)}")
    return host.lower()


def _shown(text: str) -> str:
    """Quote *text* for a message: escaped, short, and without what stands before an @."""
    return ascii(re.sub(r"//[^/?#]*@", "//[secret]@", text)[:80])
