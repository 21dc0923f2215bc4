"""The head reader, on its own."""

import gc
import weakref

import httptools
import pytest

from triows._engine._head import HeadFault, HeadFields, HeadReader
from triows._options import Limits


def reader_of(kind=httptools.HttpRequestParser, **leniencies):
    """Make a reader over a parser that is strict but for *leniencies*."""
    heard = HeadFields()
    parser = kind(heard)
    parser.set_dangerous_leniencies(**leniencies)
    return HeadReader(parser, heard, Limits()), heard


def test_whole_head():
    """A whole head is kept, with its fields and what follows it."""
    reader, heard = reader_of()
    assert reader.receive(memoryview(b"GET / HTTP/1.1\r\nA: b \r\na: c\r\n\r\nxy"))
    assert reader.head == b"GET / HTTP/1.1\r\nA: b \r\na: c\r\n\r\n"
    assert reader.start_line() == b"GET / HTTP/1.1"
    assert reader.leftover == b"xy"
    assert heard.fields == {b"a": [b"b", b"c"]}


def test_answer():
    """An answer's head is read alike, and its body is not touched."""
    reader, heard = reader_of(httptools.HttpResponseParser)
    assert not reader.receive(bytearray(b"HTTP/1.1 200 OK\r"))
    assert reader.receive(b"\nContent-Length: 2\r\n\r\nok")
    assert reader.leftover == b"ok"
    assert heard.fields == {b"content-length": [b"2"]}


def test_nothing():
    """No octets change nothing."""
    reader, _ = reader_of()
    assert not reader.receive(b"")
    assert reader.head == b""


def test_trailers_are_no_fields():
    """Fields that come after the head are not taken for its own."""
    heard = HeadFields()
    parser = httptools.HttpRequestParser(heard)
    parser.feed_data(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: x\r\n\r\n")
    assert list(heard.fields) == [b"transfer-encoding"]


def test_bare_lf_under_a_lenient_parser():
    """A bare LF is refused even by a parser that lets it through."""
    lenient, heard = reader_of(lenient_optional_cr_before_lf=True)
    with pytest.raises(HeadFault):
        lenient.receive(b"GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n")
    assert heard.is_complete


def test_head_that_ends_early_under_a_lenient_parser():
    """A head that ends elsewhere for the parser than for the reader is refused."""
    lenient, _ = reader_of(lenient_optional_cr_before_lf=True)
    with pytest.raises(HeadFault):
        lenient.receive(b"GET / HTTP/1.1\r\nA: b\n\n")


def test_no_cycle():
    """A reader is freed as soon as it is let go, without the garbage collector."""
    gc.disable()
    try:
        reader, _ = reader_of()
        reader.receive(b"GET / HTTP/1.1\r\n\r\n")
        gone = weakref.ref(reader)
        del reader
        assert gone() is None
    finally:
        gc.enable()
