import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from ssmo.data.series import (
    ETT_CHANNELS,
    CsvSeries,
    GappyWindows,
    SyntheticSeries,
    Windows,
    draw_blocks,
    fill_forward,
    read_table,
    simulate_series,
)

COMMON = {"seed": 0, "batch_size": 4, "num_workers": 0, "data_seed": 0, "months": [1, 2]}


def synthetic(condition="clean", strength=None, **changed):
    settings = {"input_length": 24, "horizon": 12, "num_steps": 1000} | changed
    data = SyntheticSeries(condition=condition, strength=strength, **(COMMON | settings))
    data.setup()
    return data


def csv(path, split="auto", condition="clean", strength=None, **changed):
    settings = COMMON | {"input_length": 96, "horizon": 96} | changed
    data = CsvSeries(condition=condition, strength=strength, path=str(path), split=split, data_dir=None, **settings)
    data.setup()
    return data


def write_table(path: Path, values: np.ndarray, frequency: str, channels: list[str]) -> Path:
    dates = pd.date_range("2016-07-01", periods=len(values), freq=frequency)
    pd.DataFrame(values, dates, channels).rename_axis("date").to_csv(path)
    return path


@pytest.fixture(scope="module")
def ett_like(tmp_path_factory):
    values = np.random.default_rng(0).normal(5, 3, (17_420, 7)).round(2)
    return write_table(tmp_path_factory.mktemp("ett") / "ETTh1.csv", values, "h", ETT_CHANNELS), values


def test_ett_has_the_published_numbers_of_windows(ett_like):
    data = csv(ett_like[0])
    assert {split: len(samples) for split, samples in data.splits.items()} == {"train": 8449, "val": 2785, "test": 2785}
    assert data.facts["num_channels"] == 7
    assert data.dataset == "etth1"
    assert data.data_source == "real"


def test_ett_is_standardised_by_its_first_8640_rows_and_population_deviation(ett_like):
    path, values = ett_like
    batch = csv(path).dataset_of("test")[np.array([0, 2784])]
    expected = (values - values[:8640].mean(0)) / values[:8640].std(0)
    np.testing.assert_allclose(batch.x[0], expected[11520 - 96 : 11520], atol=1e-5)
    np.testing.assert_allclose(batch.targets[0][1], expected[14400 - 96 : 14400], atol=1e-5)


@pytest.mark.slow
def test_quarter_hours_make_ett_four_times_as_long(tmp_path):
    path = write_table(tmp_path / "m.csv", np.random.default_rng(0).normal(size=(57_600, 1)), "15min", ["a"])
    assert [len(each) for each in csv(path, "ett").splits.values()] == [34_560 - 191, 11_520 - 95, 11_520 - 95]


def test_other_files_are_split_70_10_20(tmp_path):
    path = tmp_path / "rates.txt"
    np.savetxt(path, np.random.default_rng(0).normal(size=(1005, 3)), delimiter=",")
    data = csv(path, input_length=10, horizon=5)
    assert [len(each) for each in data.splits.values()] == [703 - 14, 101 - 4, 201 - 4]
    assert data.facts["channels"] == ["channel_0", "channel_1", "channel_2"]


def test_targets_of_a_split_follow_its_border_and_no_input_sees_its_targets():
    values = np.arange(1000.0)[:, None]
    data = synthetic()
    for split, begin, end in (("train", 24, 700), ("val", 700, 800), ("test", 800, 1000)):
        x, y = data.splits[split].x, data.splits[split].y
        assert (y.start[0], y.start[-1] + 12) == (begin, end)
        times = Windows(values, x.start, 24)[np.arange(len(x))][..., -1, 0]
        assert np.array_equal(times + 1, y.start)


def test_temporal_shift_trains_on_the_first_rows_and_keeps_the_unit():
    clean, shifted = synthetic(), synthetic("temporal_shift", 0.5)
    assert shifted.splits["train"].y.start[-1] + 12 == 350
    assert np.array_equal(shifted.splits["test"].y[np.arange(5)], clean.splits["test"].y[np.arange(5)])


def test_sub_period_trains_on_targets_of_its_months_only():
    start = synthetic("sub_period", months=[1], num_steps=1500).splits["train"].y.start
    assert start[0] == 24
    assert start[-1] == 31 * 24 - 1
    assert len(start) == 31 * 24 - 24
    with pytest.raises(UserError, match="train split has no window"):
        synthetic("sub_period", months=[7])


