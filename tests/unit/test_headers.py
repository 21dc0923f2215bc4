"""Header fields: what may be in them, and how they are found."""

import pytest

from triows._engine._headers import Headers, is_token, list_members


def test_names_have_no_case():
    """A field is found under any case of its name."""
    headers = Headers([("X-One", "1")])
    assert headers.get("x-ONE") == headers["X-one"] == "1"
    assert "x-one" in headers


def test_first_of_several():
    """Of a repeated field, get gives the first value and get_all every one, in order."""
    headers = Headers([("A", "1"), ("B", "2"), ("a", "3")])
    assert headers.get("a") == "1"
    assert headers.get_all("A") == ["1", "3"]


def test_missing():
    """A missing field gives the default, no values, or KeyError."""
    headers = Headers()
    assert headers.get("a") is None
    assert headers.get("a", "b") == "b"
    assert headers.get_all("a") == []
    assert "a" not in headers
    assert 1 not in headers
    with pytest.raises(KeyError):
        headers["a"]


def test_order_is_kept():
    """Iteration, items and octets keep the order and the case that was given."""
    headers = Headers([("B", "1"), ("a", "2"), ("b", "3")])
    assert list(headers) == ["B", "a", "b"]
    assert list(headers.items()) == [("B", "1"), ("a", "2"), ("b", "3")]
    assert headers.to_octets() == b"B: 1\r\na: 2\r\nb: 3\r\n"
    assert len(headers) == 3


def test_made_of_a_mapping_or_of_headers():
    """A mapping and other headers make the same headers as pairs do."""
    assert Headers({"a": "1"}) == Headers([("A", "1")]) == Headers(Headers([("a", "1")]))
    assert hash(Headers({"a": "1"})) == hash(Headers({"A": "1"}))
    assert Headers({"a": "1"}) != Headers({"a": "2"})
    assert Headers() != ()


def test_no_assignment():
    """Headers have no place for an attribute of their own."""
    with pytest.raises(AttributeError):
        Headers().status = 1


def test_repr_hides_secrets():
    """What lets its bearer in does not show."""
    shown = repr(Headers({"Cookie": "s3cret", "Authorization": "s3cret", "X": "a"}))
    assert shown == "Headers([('Cookie', '[secret]'), ('Authorization', '[secret]'), ('X', 'a')])"


def test_spaces_around_a_value():
    """Spaces and tabs around a value are no part of it."""
    assert Headers({"a": " \tb c\t "})["a"] == "b c"


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\n", "a\n", "ä", "a\0", "(a)"])
def test_bad_name(name):
    """A name that is no token is refused."""
    with pytest.raises(ValueError, match="not a token"):
        Headers([(name, "b")])


@pytest.mark.parametrize("value", ["\r", "\n", "a\r\nB: c", "a\0", "\x7f", "\x01", "€"])
def test_bad_value(value):
    """A value with a control character, or outside ISO-8859-1, is refused."""
    with pytest.raises(ValueError, match="cannot be sent"):
        Headers([("a", value)])


@pytest.mark.parametrize("field", [(b"a", "b"), ("a", b"b"), ("a", 1)])
def test_bad_type(field):
    """What is not str is refused."""
    with pytest.raises(TypeError):
        Headers([field])


def test_error_shows_the_value_escaped():
    """The message shows what was wrong, in one line."""
    with pytest.raises(ValueError, match=r"a: 'b\\r\\nc'"):
        Headers([("a", "b\r\nc")])


def test_parse():
    """A head's fields are read as they stand, less the space around them."""
    headers = Headers.parse(b"GET / HTTP/1.1\r\nA:b\r\nc: \xe4:d \t\r\nE:\r\n\r\n")
    assert list(headers.items()) == [("A", "b"), ("c", "ä:d"), ("E", "")]


def test_list_members():
    """Lists split at commas, over several fields, without what is empty."""
    assert list_members(["a, b", ",, c\t,", ""]) == ["a", "b", "c"]


@pytest.mark.parametrize(("text", "expected"), [("a!", True), ("", False), ("a,", False)])
def test_is_token(text, expected):
    """A token is not empty and has no delimiter."""
    assert is_token(text) is expected
