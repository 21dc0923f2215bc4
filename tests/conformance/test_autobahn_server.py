"""Autobahn's cases, section by section, against the echo server of the command line."""

from pathlib import Path

import pytest

from tests.conformance.autobahn import (
    APIS,
    CORE,
    LARGE,
    Selection,
    drive_server,
    find_offences,
    running,
    server_command,
)
from tests.conformance.transports import DRIVERS


@pytest.mark.timeout(180)
@pytest.mark.parametrize("driver", [*DRIVERS, *APIS])
@pytest.mark.parametrize(
    "selection", [pytest.param(CORE, id="core"), pytest.param(LARGE, id="large")]
)
def test_autobahn_server(driver: str, selection: Selection, tmp_path: Path):
    """Every case of the selection passes, and every connection closes cleanly."""
    with running(server_command(driver)) as testee:
        verdicts = drive_server(testee.address, selection, tmp_path / "report")

    offences = find_offences(verdicts, selection)
    assert not offences, "\n".join(["", *offences])
    assert len(verdicts) == selection.size
