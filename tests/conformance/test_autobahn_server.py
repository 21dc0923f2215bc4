"""Autobahn's cases, section by section, against the echo server of the command line."""

from pathlib import Path

import pytest

from tests.conformance.autobahn import (
    ALL_DEFLATE,
    APIS,
    CORE,
    DEFLATE,
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
    examine(driver, selection, tmp_path)


@pytest.mark.timeout(450)
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    "selection",
    [
        pytest.param(DEFLATE, id="deflate"),
        pytest.param(ALL_DEFLATE, id="all-deflate", marks=pytest.mark.slow),
    ],
)
def test_autobahn_server_deflates(driver: str, selection: Selection, tmp_path: Path):
    """So does every case of compression."""
    examine(driver, selection, tmp_path)


def examine(driver: str, selection: Selection, tmp_path: Path) -> None:
    """Run a selection, and find nothing wrong."""
    options = ["--deflate"] if selection.deflate else []
    with running([*server_command(driver), *options]) as testee:
        verdicts = drive_server(testee.address, selection, tmp_path / "report")

    offences = find_offences(verdicts, selection)
    assert not offences, "\n".join(["", *offences])
    assert len(verdicts) == selection.size
