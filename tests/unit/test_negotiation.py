"""What is offered, answered and agreed: every parameter, and every refusal (RFC 7692 §7.1)."""

import pytest

from triows import Deflate, DeflateParameters, InvalidHandshake, Limits
from triows._engine import ClientHandshake, ServerHandshake
from triows._engine._extensions import parse_extensions
from triows._engine._negotiation import choose_offer, judge_answer, offer_for

FREE = Deflate(server_context_takeover=True, client_context_takeover=True)
"""Settings that ask the peer for nothing."""


def answer_to(offers, settings=FREE):
    """What a server answers to a field of offers; None where it declines them all."""
    chosen = choose_offer(parse_extensions(offers), settings)
    return None if chosen is None else chosen[0]


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        ("permessage-deflate", "permessage-deflate"),
        ("Permessage-Deflate", "permessage-deflate"),
        ("x-other; a=b, permessage-deflate", "permessage-deflate"),
        (
            "permessage-deflate; server_no_context_takeover",
            "permessage-deflate; server_no_context_takeover",
        ),
        (
            "permessage-deflate; client_no_context_takeover",
            "permessage-deflate; client_no_context_takeover",
        ),
        (
            "permessage-deflate; server_max_window_bits=9",
            "permessage-deflate; server_max_window_bits=9",
        ),
        (
            "permessage-deflate; server_max_window_bits=15",
            "permessage-deflate; server_max_window_bits=15",
        ),
        ("permessage-deflate; client_max_window_bits", "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits=15", "permessage-deflate"),
        (
            "permessage-deflate; client_max_window_bits=8",
            "permessage-deflate; client_max_window_bits=8",
        ),
        (
            'permessage-deflate; SERVER_MAX_WINDOW_BITS="10"; client_max_window_bits = "12"',
            "permessage-deflate; client_max_window_bits=12; server_max_window_bits=10",
        ),
    ],
)
def test_a_server_answers_what_is_offered(offers, answer):
    """Each parameter is answered as §7.1 says; a quoted value equals a token."""
    assert answer_to(offers) == answer


MALFORMED = [
    "server_max_window_bits",
    "server_max_window_bits=7",
    "server_max_window_bits=16",
    "server_max_window_bits=010",
    "server_max_window_bits=+9",
    "server_max_window_bits=9.0",
    "client_max_window_bits=7",
    "client_max_window_bits=16",
    "client_max_window_bits=08",
    "server_no_context_takeover=1",
    "client_no_context_takeover=true",
    "server_no_context_takeover; server_no_context_takeover",
    "client_max_window_bits; client_max_window_bits=9",
    "server_max_window_bits=9; SERVER_max_window_bits=9",
    "unknown",
    "unknown=1",
]


@pytest.mark.parametrize("parameters", MALFORMED)
def test_a_malformed_offer_is_declined_and_the_next_one_used(parameters):
    """An offer that breaks a rule is as good as none (§5.1, §7.1)."""
    assert answer_to(f"permessage-deflate; {parameters}") is None
    fallback = "permessage-deflate; server_max_window_bits=12"
    assert answer_to(f"permessage-deflate; {parameters}, {fallback}") == fallback


@pytest.mark.parametrize(
    ("settings", "offers", "answer"),
    [
        (Deflate(), "permessage-deflate", "client_no_context_takeover; server_no_context_takeover"),
        (
            Deflate(client_context_takeover=True),
            "permessage-deflate",
            "server_no_context_takeover",
        ),
        (
            Deflate(server_context_takeover=True),
            "permessage-deflate",
            "client_no_context_takeover",
        ),
    ],
)
def test_a_server_that_takes_nothing_over_says_so(settings, offers, answer):
    """It may ask for both whether they were offered or not (§7.1.1.1, §7.1.1.2)."""
    assert answer_to(offers, settings) == f"permessage-deflate; {answer}"


def test_a_servers_windows_are_the_smaller_of_both():
    """What it sends keeps to both sides' bounds, and what the client sends too (§7.1.2)."""
    settings = Deflate(
        server_context_takeover=True,
        client_context_takeover=True,
        server_max_window_bits=11,
        client_max_window_bits=10,
    )
    offers = "permessage-deflate; client_max_window_bits"
    expected = "permessage-deflate; client_max_window_bits={}; server_max_window_bits={}"

    assert answer_to(offers, settings) == expected.format(10, 11)
    assert answer_to(offers + "=9; server_max_window_bits=8", settings) == expected.format(9, 8)
    assert answer_to(offers + "=12; server_max_window_bits=14", settings) == expected.format(10, 11)


def test_a_client_that_cannot_be_bound_gets_no_compression_from_a_server_that_must():
    """client_max_window_bits "MUST NOT" be answered if it was not offered (§7.1.2.2)."""
    bound = Deflate(client_max_window_bits=12)

    assert answer_to("permessage-deflate", bound) is None
    assert answer_to("permessage-deflate, permessage-deflate; client_max_window_bits", bound)


