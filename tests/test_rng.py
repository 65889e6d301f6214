"""Counted random streams: golden values, because old runs resume by them."""

import pytest

from edp_lightning.runs.rng import stream_seed


@pytest.mark.parametrize(
    ("arguments", "seed"),
    [((0, "batches", 0), 2_917_590_999), ((0, "noise", 5), 1_430_434_266), ((7, "replay", 1), 1_754_678_087)],
)
def test_a_stream_stays_what_it_was(arguments, seed):
    assert stream_seed(*arguments) == seed


def test_draws_of_one_stream_never_meet_and_streams_and_seeds_differ():
    start = stream_seed(3, "batches", 0)
    assert [(stream_seed(3, "batches", index) - start) % 2**32 for index in range(1000)] == list(range(1000))
    offsets = {stream_seed(seed, stream, 0) for seed in range(20) for stream in ("batches", "noise", "replay", "decision")}
    assert len(offsets) == 80
