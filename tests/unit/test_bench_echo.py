"""The echo bench's arithmetic."""

import numpy as np
import pytest
from bench_echo import Sample, difference, ratio


def sample(cpu_us: float) -> Sample:
    """Build a sample of which only the CPU time matters."""
    return Sample(
        cpu_us=cpu_us, rate=1, p50_us=1, p99_us=1, server_share=1, server_wait=0, generator_share=1
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
