"""The array format of the specification, section 5: every check, both versions, all ways to store charts."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from common.errors import UserError
from lasps.data.arrays import IMAGE_SHAPE, ArrayDataset, identity, purge, read_arrays
from lasps.data.sectors import LASPS13

N = 6
STARTS = {"train": "2022-01-03", "val": "2023-01-02", "test": "2024-01-02"}


@pytest.fixture
def folder(tmp_path):
    """Three splits of six windows, 28 features, drawn charts."""
    rng = np.random.default_rng(0)
    LASPS13.save(tmp_path / "sectors.json")
    for name, start in STARTS.items():
        split = tmp_path / name
        split.mkdir()
        np.save(split / "time_series.npy", rng.normal(size=(N, 60, 28)).astype(np.float32))
        np.save(split / "labels.npy", np.arange(N) % 3)
        np.save(split / "sector_ids.npy", np.arange(N) % 13)
        dates = pd.bdate_range(start, periods=N).strftime("%Y-%m-%d")
        meta = pd.DataFrame({"stock_code": "005930", "date": dates, "chart_idx": range(N)})
        meta.to_csv(split / "metadata.csv", index=False)
    return tmp_path


def change(path, edit):
    array = np.load(path)
    array = edit(array)
    np.save(path, array)


def rewrite(folder, **columns):
    path = folder / "train" / "metadata.csv"
    pd.read_csv(path, dtype=str).assign(**columns).to_csv(path, index=False)


def put(index, value):
    def edit(array):
        array[index] = value
        return array

    return edit


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("labels.npy", put(4, 3), r"labels\.npy row 4: 3 is not in 0…2"),
        ("labels.npy", put(2, -1), r"labels\.npy row 2: -1 is not in 0…2"),
        ("labels.npy", lambda array: array.astype(float), r"labels\.npy: shape \(6,\) of float64, expected"),
        ("sector_ids.npy", put(1, 13), r"sector_ids\.npy row 1: 13 is not in 0…12; sectors\.json names 13"),
        ("sector_ids.npy", lambda array: array[:-1], r"sector_ids\.npy: 5 samples, labels\.npy has 6"),
        ("time_series.npy", lambda array: array[:-2], r"time_series\.npy: 4 samples, labels\.npy has 6"),
        ("time_series.npy", put((3, 7, 9), np.nan), r"time_series\.npy row 3, session 7, column 9: nan is not finite"),
        ("time_series.npy", put((0, 0, 0), np.inf), r"row 0, session 0, column 0: inf is not finite"),
        ("time_series.npy", lambda array: array[..., :27], r"shape \(6, 60, 27\), expected \(6, 60, 25\) or"),
        ("time_series.npy", lambda array: np.pad(array, ((0, 0), (0, 0), (0, 1))), "29 features are the abandoned"),
        ("time_series.npy", lambda array: array.astype(int), r"time_series\.npy: type int64, expected float32"),
    ],
)
def test_a_faulty_array_is_named_with_file_row_and_remedy(folder, file, edit, message):
    change(folder / "train" / file, edit)
    with pytest.raises(UserError, match=message):
        read_arrays(folder, stored_charts=False)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"stock_code": "5930"}, r"metadata\.csv row 1, stock_code 5930: a stock code without its leading zeros"),
        ({"date": "someday"}, r"metadata\.csv row 1, date .*: no ISO date \(6 such rows\)"),
        ({"date": "2022-01-03"}, r"row 2, date .*: a repeated \(stock_code, date\) \(5 such rows\)"),
        ({"chart_idx": 0}, r"chart_idx is not a permutation of 0…5"),
        ({"date": pd.bdate_range("2022-12-29", periods=N)}, r"row 3, date 2023-01-02: not before val \(2023-01-02\)"),
    ],
)
def test_faulty_metadata_is_named_with_row_and_column(folder, columns, message):
    rewrite(folder, **columns)
    with pytest.raises(UserError, match=message):
        purge(read_arrays(folder, stored_charts=False)[0], embargo=5)


@pytest.mark.parametrize("file", ["labels.npy", "time_series.npy", "sector_ids.npy"])
def test_a_missing_array_is_named(folder, file):
    (folder / "val" / file).unlink()
    with pytest.raises(UserError, match=rf"val/{file}: missing"):
        read_arrays(folder, stored_charts=False)


def test_a_data_set_without_its_sectors_is_refused(folder):
    (folder / "sectors.json").unlink()
    with pytest.raises(UserError, match=r"sectors\.json: missing"):
        read_arrays(folder, stored_charts=False)


def test_version_1_repeats_the_date_of_t_over_all_rows(folder):
    for name in STARTS:
        change(folder / name / "time_series.npy", lambda array: array[..., :25])
    data = read_arrays(folder, stored_charts=False)[0]["train"]
    series = data[np.array([0, 4])].series
    assert series.shape == (2, 60, 28)
    friday = torch.tensor([4 / 4, 1 / 12, 7 / 31])  # 2022-01-07
    assert torch.allclose(series[1, :, 25:], friday.expand(60, 3))
    assert data[4].series.shape == (60, 28)
    assert data.feature_version == "v1"


def test_version_1_without_dates_is_refused(folder):
    change(folder / "train" / "time_series.npy", lambda array: array[..., :25])
    (folder / "train" / "metadata.csv").unlink()
    with pytest.raises(UserError, match=r"25 features need metadata\.csv"):
        ArrayDataset(folder / "train", 13, stored_charts=False)


def test_mixed_versions_are_refused(folder):
    change(folder / "test" / "time_series.npy", lambda array: array[..., :25])
    with pytest.raises(UserError, match="splits of different feature versions"):
        read_arrays(folder, stored_charts=False)


def test_a_raw_memmap_reads_like_an_npy_file(folder):
    path = folder / "train" / "time_series.npy"
    array = np.load(path)
    path.write_bytes(array.tobytes())
    data = read_arrays(folder, stored_charts=False)[0]["train"]
    assert np.array_equal(data[np.arange(N)].series.numpy(), array)
    path.write_bytes(array.tobytes()[:-4])
    with pytest.raises(UserError, match=r"40316 bytes without an npy header, expected 36000 or 40320 for 6 samples"):
        read_arrays(folder, stored_charts=False)


def images(seed=1):
    return np.random.default_rng(seed).random((N, *IMAGE_SHAPE)).astype(np.float32)


@pytest.mark.parametrize("raw", [False, True])
def test_stored_chart_images_are_used(folder, raw):
    array = images()
    path = folder / "train" / "chart_images.npy"
    path.write_bytes(array.tobytes()) if raw else np.save(path, array)
    data = ArrayDataset(folder / "train", 13, stored_charts=True)
    assert np.array_equal(data[np.array([2, 0])].chart.numpy(), array[[2, 0]])


def test_png_charts_follow_chart_idx(folder):
    (folder / "train" / "charts").mkdir()
    for number in range(N):
        pixels = np.full((224, 224, 3), 255, np.uint8)
        pixels[number, 0, 1] = 51
        Image.fromarray(pixels).save(folder / "train" / "charts" / f"{number:06d}.png")
    rewrite(folder, chart_idx=list(range(N))[::-1])
    chart = ArrayDataset(folder / "train", 13, stored_charts=True)[np.array([0])].chart
    assert chart[0, 1, N - 1, 0] == pytest.approx(0.2)
    assert chart.shape == (1, 3, 224, 224)
    (folder / "train" / "charts" / "000003.png").unlink()
    with pytest.raises(UserError, match=r"charts/000003\.png: missing image"):
        ArrayDataset(folder / "train", 13, stored_charts=True)


def test_charts_that_are_not_there_are_never_replaced_by_black(folder):
    with pytest.raises(UserError, match=r"neither chart_images\.npy nor charts/"):
        ArrayDataset(folder / "train", 13, stored_charts=True)


def test_redrawn_images_of_the_same_size_are_other_data(folder):
    path = folder / "train" / "chart_images.npy"
    np.save(path, images(seed=1))
    before = identity(folder)
    assert identity(folder) == before
    np.save(path, images(seed=2))
    assert identity(folder) != before


def test_constant_images_are_refused(folder):
    np.save(folder / "train" / "chart_images.npy", np.zeros((N, *IMAGE_SHAPE), np.float32))
    with pytest.raises(UserError, match="all sampled chart images are constant"):
        ArrayDataset(folder / "train", 13, stored_charts=True)


def test_windows_whose_label_reaches_into_the_next_split_are_purged(folder):
    for name, starts in (("train", "2022-12-12"), ("val", "2023-01-02")):
        path = folder / name / "metadata.csv"
        meta = pd.read_csv(path, dtype=str)
        dates = pd.bdate_range(starts, periods=N)
        meta = meta.assign(date=dates, label_end_date=dates + pd.offsets.BDay(5))
        meta.to_csv(path, index=False)
    datasets = read_arrays(folder, stored_charts=False)[0]
    # labels of 12…16 December end 19…23; five sessions later is 26…30, before 2 January; that of 19 December is not
    assert purge(datasets, embargo=5) == 1
    assert len(datasets["train"]) == len(datasets["train"].labels) == 5
    assert datasets["train"].date.max() == np.datetime64("2022-12-16")


def test_a_split_that_is_empty_after_purging_is_named(folder):
    rewrite(folder, date=pd.bdate_range("2022-12-20", periods=N))
    with pytest.raises(UserError, match="train: empty after purging"):
        purge(read_arrays(folder, stored_charts=False)[0], embargo=5)


def test_an_empty_manifest_is_not_needed_but_sectors_must_parse(folder):
    (folder / "sectors.json").write_text(json.dumps({"version": "x"}))
    with pytest.raises(UserError, match="not a sector scheme"):
        read_arrays(folder, stored_charts=False)
