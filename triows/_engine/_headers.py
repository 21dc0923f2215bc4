"""Header fields: an immutable multi-mapping, and what may be in one.

Knows the grammar of names, values and comma-separated lists (RFC 9110 §5); refuses to know
what any field means. Every check is one pass over its input.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, TypeAlias, overload

FieldsLike: TypeAlias = "Headers | Mapping[str, str] | Iterable[tuple[str, str]]"
"""What outgoing header fields may be given as."""

# RFC 9110 §5.6.2. A single character class with one quantifier cannot backtrack.
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

# RFC 9110 §5.5: VCHAR, obs-text, SP and HTAB; what is missing is every other control character.
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

_SECRET = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie"})


def is_token(text: str) -> bool:
    """Whether *text* is a token (RFC 9110 §5.6.2)."""
    return _TOKEN.fullmatch(text) is not None


def list_members(values: Iterable[str]) -> list[str]:
    """Split the values of a repeatable field at their commas (RFC 9110 §5.6.1).

    Empty members, which the list grammar tells recipients to ignore, are left out.
    """
    return [
        stripped
        for value in values
        for member in value.split(",")
        if (stripped := member.strip(" \t"))
    ]


class Headers:
    """Header fields in their order: immutable, names case-insensitive and repeatable.

    Whatever is in one can be sent: names are tokens, values hold no CR, LF, NUL or other
    control character and are ISO-8859-1.

    Args:
        fields: pairs of name and value, or a mapping; spaces and tabs around a value are
            no part of it (RFC 9110 §5.5).

    Raises:
        ValueError: a name is no token, or a value cannot be sent.
        TypeError: a name or value is not a ``str``.
    """

    __slots__ = ("_fields",)

    _fields: tuple[tuple[str, str], ...]

    def __init__(self, fields: FieldsLike = ()) -> None:
        if isinstance(fields, Headers):
            self._fields = fields._fields
            return
        if isinstance(fields, Mapping):
            fields = fields.items()
        self._fields = tuple(map(_checked, fields))

    @classmethod
    def parse(cls, head: bytes) -> Self:
        """Read the fields of a whole *head*, one that the head reader has let through."""
        headers = cls.__new__(cls)
        lines = head.decode("iso-8859-1").split("\r\n")[1:-2]
        headers._fields = tuple(
            (name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines)
        )
        return headers

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str) -> str: ...
    def get(self, name: str, default: str | None = None) -> str | None:
        """Give the first value of *name*, or *default* if there is none."""
        wanted = name.lower()
        for field, value in self._fields:
            if field.lower() == wanted:
                return value
        return default

    def get_all(self, name: str) -> list[str]:
        """Give every value of *name*, in order."""
        wanted = name.lower()
        return [value for field, value in self._fields if field.lower() == wanted]

    def items(self) -> Iterator[tuple[str, str]]:
        """Iterate over the fields as pairs of name and value, in order, repeats included."""
        return iter(self._fields)

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return self._comparable() == other._comparable()

    def __hash__(self) -> int:
        return hash(self._comparable())

    def __repr__(self) -> str:
        # What lets its bearer in has no place in a log.
        shown = [
            (name, "[secret]" if name.lower() in _SECRET else value) for name, value in self._fields
        ]
        return f"Headers({shown!r})"

    def _comparable(self) -> tuple[tuple[str, str], ...]:
        return tuple((name.lower(), value) for name, value in self._fields)

    def to_octets(self) -> bytes:
        """Write the fields as lines that each end in CRLF; nothing for none."""
        return "".join(f"{name}: {value}\r\n" for name, value in self._fields).encode("iso-8859-1")


def _checked(field: Any) -> tuple[str, str]:
    if isinstance(field, str) or len(field) != 2:
        raise TypeError(f"header fields are a mapping, or pairs of name and value, not {field!a}")
    name, value = field
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"a header field is of two str, not {name!a}: {value!a}")
    if not is_token(name):
        raise ValueError(f"header name is not a token: {name[:80]!a}")
    if _VALUE.fullmatch(value) is None:
        raise ValueError(f"header value cannot be sent: {name}: {value[:80]!a}")
    return name, value.strip(" \t")
