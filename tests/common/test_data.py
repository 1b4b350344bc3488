import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import EpochOrder, InOrder


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 50), st.integers(1, 9), st.integers(0, 3), st.integers(0, 5))
def test_an_epoch_holds_every_sample_once(num_samples, batch_size, seed, epoch):
    order = EpochOrder(num_samples, batch_size, seed)
    order.set_epoch(epoch)
    batches = list(order)
    assert sorted(np.concatenate(batches)) == list(range(num_samples))
    assert len(batches) == len(EpochOrder(num_samples, batch_size, seed))


def test_order_depends_on_seed_and_epoch_only():
    def first(seed, epoch):
        order = EpochOrder(100, 10, seed)
        order.set_epoch(epoch)
        return next(iter(order)).tolist()

    assert first(0, 0) == first(0, 0)
    assert first(0, 0) != first(0, 1)
    assert first(0, 0) != first(1, 0)


def test_a_resumed_epoch_continues_and_the_next_is_whole():
    order, whole = EpochOrder(20, 3, seed=5), EpochOrder(20, 3, seed=5)
    order.start_at(2, skip=4)
    whole.set_epoch(2)
    assert [batch.tolist() for batch in order] == [batch.tolist() for batch in whole][4:]
    order.set_epoch(3)
    assert len(list(order)) == len(order) == 7


def test_weighted_orders_draw_as_told_and_continue_as_well():
    weights = np.array([0.0, 0.75, 0.25])
    drawn = np.concatenate([np.concatenate(list(EpochOrder(3, 2, seed, weights=weights))) for seed in range(400)])
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), weights, atol=0.05)
    weights = np.full(20, 0.05)
    order, whole = (EpochOrder(20, 3, seed=5, weights=weights) for _ in range(2))
    order.start_at(2, skip=4)
    whole.set_epoch(2)
    assert [batch.tolist() for batch in order] == [batch.tolist() for batch in whole][4:]


@pytest.mark.parametrize("num_samples", [40, 42])
def test_processes_share_the_batches_of_one_process_with_the_same_global_batch(num_samples):
    alone = [sorted(batch) for batch in EpochOrder(num_samples, 8, seed=1)]
    parts = [list(EpochOrder(num_samples, 4, seed=1, rank=rank, world_size=2)) for rank in range(2)]
    together = [sorted(np.concatenate(pair)) for pair in zip(*parts, strict=True)]
    assert together == alone
    assert all(len(one) == len(other) for one, other in zip(*parts, strict=True))


def test_in_order_gives_all_in_order():
    assert np.concatenate(list(InOrder(10, 4))).tolist() == list(range(10))
    assert len(InOrder(10, 4)) == 3
