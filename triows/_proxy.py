"""Which proxy is used for a connection, if any: from a URL, or from the environment.

The variables are those of curl, Go and requests: ``HTTPS_PROXY`` for ``wss``,
``HTTP_PROXY`` for ``ws``, ``ALL_PROXY`` for both, and ``NO_PROXY`` for what needs none,
each in lower case too, which takes precedence. Refuses to know how to talk to a proxy.
"""

import ipaddress
import os
import re
from typing import Final, Literal, Self, TypeAlias
from urllib.parse import unquote

import attrs

from triows._engine import is_authority
from triows._url import URL

ProxySetting: TypeAlias = str | Literal[True] | None
"""A proxy's URL; True for what the environment says; None for none."""

_PORTS: Final = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_PROXY = re.compile(
    r"(?:([A-Za-z][A-Za-z0-9+.\-]*)://)?(?:([^/@]*)@)?(\[[^\[\]]*\]|[^:/?#@\[\]]+)(?::([0-9]{1,5}))?/?"
)
_MAX_SOCKS_CREDENTIAL: Final = 255
_VARIABLES: Final = {"ws": ("ws", "http", "all"), "wss": ("wss", "https", "all")}


@attrs.frozen(kw_only=True)
class Proxy:
    """Where a proxy is, how it is spoken to, and who is asking."""

    scheme: str
    """``http``, ``https`` (HTTP over TLS), ``socks5`` (names are looked up on this side) or
    ``socks5h`` (on the proxy's)."""
    host: str
    port: int
    credentials: tuple[str, str] | None = attrs.field(default=None, repr=False)
    """User name and password."""

    @property
    def name(self) -> str:
        """What to call it in a message: without its credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS5 rather than HTTP."""
        return self.scheme.startswith("socks5")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a proxy's URL apart: ``[SCHEME://][USER:PASSWORD@]HOST[:PORT]``.

        Without a scheme it is ``http``. User name and password are percent-decoded.

        Raises:
            ValueError: *text* is none, or of another scheme. The message holds no password.
        """
        if not isinstance(text, str):
            raise TypeError(f"proxy is a URL, True or None, not {ascii(text)[:80]}")
        match = _PROXY.fullmatch(text)
        scheme = (match[1] or "http").lower() if match else ""
        if match is None or scheme not in _PORTS:
            raise ValueError(
                "a proxy is http://, https://, socks5:// or socks5h://HOST[:PORT], "
                f"not {text.rpartition('@')[2][:80]!a}"
            )
        host, port = match[3], int(match[4] or _PORTS[scheme])
        if not is_authority(host) or not 1 <= port <= 65_535:
            raise ValueError(f"malformed host or port of a proxy: {host[:80]!a}, {port}")
        return cls(
            scheme=scheme,
            host=host.strip("[]").lower(),
            port=port,
            credentials=None if match[2] is None else _credentials(scheme, match[2]),
        )


def _credentials(scheme: str, userinfo: str) -> tuple[str, str]:
    username, _, password = userinfo.partition(":")
    username, password = unquote(username), unquote(password)
    if scheme.startswith("socks5"):
        for part in (username, password):  # RFC 1929 §2, and what python-socks can send
            if not (part.isascii() and 1 <= len(part) <= _MAX_SOCKS_CREDENTIAL):
                raise ValueError("user name and password for SOCKS5 are 1..255 octets of ASCII")
    elif ":" in username:
        raise ValueError("a user name for a proxy holds no colon")
    return username, password


def choose_proxy(setting: ProxySetting, url: URL) -> Proxy | None:
    """Say which proxy leads to *url*; None if none is to be used.

    Raises:
        ValueError: *setting*, or the variable that applies, is no proxy's URL.
    """
    if setting is None:
        return None
    if setting is not True:
        return Proxy.parse(setting)
    variables = _read_environment()
    for kind in _VARIABLES[url.scheme]:
        if text := variables.get(f"{kind}_proxy"):
            return None if _is_exempt(url, variables.get("no_proxy", "")) else Proxy.parse(text)
    return None


def _read_environment() -> dict[str, str]:
    """Read the variables that end in ``_proxy``; lower case, even if empty, goes first."""
    found = {name.lower(): value for name, value in os.environ.items() if _is_trusted(name)}
    found |= {name: value for name, value in os.environ.items() if name.endswith("_proxy")}
    return found


def _is_trusted(name: str) -> bool:
    """Whether the variable is a proxy's; ``HTTP_PROXY`` is a client's header field in CGI."""
    if name == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ:
        return False
    return name.upper().endswith("_PROXY")


def _is_exempt(url: URL, no_proxy: str) -> bool:
    """Whether the value of ``NO_PROXY`` names the host of *url*."""
    entries = [entry.strip().lower() for entry in no_proxy.split(",")]
    return any(entry == "*" or _covers(entry, url) for entry in entries if entry)


def _covers(entry: str, url: URL) -> bool:
    """Whether *entry* is the host, a domain that it is in, its address, or a network of it.

    A name or an address may have a port; a leading dot changes nothing.
    """
    try:
        return ipaddress.ip_address(url.host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        pass  # one of them is no address
    match = re.fullmatch(r"(\[[^\[\]]*\]|[^:]*)(?::([0-9]+))?", entry)
    if match is None or (match[2] and int(match[2]) != url.port):
        return False
    domain = match[1].strip("[]").removeprefix("*").removeprefix(".")
    host = url.host.removesuffix(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))
