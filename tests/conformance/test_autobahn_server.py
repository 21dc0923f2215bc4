"""Autobahn's cases, section by section, against the echo server of the command line."""

from pathlib import Path

import pytest

from tests.conformance.autobahn import (
    APIS,
    DEFLATE_SELECTIONS,
    SELECTIONS,
    Selection,
    drive_server,
    expect_success,
    running,
    server_command,
)
from tests.conformance.transports import DRIVERS


@pytest.mark.parametrize("driver", [*DRIVERS, *APIS])
@SELECTIONS
def test_autobahn_server(driver: str, selection: Selection, tmp_path: Path):
    """Every case of the selection passes, and every connection closes cleanly."""
    examine(driver, selection, tmp_path)


@pytest.mark.parametrize("driver", DRIVERS)
@DEFLATE_SELECTIONS
def test_autobahn_server_deflates(driver: str, selection: Selection, tmp_path: Path):
    """So does every case of compression."""
    examine(driver, selection, tmp_path)


def examine(driver: str, selection: Selection, tmp_path: Path) -> None:
    """Run a selection, and find nothing wrong."""
    options = ["--deflate"] if selection.deflate else []
    with running([*server_command(driver), *options]) as testee:
        verdicts = drive_server(testee.address, selection, tmp_path / "report")

    expect_success(verdicts, selection)
