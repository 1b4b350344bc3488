"""From source to batches: splits, facts, fingerprints, subsets and the view."""

import os

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from common.config import compose
from common.errors import UserError
from lasps.data.module import LaspsDataModule

TINY = ["data.stocks_per_sector=1", "data.start=2022-01-03", "data.end=2024-06-28",
        "data.split.val_start=2023-08-01", "data.split.test_start=2024-01-02"]  # fmt: skip


def load(*words: str) -> LaspsDataModule:
    data = instantiate(compose("lasps_phase1", words).data, _convert_="all")
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def tiny() -> LaspsDataModule:
    return load(*TINY)


def test_splits_are_disjoint_in_time_and_no_label_reaches_into_the_next(tiny):
    train, val, test = (tiny.datasets[name] for name in ("train", "val", "test"))
    assert train.label_end.max() < val.date.min()
    assert val.label_end.max() < test.date.min()
    rows = [set(zip(data.codes, data.date.astype(str), strict=True)) for data in (train, val, test)]
    assert not rows[0] & rows[1]
    assert not rows[1] & rows[2]
    assert [len(each) for each in rows] == [len(data) for data in (train, val, test)]


def test_facts_tell_the_model_what_it_must_know(tiny):
    labels = tiny.datasets["train"].labels
    assert tiny.facts["num_sectors"] == 13
    assert tiny.facts["class_counts"] == [int((labels == label).sum()) for label in range(3)]
    assert tiny.facts["class_weights"] == pytest.approx([0.5 * len(labels) / n for n in tiny.facts["class_counts"]])
    assert tiny.facts["num_samples"]["test"] == len(tiny.datasets["test"])


def test_twenty_sectors_give_a_network_of_twenty_heads():
    assert load(*TINY, "data.num_sectors=20").facts["num_sectors"] == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        "data.market_seed=1", "data.signal=0.5", "data.windowing.threshold=0.02", "data.windowing.stride=9",
        "data.split.embargo=9", "data.view.charts.size=61", "data.view.charts.bollinger=true",
        "data.view.normalise._target_=lasps.normalise.SharedPriceScale",
    ],
)  # fmt: skip
def test_whatever_changes_the_tensors_changes_the_fingerprint(tiny, change):
    assert load(*TINY, change).fingerprint != tiny.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("same", ["data.batch_size=7", "seed=5", "data.num_workers=0"])
def test_what_leaves_the_tensors_alone_leaves_the_fingerprint(tiny, same):
    assert load(*TINY, same).fingerprint == tiny.fingerprint


def test_sector_subsets_hold_the_samples_of_their_sector(tiny):
    dataset = tiny.datasets["train"]
    indices = dataset.get_sector_indices(3)
    subset = dataset.get_sector_subset(3)
    assert np.array_equal(indices, np.where(dataset.sector_ids == 3)[0])
    assert subset.sector_id == 3
    assert len(subset) == len(indices)
    assert torch.equal(subset[0].series, dataset[int(indices[0])].series)
    assert sum(len(dataset.get_sector_subset(sector)) for sector in range(13)) == len(dataset)


def test_a_batch_holds_the_sixty_rows_that_end_at_t(tiny):
    dataset = tiny.datasets["val"]
    batch = dataset[np.array([0, 5])]
    assert batch.series.shape == (2, 60, 28)
    assert np.array_equal(batch.series[1, -1].numpy(), dataset.features[dataset.end_row[5]])
    assert np.array_equal(batch.series[1, 0].numpy(), dataset.features[dataset.end_row[5] - 59])


def test_a_window_looks_the_same_in_any_batch(tiny):
    dataset = tiny.datasets["val"]
    together = tiny.view(dataset[np.arange(8)], draw=True)
    alone = tiny.view(dataset[np.array([5])], draw=True)
    assert torch.equal(together.series[5], alone.series[0])
    assert torch.equal(together.chart[5], alone.chart[0])


@pytest.mark.slow
def test_fitted_scaling_sees_training_windows_only():
    words = [*TINY, "data.view.normalise._target_=lasps.normalise.Relative"]
    short, long = load(*words, "data.end=2024-03-29"), load(*words)
    assert torch.equal(short.view.normalise.mean, long.view.normalise.mean)
    assert len(short.datasets["test"]) < len(long.datasets["test"])


def test_a_split_without_windows_is_one_line():
    with pytest.raises(UserError, match=r"split"):
        load(*TINY[:3], "data.split.val_start=2024-06-24", "data.split.test_start=2024-06-25")


@pytest.mark.slow
def test_the_american_sample_loads():
    data = load("data=lasps/us_sample")
    assert data.data_source == "real"
    assert data.facts["num_sectors"] == 3
    assert set(data.datasets["train"].codes) >= {"AAPL", "IBM", "MSFT"}


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="needs DATA_DIR with krx/")
def test_korean_files_load():
    words = ["data=lasps/krx", "data.path=krx/kospi200_2015_2020.parquet", "data.sectors=krx/sectors_2018.csv"]
    data = load(*words)
    shares = np.array(data.facts["class_counts"]) / sum(data.facts["class_counts"])
    assert shares == pytest.approx([0.23, 0.55, 0.22], abs=0.03)
    assert data.facts["counts"]["unknown_sector_issues"] == 1