def test_values_are_filled_with_the_last_seen_or_zero():
    window = np.array([[[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [4.0, 8.0]]], np.float32)
    missing = np.array([[[True, False], [False, True], [True, True], [True, False]]])
    assert fill_forward(window, missing).tolist() == [[[0, 5], [2, 5], [2, 5], [2, 8]]]


@pytest.mark.parametrize("condition", ["missing", "missing_blocks"])
def test_missing_changes_inputs_of_all_splits_and_no_target(condition):
    clean, gappy = synthetic(), synthetic(condition, 0.3)
    for split in ("train", "val", "test"):
        index = np.arange(len(clean.splits[split]))
        assert 0.1 < (clean.splits[split].x[index] != gappy.splits[split].x[index]).mean() <= 0.4
        assert np.array_equal(clean.splits[split].y[index], gappy.splits[split].y[index])
    assert clean.fingerprint != gappy.fingerprint


def test_what_is_missing_depends_on_the_number_of_the_window_alone():
    windows = synthetic("missing_blocks").splits["train"].x
    assert np.array_equal(windows[np.array([7, 3, 50])][1], windows[np.array([3])][0])
    ones = GappyWindows(np.ones((40, 2), np.float32), np.zeros(2, np.int64), 40, 0.3, False, [0])
    assert not np.array_equal(*ones[np.array([0, 1])])


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.6])
def test_blocks_cover_their_share_in_runs_of_six_or_more(rate):
    missing = draw_blocks((96, 4000), rate, np.random.default_rng(0))
    assert missing.mean() == pytest.approx(rate, abs=0.01)
    assert missing[:6].mean() == pytest.approx(missing[-6:].mean(), abs=0.02)
    edges = np.diff(missing[:, :200].astype(int), axis=0, prepend=2, append=2)
    for column in range(200):
        begins, ends = (np.flatnonzero(edges[:, column] == sign) for sign in (1, -1))
        inner = [(a, ends[ends > a][0]) for a in begins if (ends > a).any() and ends[ends > a][0] < 96]
        assert all(b - a >= 6 for a, b in inner if a > 0)


def test_weak_labels_add_noise_to_the_targets_of_slot_two_only():
    data = synthetic("weak_labels", 0.5)
    train, every = data.splits["train"], np.arange(len(data.splits["train"]))
    noise = train.y_weak - train.y[every]
    assert noise.std() == pytest.approx(0.5 * train.y[every].std(), rel=0.02)
    assert data.splits["val"].y_weak is None
    batch = data.dataset_of("train")[np.array([0, 1])]
    assert not np.array_equal(*batch.targets)
    assert batch.targets[1].dtype == batch.targets[0].dtype


def test_weak_data_tells_slot_two_the_truth_of_its_share():
    assert synthetic("weak_data", 0.25).splits["train"].taught_weak.mean() == pytest.approx(0.25, abs=0.002)


def test_simulated_series_repeats_every_day_and_reaches_a_lagged_channel():
    values = simulate_series(4000, np.random.default_rng(0))
    assert values.shape == (4000, 7)
    for each in values.T:
        assert np.corrcoef(each[:-24], each[24:])[0, 1] > np.corrcoef(each[:-12], each[12:])[0, 1]
    days = values[24:] - values[:-24]  # without the daily rhythm
    for source, target, lag, other in ((0, 1, 6, 1), (2, 3, 24, 23)):
        at_lag, beside = (np.corrcoef(days[:-each, source], days[each:, target])[0, 1] for each in (lag, other))
        assert abs(at_lag) > 0.3
        assert abs(at_lag) > abs(beside)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("date,a\n2020-01-01,1\n2020-01-02,x\n", "row 3, column a: x is no finite number"),
        ("date,a\n2020-01-01,1\n2020-01-02,\n", "row 3, column a: nan is no finite number"),
        ("date,a\n2020-01-02,1\n2020-01-01,2\n", "row 3, column date: 2020-01-01 is no date, or earlier"),
        ("date,a\nmonday,1\n", "row 2, column date: monday is no date"),
        ("1,2\n3\n", "row 2, column 1: nan is no finite number"),
        ("date\n2020-01-01\n", "has no values"),
        ("", "is no CSV table"),
        ("date,a\n2020-01-01,1\n2020-01-01,1,2\n", "is no CSV table"),
        ("date,a\n2020-01-01,1,2\n", "row 2 has more values than the header"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_table(tmp_path / "bad.csv")
    assert "bad.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_that_cannot_be_met_are_refused(tmp_path):
    with pytest.raises(UserError, match="no share for missing"):
        synthetic("missing", 1.0)
    with pytest.raises(UserError, match="val split has no window"):
        synthetic(num_steps=60)
    with pytest.raises(UserError, match="nothing at"):
        csv(tmp_path / "absent.csv")
    np.savetxt(tmp_path / "plain.txt", np.zeros((300, 2)), delimiter=",")
    with pytest.raises(UserError, match="has no dates, as split=ett needs"):
        csv(tmp_path / "plain.txt", "ett")
    with pytest.raises(UserError, match="has no dates, as condition=sub_period needs"):
        csv(tmp_path / "plain.txt", condition="sub_period", input_length=5, horizon=5)
    with pytest.raises(UserError, match="no 20 months of 720 rows"):
        csv(write_table(tmp_path / "short.csv", np.zeros((500, 1)), "h", ["a"]), "ett")


def test_a_constant_channel_stays_finite(tmp_path):
    np.savetxt(tmp_path / "flat.txt", np.ones((300, 2)), delimiter=",")
    data = csv(tmp_path / "flat.txt", input_length=5, horizon=5)
    assert not data.splits["train"].y[np.arange(10)].any()


@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="DATA_DIR is not set")
@pytest.mark.parametrize(
    ("name", "counts", "channels"),
    [("ett/ETTh1.csv", [8449, 2785, 2785], 7), ("ltsf/exchange_rate.txt", [5311 - 191, 760 - 95, 1517 - 95], 8)],
)
def test_real_series_have_their_windows(name, counts, channels):
    path = Path(os.environ["DATA_DIR"]) / "ssmo" / name
    if not path.exists():
        pytest.skip(f"{name} is not there")
    data = csv(path)
    assert [len(each) for each in data.splits.values()] == counts
    assert data.facts["num_channels"] == channels
