"""Autobahn's cases, section by section, against a client that sends back what it receives."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conformance.autobahn import (
    DEFLATE_SELECTIONS,
    SELECTIONS,
    Selection,
    _read_line,
    expect_success,
    read_report,
)
from tests.conformance.transports import DRIVERS

ROOT = Path(__file__).parents[2]
LISTENING = "fuzzingserver listening on ws://"


@contextmanager
def suite(selection: Selection, report: Path) -> Iterator[str]:
    """Run the suite as a server; gives HOST:PORT, and waits for the report in the end."""
    kosoku = str(Path(sys.executable).parent / "kosoku")
    options = [*selection.arguments[:-2], "-o", str(report)]  # one side sets the parallelism
    command = [kosoku, "-m", "fuzzingserver", *options, "127.0.0.1:0"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        line = _read_line(process.stderr.readline, 30)
        assert line.startswith(LISTENING), line
        yield line.removeprefix(LISTENING).strip()
        process.wait(30)
    finally:
        process.kill()
        process.wait(10)
        process.stderr.close()


@pytest.mark.parametrize("driver", DRIVERS)
@SELECTIONS
def test_autobahn_client(driver: str, selection: Selection, tmp_path: Path):
    """Every case of the selection passes, and every connection closes cleanly."""
    examine(driver, selection, tmp_path)


@pytest.mark.parametrize("driver", DRIVERS)
@DEFLATE_SELECTIONS
def test_autobahn_client_deflates(driver: str, selection: Selection, tmp_path: Path):
    """So does every case of compression."""
    examine(driver, selection, tmp_path)


def examine(driver: str, selection: Selection, tmp_path: Path) -> None:
    """Run a selection, and find nothing wrong."""
    report = tmp_path / "report"
    module = "tests.conformance.testee_client"
    with suite(selection, report) as address:
        command = [sys.executable, "-m", module, address, str(selection.parallelism), driver]
        command += ["deflate"] if selection.deflate else []
        subprocess.run(command, cwd=ROOT, timeout=selection.timeout, check=True)

    verdicts = read_report(report)
    expect_success(verdicts, selection)
