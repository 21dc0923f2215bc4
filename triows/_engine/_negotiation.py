"""permessage-deflate in the opening handshake: offered, answered, agreed (RFC 7692 §7.1).

Knows texts and settings, and no compressor. An offer that breaks a rule is no error: the
server declines it and looks at the next (§5.1). An answer that breaks one is: the client
cannot go on then.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import attrs

from triows._engine._extensions import Parameters, parse_extensions
from triows._errors import InvalidHandshake
from triows._options import Deflate

NAME: Final = "permessage-deflate"
MOST_BITS: Final = 15

_FLAGS = frozenset({"server_no_context_takeover", "client_no_context_takeover"})
_BITS = frozenset({"server_max_window_bits", "client_max_window_bits"})
_NUMBER = re.compile(r"[89]|1[0-5]")

_Given: TypeAlias = dict[str, int]
"""Parameters by name: 1 for a flag, bits for a window, 0 for one that came without a value."""


@attrs.frozen(kw_only=True)
class DeflateParameters:
    """What both sides agreed on, or this one settled for by itself (RFC 7692 §7.1)."""

    server_no_context_takeover: bool = False
    """Whether nothing that the server sends refers back to earlier messages."""

    client_no_context_takeover: bool = False
    """Whether nothing that the client sends does."""

    server_max_window_bits: int = MOST_BITS
    """How far back what the server sends refers at most: 2**8 to 2**15 octets."""

    client_max_window_bits: int = MOST_BITS
    """How far back what the client sends refers at most."""


_make_parameters = functools.lru_cache(256)(DeflateParameters)  # many connections have the same


def offer_for(settings: Deflate) -> str:
    """Write an offer for *settings*, a client's (RFC 7692 §7.1).

    It asks for what the server must keep to, and says that this side can be asked too.
    """
    parts = [NAME]
    if not settings.server_context_takeover:
        parts.append("server_no_context_takeover")
    if not settings.client_context_takeover:
        parts.append("client_no_context_takeover")
    if settings.server_max_window_bits < MOST_BITS:
        parts.append(f"server_max_window_bits={settings.server_max_window_bits}")
    if settings.client_max_window_bits < MOST_BITS:
        parts.append(f"client_max_window_bits={settings.client_max_window_bits}")
    else:
        parts.append("client_max_window_bits")
    return "; ".join(parts)


def choose_offer(
    offers: Iterable[tuple[str, Parameters]], settings: Deflate
) -> tuple[str, DeflateParameters] | None:
    """Choose the first offer that a server with *settings* can accept (RFC 7692 §5, §7.1).

    Returns:
        The answer to write and what is agreed by it, or None to decline them all.
    """
    for name, parameters in offers:
        given = _read(parameters, is_offer=True) if name.lower() == NAME else None
        agreed = None if given is None else _agree(given, settings)
        if given is not None and agreed is not None:
            return _answer(given, agreed), agreed
    return None


def judge_answer(text: str, offered: Sequence[Deflate]) -> tuple[Deflate, DeflateParameters]:
    """Hold a server's answer against what was offered (RFC 6455 §4.1, RFC 7692 §5.1, §7.1).

    Args:
        text: of all its Sec-WebSocket-Extensions fields, joined by commas.
        offered: in order of preference.

    Returns:
        The settings that it answers, and what is agreed.

    Raises:
        InvalidHandshake: it answers none of them, or is malformed.
    """
    try:
        answers = parse_extensions(text) if offered else []
    except ValueError as error:
        raise InvalidHandshake(f"the server's extensions are malformed: {error}") from None
    if not answers or any(name.lower() != NAME for name, _ in answers):
        raise InvalidHandshake("the server uses an extension that was not requested")
    if len(answers) > 1:
        raise InvalidHandshake(f"the server uses the extension {NAME} twice")
    given = _read(answers[0][1], is_offer=False)
    if given is None:
        raise InvalidHandshake(f"the server's extension is malformed: {text[:80]!a}")
    for settings in offered:
        if _answers(given, settings):
            return settings, _settle(given, settings)
    raise InvalidHandshake(f"the server's extension was not offered like that: {text[:80]!a}")


def _read(parameters: Parameters, *, is_offer: bool) -> _Given | None:
    """Read the parameters of an offer or an answer; None where they break a rule (§7.1)."""
    given: _Given = {}
    for written, value in parameters:
        name = written.lower()
        if name in given:
            return None
        if name in _FLAGS and value is None:
            given[name] = 1
        elif name in _BITS and value is not None and _NUMBER.fullmatch(value):
            given[name] = int(value)
        elif name == "client_max_window_bits" and value is None and is_offer:
            given[name] = 0
        else:
            return None
    return given


def _agree(offer: _Given, settings: Deflate) -> DeflateParameters | None:
    """Say what a server agrees to; None where it cannot have what it needs (§7.1.1, §7.1.2)."""
    client_bits = offer.get("client_max_window_bits")
    if client_bits is None and settings.client_max_window_bits < MOST_BITS:
        return None  # "MUST NOT include ... if the received offer does not" (§7.1.2.2)
    return _make_parameters(
        server_no_context_takeover="server_no_context_takeover" in offer
        or not settings.server_context_takeover,
        client_no_context_takeover="client_no_context_takeover" in offer
        or not settings.client_context_takeover,
        server_max_window_bits=min(
            offer.get("server_max_window_bits", MOST_BITS), settings.server_max_window_bits
        ),
        client_max_window_bits=min(client_bits or MOST_BITS, settings.client_max_window_bits),
    )


def _answer(offer: _Given, agreed: DeflateParameters) -> str:
    """Write the answer that says what is agreed."""
    parts = [NAME]
    parts += [flag for flag in sorted(_FLAGS) if getattr(agreed, flag)]
    for name in sorted(_BITS):
        bits = getattr(agreed, name)
        is_owed = name == "server_max_window_bits" and name in offer
        if bits < MOST_BITS or is_owed:
            parts.append(f"{name}={bits}")
    return "; ".join(parts)


def _answers(answer: _Given, offered: Deflate) -> bool:
    """Whether a server may answer an offer for *offered* in this way (§7.1.1, §7.1.2)."""
    if not offered.server_context_takeover and "server_no_context_takeover" not in answer:
        return False
    if answer.get("server_max_window_bits", MOST_BITS) > offered.server_max_window_bits:
        return False
    return answer.get("client_max_window_bits", 0) <= offered.client_max_window_bits


def _settle(answer: _Given, offered: Deflate) -> DeflateParameters:
    """Say what a client keeps to: what the server answered, and its own settings."""
    return _make_parameters(
        server_no_context_takeover="server_no_context_takeover" in answer,
        client_no_context_takeover="client_no_context_takeover" in answer
        or not offered.client_context_takeover,
        server_max_window_bits=answer.get("server_max_window_bits", MOST_BITS),
        client_max_window_bits=min(
            answer.get("client_max_window_bits", MOST_BITS), offered.client_max_window_bits
        ),
    )
