"""The closing handshake as a table."""

import runpy
from pathlib import Path

import pytest

from triows._engine import TRANSITIONS, Input, Phase

DOCS = Path(__file__).parents[2] / "docs"


def test_every_phase_knows_every_input():
    """The table is total."""
    assert set(TRANSITIONS) == set(Phase)
    assert all(set(inputs) == set(Input) for inputs in TRANSITIONS.values())


def test_only_an_open_connection_sends_a_close():
    """At most one Close is ever sent: on leaving the phase in which none was (§5.5.1)."""
    for phase, inputs in TRANSITIONS.items():
        for transition in inputs.values():
            if transition.sends_close:
                assert phase is Phase.OPEN
                assert transition.phase is not Phase.OPEN


def test_there_is_no_way_back():
    """Each transition stays or leads on; nothing leads out of the last phase."""
    order = list(Phase)
    for phase, inputs in TRANSITIONS.items():
        for transition in inputs.values():
            assert order.index(transition.phase) >= order.index(phase)


@pytest.mark.parametrize("cause", [Input.END, Input.TIMEOUT])
@pytest.mark.parametrize("phase", Phase)
def test_every_phase_can_end(phase, cause):
    """The end of the transport, or of patience, is the end in every phase."""
    assert TRANSITIONS[phase][cause].phase is Phase.GONE


def test_the_diagram_is_the_tables():
    """The page's diagram is what `docs/closing_diagram.py` makes of the table."""
    render = runpy.run_path(str(DOCS / "closing_diagram.py"))["render"]

    assert render() in (DOCS / "explanation" / "closing.md").read_text()
