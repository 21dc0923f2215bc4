"""Sec-WebSocket-Extensions: from text to names and parameters (RFC 6455 §9.1).

Knows the grammar only; refuses to know what any extension does.
"""

import re
from typing import Final, TypeAlias

Parameters: TypeAlias = list[tuple[str, str | None]]

MOST_PIECES: Final = 128
"""Extensions and parameters that a list may have, together.

No one offers more than a handful. A list of as many as fit in a head would make so many objects
that the garbage collector, which looks at each again and again, takes more than linear time.
"""

_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"

# One parameter or extension name with what may follow it. The quantifiers are possessive:
# they never give back what they took, so that no text can make the match try again.
_PIECE = re.compile(
    rf"[ \t]*+({_NAME})[ \t]*+"  # a name,
    rf'(?:=[ \t]*+(?:({_NAME})|"((?:[^"\\]|\\.)*+)")[ \t]*+)?'  # its value, plain or quoted,
    r"([;,]|\Z)"  # and what comes next
)
_BLANK = re.compile(r"[ \t]*+(?:,|\Z)")
_ESCAPE = re.compile(r"\\(.)")
_WHOLE_NAME = re.compile(_NAME)


def parse_extensions(value: str) -> list[tuple[str, Parameters]]:
    """Read one field value as extensions in order of preference, with their parameters.

    Args:
        value: the field's value; several fields are joined by commas.

    Returns:
        Pairs of the extension's name and its parameters in order, each a name and a value,
        which is None if the parameter stands alone. A quoted value is unquoted.

    Raises:
        ValueError: *value* does not follow the grammar, or names no extension, or more than
            `MOST_PIECES` extensions and parameters.
    """
    extensions: list[tuple[str, Parameters]] = []
    starts_extension = True
    at = pieces = 0
    while at < len(value):
        if starts_extension and (blank := _BLANK.match(value, at)) is not None:
            at = blank.end()  # an empty list member (RFC 9110 §5.6.1)
            continue
        piece = _PIECE.match(value, at)
        if piece is None:
            raise ValueError(f"malformed extension list at character {at}")
        pieces += 1
        if pieces > MOST_PIECES:
            raise ValueError(f"more than {MOST_PIECES} extensions and parameters")
        name, given = piece[1], _value(piece)
        if not starts_extension:
            extensions[-1][1].append((name, given))
        elif piece[2] is None and piece[3] is None:
            extensions.append((name, []))
        else:
            raise ValueError(f"an extension's name has a value at character {at}")
        starts_extension = piece[4] != ";"
        at = piece.end()
    if not extensions or not starts_extension:
        raise ValueError("the extension list ends too early")
    return extensions


def _value(piece: re.Match[str]) -> str | None:
    if piece[3] is None:
        return piece[2]
    unquoted = _ESCAPE.sub(r"\1", piece[3])
    if _WHOLE_NAME.fullmatch(unquoted) is None:
        # "When using the quoted-string syntax variant, the value after quoted-string
        # unescaping MUST conform to the 'token' ABNF."
        raise ValueError(f"a quoted parameter is no token at character {piece.start(3)}")
    return unquoted
