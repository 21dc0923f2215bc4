"""What is tested over the stream driver and not over the reactor, each with its reason.

Every other test that starts a server by the fixture ``serve`` runs over both. Where the
subject concerns the reactor too, tests/hostile/test_reactor.py and
tests/unit/test_turn.py look at it in their own ways.
"""

HANDLER = "has a handler that is a task of Python, and the one over the reactor is compiled"
CLOCK = "takes minutes, or a moment that stands still, and the reactor's clock is the machine's"
TRACED = "weighs 60,000 octets, which only Python's own allocator tells from nothing"
TLS = "goes over TLS, which the stream driver takes"

NOT_OVER_THE_REACTOR = {
    "test_a_handler_that_lets_the_channel_break_is_no_error": HANDLER,
    "test_a_handler_that_returns_closes_with_1000": HANDLER,
    "test_item_11_a_message_in_pieces_takes_no_more_than_twice_the_memory": TRACED,
    "test_item_13_a_bad_frame_fails_its_connection_alone": HANDLER,
    "test_item_18_the_handler_sees_the_code_of_the_peer": HANDLER,
    "test_item_1_a_thousand_dribblers_are_dropped_and_delay_no_one": CLOCK,
    "test_item_20_a_half_open_peer_is_dropped_by_keepalive": HANDLER,
    "test_item_20_a_peer_that_answers_pings_stays": CLOCK,
    "test_item_20_any_octet_is_a_sign_of_life": CLOCK,
    "test_item_20_both_close_at_once": HANDLER,
    "test_item_21_a_half_close_delivers_what_came_before": HANDLER,
    "test_item_21_tls_cut_without_close_notify_is_abnormal": TLS,
    "test_item_22_a_peer_that_stops_reading_blocks_its_own_sender_only": HANDLER,
    "test_item_29_cancelled_sends_leave_the_stream_whole": HANDLER,
    "test_item_30_a_handler_that_raises_closes_its_own_connection": HANDLER,
    "test_item_30_a_hundred_that_raise_among_a_thousand_that_echo": HANDLER,
    "test_item_30_what_ended_a_handler_is_let_go_of": HANDLER,
    "test_item_45_a_closing_server_still_waits_for_the_answer": HANDLER,
    "test_item_46_what_was_sent_before_a_half_close_is_delivered": HANDLER,
    "test_item_47_a_peer_that_ignores_our_close_is_dropped": HANDLER,
}
