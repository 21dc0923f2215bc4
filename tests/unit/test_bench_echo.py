"""The echo bench's arithmetic."""

import json
import os

import numpy as np
import pytest
from bench_echo import (
    COMMANDS,
    GENERATOR_CORE,
    SERVER_CORE,
    Sample,
    difference,
    main,
    ratio,
)

from triows._kernels._registry import JIT

CORES = {SERVER_CORE, GENERATOR_CORE}


def sample(cpu_us: float, share: float = 1.0, wait: float = 0.0, own_us: float = 1.0) -> Sample:
    """Build a sample of which only what is given matters."""
    return Sample(
        cpu_us=cpu_us,
        rate=1,
        p50_us=1,
        p99_us=1,
        server_share=share,
        server_wait=wait,
        generator_share=1,
        generator_us=own_us,
    )


def test_a_thread_that_ends_takes_nothing_away() -> None:
    """What other threads spent is counted in full when one ends between two readings."""
    before = {"1": np.array([5.0, 1.0]), "2": np.array([100.0, 2.0])}
    after = {"1": np.array([6.0, 1.5])}

    assert difference(after, before).tolist() == [1.0, 0.5]


def test_a_new_thread_counts_from_its_start() -> None:
    """A thread that began between two readings is counted from nought."""
    after = {"1": np.array([6.0, 1.5])}

    assert difference(after, {}).tolist() == [6.0, 1.5]


def test_the_ratio_pairs_what_was_measured_together() -> None:
    """A machine that is twice as slow in one round does not move the ratio."""
    ours = [sample(10), sample(20), sample(10)]
    peer = [sample(20), sample(40), sample(20)]

    assert ratio(ours, peer) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("share", "wait", "own_us", "doubts"),
    [
        (0.90, 0.00, 3.9, []),
        (0.60, 0.35, 3.9, []),  # another program had the server's core
        (0.89, 0.00, 3.9, ["not saturated"]),
        (0.95, 0.00, 4.0, ["not outrun"]),
        (0.50, 0.00, 9.0, ["not saturated", "not outrun"]),
    ],
)
def test_rows_that_measure_the_generator_are_flagged(share, wait, own_us, doubts) -> None:
    """A server that waited for traffic, or could not be kept busy, has its row flagged."""
    assert sample(4.0, share, wait, own_us).doubts == doubts


@pytest.mark.skipif(not JIT, reason="the generator calls libc, which only compiled code can")
@pytest.mark.skipif(not os.sched_getaffinity(0) >= CORES, reason="the bench needs two cores")
def test_the_reactor_and_the_engine_are_measured(tmp_path, capsys) -> None:
    """The bench starts both drivers of the reactor and the engine, and keeps what it saw."""
    names = ["triows-compiled", "triows-inline", "engine-over-socket"]
    output = tmp_path / "results.json"

    main(
        f"--servers {','.join(names)} --shapes 2/20x3 --seconds 0.1 --rounds 1"
        f" --output {output}".split()
    )

    assert set(names) <= set(COMMANDS)
    results = json.loads(output.read_text())
    (table,) = results["shapes"]
    assert (table["shape"], list(table["servers"])) == ("2/20x3", names)
    for row in (*table["servers"].values(), *results["a_a"]["servers"].values()):
        assert len(row["samples"]) == 1
        assert row["median"]["rate"] > 0
        assert 0 < row["median"]["p50_us"] <= row["median"]["p99_us"]
        assert row["median"]["cpu_us"] > 0
    assert "A/A, the first server against itself" in capsys.readouterr().out