@pytest.mark.parametrize(
    ("settings", "offer"),
    [
        (FREE, "client_max_window_bits"),
        (
            Deflate(),
            "server_no_context_takeover; client_no_context_takeover; client_max_window_bits",
        ),
        (
            Deflate(
                server_context_takeover=True,
                client_context_takeover=True,
                server_max_window_bits=9,
                client_max_window_bits=10,
            ),
            "server_max_window_bits=9; client_max_window_bits=10",
        ),
    ],
)
def test_a_client_offers_its_settings(settings, offer):
    """An offer asks for what the server must keep to, and no more."""
    assert offer_for(settings) == f"permessage-deflate; {offer}"


@pytest.mark.parametrize(
    ("answer", "settings", "agreed"),
    [
        ("", FREE, {}),
        ("server_no_context_takeover", FREE, {"server_no_context_takeover": True}),
        ("client_no_context_takeover", FREE, {"client_no_context_takeover": True}),
        ("server_max_window_bits=8", FREE, {"server_max_window_bits": 8}),
        ("client_max_window_bits=9", FREE, {"client_max_window_bits": 9}),
        (
            "server_no_context_takeover",
            Deflate(),
            {"server_no_context_takeover": True, "client_no_context_takeover": True},
        ),
        (
            "",
            Deflate(
                server_context_takeover=True,
                client_context_takeover=True,
                client_max_window_bits=10,
            ),
            {"client_max_window_bits": 10},
        ),
    ],
)
def test_a_client_keeps_to_the_answer_and_to_its_settings(answer, settings, agreed):
    """What the server answers holds, and what the client can settle by itself."""
    text = f"permessage-deflate; {answer}".rstrip("; ")

    assert judge_answer(text, [settings]) == (settings, DeflateParameters(**agreed))


@pytest.mark.parametrize(
    "text",
    [
        "permessage-deflate, permessage-deflate",
        "permessage-deflate, x-other",
        "x-other",
        "permessage-deflate; client_max_window_bits",
        *(
            f"permessage-deflate; {one}"
            for one in MALFORMED
            if "client_max_window_bits;" not in one
        ),
        "permessage-deflate;;",
        "",
    ],
)
def test_a_client_refuses_a_malformed_answer(text):
    """The client "MUST _Fail the WebSocket Connection_" (§5.1, §7.1)."""
    with pytest.raises(InvalidHandshake, match="extension"):
        judge_answer(text, [FREE])


@pytest.mark.parametrize(
    ("answer", "settings"),
    [
        ("permessage-deflate", Deflate()),
        ("permessage-deflate", Deflate(server_context_takeover=True, server_max_window_bits=9)),
        (
            "permessage-deflate; server_max_window_bits=10",
            Deflate(server_context_takeover=True, server_max_window_bits=9),
        ),
        (
            "permessage-deflate; client_max_window_bits=11",
            Deflate(server_context_takeover=True, client_max_window_bits=10),
        ),
    ],
)
def test_a_client_refuses_an_answer_that_grants_not_what_it_offered(answer, settings):
    """The server must keep to what the offer asks for, and may ask for no more than that."""
    with pytest.raises(InvalidHandshake, match="not offered"):
        judge_answer(answer, [settings])


def test_a_client_finds_the_offer_that_is_answered():
    """Of several offers the first that the answer fits is the one."""
    small = Deflate(server_context_takeover=True, server_max_window_bits=9)

    assert judge_answer("permessage-deflate; server_max_window_bits=9", [small, FREE])[0] is small
    assert judge_answer("permessage-deflate", [small, FREE])[0] is FREE


def test_a_client_that_offers_nothing_refuses_any_extension():
    """An extension that was not requested fails the handshake (RFC 6455 §4.1)."""
    with pytest.raises(InvalidHandshake, match="not requested"):
        judge_answer("permessage-deflate", [])


def shake(server, offers):
    """A handshake between a server's settings and a client's offers."""
    client = ClientHandshake("h", "/", key=bytes(16), limits=Limits(), deflate=offers)
    handshake = ServerHandshake(Limits(), deflate=server)
    handshake.receive(client.request_octets())
    client.receive(handshake.accept())
    return handshake, client


@pytest.mark.parametrize("server", [None, Deflate(), FREE, Deflate(server_max_window_bits=9)])
@pytest.mark.parametrize("offers", [(), (FREE,), (Deflate(client_max_window_bits=8), FREE)])
def test_both_sides_agree(server, offers):
    """What the server agrees to is what the client understands, or there is no extension."""
    handshake, client = shake(server, offers)

    if server is None or not offers:
        assert handshake.deflate is client.deflate is None
        assert "sec-websocket-extensions" not in client.response.headers
    else:
        assert client.deflate[1] == handshake.deflate


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("level", 0),
        ("level", 10),
        ("memory_level", 0),
        ("server_max_window_bits", 7),
        ("client_max_window_bits", 16),
        ("threshold", -1),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    """A setting that zlib or the RFC does not know is a ValueError at once."""
    with pytest.raises(ValueError, match=name):
        Deflate(**{name: value})
