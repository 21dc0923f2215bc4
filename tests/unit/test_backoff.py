"""When to connect again, and what cannot heal."""

import math
import ssl

import pytest
import trio

import triows
from triows import Backoff, CloseReason
from triows._backoff import Pace, may_heal, retry_after

PLAIN = Backoff(jitter=0)
NOW = 1_000_000_000.0


def refusal(status, **headers):
    """A refused handshake."""
    fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return triows.HandshakeRejected(status, fields, b"")


# Settings.


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": 0},
        {"factor": 0.9},
        {"longest": math.inf},
        {"jitter": 1.1},
        {"healthy": -1},
        {"attempts": 0},
        {"after_restart": (3, 2)},
        {"after_overload": (-1, 2)},
        {"longest_retry_after": -1},
    ],
)
def test_settings_out_of_range(wrong):
    """What makes no sense is refused."""
    with pytest.raises(ValueError, match=r"\S"):
        Backoff(**wrong)


def test_waits_grow_to_the_longest():
    """Each wait is twice the one before, up to a minute, for ever."""
    assert [PLAIN.wait(n) for n in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert PLAIN.wait(10_000) == 60


def test_jitter_takes_a_random_part_off():
    """A wait is between its full length and what jitter leaves of it, and never the same."""
    waits = [Backoff(jitter=0.25).wait(2) for _ in range(1_000)]
    assert 3 <= min(waits) < 3.1
    assert 3.9 < max(waits) <= 4
    assert len(set(waits)) > 990


# The pace.


def test_failures_add_up():
    """Each failure in a row makes the next wait longer."""
    pace = Pace(PLAIN)
    assert [pace.after_failure(OSError(), NOW) for _ in range(4)] == [1, 2, 4, 8]
    assert pace.failures == 4


def test_a_healthy_connection_starts_over():
    """After a connection that lasted, waits start from the first."""
    pace = Pace(PLAIN)
    for _ in range(4):
        pace.after_failure(OSError(), NOW)
    assert pace.after_connection(CloseReason(1006), 10.0) == 1
    assert pace.failures == 0
    assert [pace.after_failure(OSError(), NOW) for _ in range(3)] == [2, 4, 8]


def test_a_short_connection_counts_as_a_failure():
    """A server that accepts and dies at once is not asked ever faster."""
    pace = Pace(PLAIN)
    assert [pace.after_connection(CloseReason(1006), 9.9) for _ in range(3)] == [1, 2, 4]


@pytest.mark.parametrize(("code", "least", "most"), [(1012, 5, 30), (1013, 30, 60)])
@pytest.mark.parametrize("lasted", [1.0, 1000.0])
def test_close_codes_that_ask_for_time(code, least, most, lasted):
    """1012 and 1013 mean a random wait in a range, however long the connection lasted."""
    waits = [Pace(PLAIN).after_connection(CloseReason(code), lasted) for _ in range(500)]
    assert least <= min(waits) < least + 1
    assert most - 1 < max(waits) <= most


def test_retry_after_comes_on_top():
    """A server's Retry-After is waited, and the backoff besides: not all at the same moment."""
    pace = Pace(PLAIN)
    assert pace.after_failure(refusal(503, Retry_After="7"), NOW) == 8
    assert pace.after_failure(refusal(429, Retry_After="7"), NOW) == 9
    assert pace.after_failure(refusal(503, Retry_After="9" * 99), NOW) == 3604
    proxy = triows.ProxyError("", status=503, headers=[("Retry-After", "1")])
    assert pace.after_failure(proxy, NOW) == 9


def test_attempts_that_are_too_many():
    """The last error is raised as it was; a short connection is told as a broken one."""
    pace, error = Pace(Backoff(attempts=3)), OSError("x")
    pace.after_failure(OSError(), NOW)
    pace.after_failure(OSError(), NOW)
    with pytest.raises(OSError, match="x") as caught:
        pace.after_failure(error, NOW)
    assert caught.value is error
    with pytest.raises(triows.ConnectionBroken, match="4000: 'why'"):
        Pace(Backoff(attempts=1)).after_connection(CloseReason(4000, "why"), 1.0)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"Retry_After": "120"}, 120),
        ({"retry_after": " 0 "}, 0),
        ({"Retry_After": "-5"}, 0),
        ({"Retry_After": "1.5"}, 0),
        ({"Retry_After": "soon"}, 0),
        ({"Retry_After": "Sun, 09 Sep 2001 01:46:50 GMT"}, 10),
        ({"Retry_After": "Sun, 09 Sep 2001 01:46:30 GMT"}, 0),
        ({"Retry_After": "Fri, 99 Sep 2001 01:46:30 GMT"}, 0),
        (
            {
                "Retry_After": "Sun, 09 Sep 2001 01:46:50 GMT",
                "Date": "Sun, 09 Sep 2001 01:46:45 GMT",
            },
            5,
        ),
        ({"Retry_After": "Sun, 09 Sep 2001 01:46:50 GMT", "Date": "yesterday"}, 10),
    ],
)
def test_retry_after(headers, seconds):
    """Seconds or a date, the latter by the server's clock; what is neither asks for nothing."""
    assert retry_after(refusal(503, **headers).headers, NOW) == seconds


# What heals.


@pytest.mark.parametrize(
    "error",
    [refusal(status) for status in (408, 425, 429, 500, 502, 503, 504)]
    + [OSError(), ConnectionRefusedError(), trio.TooSlowError(), triows.InvalidHandshake()]
    + [triows.ProxyError(""), ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), ssl.SSLEOFError()],
    ids=repr,
)
def test_what_may_heal(error):
    """Trouble with the network, and a server that is busy or broken, may pass."""
    assert may_heal(error)


def alert():
    """The server does not take this side's certificate."""
    error = ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED]")
    error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    return error


@pytest.mark.parametrize(
    "error",
    [refusal(status) for status in (200, 301, 400, 401, 403, 404, 410, 426, 451)]
    + [triows.RedirectRefused(refusal(302), ""), triows.ProxyError("", is_lasting=True)]
    + [ssl.SSLCertVerificationError(), alert(), ValueError(), RuntimeError()]
    + [ModuleNotFoundError()],
    ids=repr,
)
def test_what_cannot_heal(error):
    """A refusal of this client, a bad certificate, a mistake here: trying again is no use."""
    assert not may_heal(error)
