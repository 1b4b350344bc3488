"""Schedules fall from 1 to their floor over the epochs after the warm-up."""

import pytest

from common.schedules import cosine, exponential, stairs


def test_exponential_falls_by_the_same_factor_every_epoch():
    assert [exponential(epoch, 4, floor=0.0001) for epoch in range(5)] == pytest.approx([1, 0.1, 0.01, 0.001, 0.0001])


def test_stairs_are_three_equal_steps():
    factors = [stairs(epoch, 6, floor=0.01) for epoch in range(7)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.01])


@pytest.mark.parametrize("schedule", [exponential, stairs])
def test_the_warm_up_is_that_of_cosine_and_the_fall_begins_after_it(schedule):
    assert schedule(1.0, 6, warmup_epochs=2) == cosine(1.0, 6, warmup_epochs=2)
    assert schedule(2.0, 6, warmup_epochs=2) == 1.0
