"""Candle charts: hand-checked pixels, golden images, and what a pure function of the window must satisfy."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from benchmarks.lasps_charts import numpy_chart, simulated_windows
from common.errors import UserError
from lasps.charts import ChartRenderer

GOLDEN = Path(__file__).parent / "golden"
LETTERS = {(255, 255, 255): ".", (0, 170, 85): "U", (255, 0, 0): "D", (85, 255, 170): "u", (255, 170, 170): "d",
           (0, 0, 255): "a", (255, 170, 0): "b", (170, 170, 255): "~"}  # fmt: skip


def pixels(image: Tensor) -> np.ndarray:
    """(H, W, 3) uint8 picture of a (3, H, W) image."""
    return (image.permute(1, 2, 0) * 255).round().byte().numpy()


def letters(image: Tensor) -> np.ndarray:
    """(H, W) one letter per pixel: U and D bodies, u and d wicks and volume, a and b averages, ~ bands, . white."""
    return np.array([[LETTERS[tuple(pixel)] for pixel in row] for row in pixels(image).tolist()])


def text(image: Tensor) -> list[str]:
    return ["".join(row) for row in letters(image)]


def window(*bars: tuple[float, ...]) -> Tensor:
    """(1, T, 5) window of (open, high, low, close[, volume])."""
    return torch.tensor([[bar if len(bar) == 5 else (*bar, 1.0) for bar in bars]])


def flat_bars(closes: list[float]) -> list[tuple[float, ...]]:
    return [(close, close, close, close) for close in closes]


def wave(days: int) -> Tensor:
    """(1, days, 5) window from a formula, in whole won, so that it is the same on every machine."""
    path = [50_000 * (1 + 0.12 * math.sin(k / 9) + 0.04 * math.sin(1.7 * k) + 0.002 * k) for k in range(days + 1)]
    bars = []
    for k, (before, close) in enumerate(pairwise(path)):
        opened = before * (1 + 0.006 * math.cos(2.3 * k))
        high = max(opened, close) * (1.008 + 0.006 * math.sin(3.1 * k))
        low = min(opened, close) * (0.992 - 0.006 * math.cos(1.3 * k))
        bars.append((opened, high, low, close, 100_000 * (1.5 + math.sin(0.7 * k))))
    return torch.tensor([bars]).round()


@pytest.fixture(scope="module")
def walks() -> Tensor:
    return torch.from_numpy(simulated_windows(7))


def test_candles_lie_where_a_hand_drawing_puts_them():
    bars = [(104, 112, 102, 110), (109, 115, 105, 106), (108, 110, 108, 108), (101, 104, 100, 103)]
    assert text(ChartRenderer(16, averages=[])(window(*bars))[0]) == [
        ".....d..........",
        ".....d..........",
        ".....d..........",
        ".u...d..........",
        ".u...d..........",
        "UUU..d...u......",
        "UUU.DDD..u......",
        "UUU.DDD.UUU.....",
        "UUU.DDD.........",
        "UUU.DDD.........",
        "UUU..d..........",
        "UUU..........u..",
        ".u..........UUU.",
        ".u..........UUU.",
        "............UUU.",
        ".............u..",
    ]


def test_an_average_runs_straight_between_the_centres_of_its_candles():
    bars = [(114, 115, 114, 114), *flat_bars([110, 106]), (102, 102, 100, 102)]
    drawn = letters(ChartRenderer(16, averages=[2])(window(*bars))[0])
    # two-day means 112, 108, 104 on rows 3, 7, 11, at the wicks in columns 5, 9, 13
    assert np.argwhere(drawn == "a").tolist() == [[3 + k, 5 + k] for k in range(9)]


def test_volume_bars_fill_the_bottom_fifth_below_a_white_row():
    bars = [(100, 115, 100, 115, 300), (115, 115, 100, 100, 200), (100, 115, 100, 115, 100), (115, 115, 100, 100, 0)]
    drawn = text(ChartRenderer(20, averages=[], volume_panel=True)(window(*bars))[0])
    assert drawn[:16] == ["UUU..DDD..UUU..DDD.."] * 16
    assert drawn[16:] == [
        "....................",
        "uuu.................",
        "uuu..ddd............",
        "uuu..ddd..uuu.......",
    ]


def test_bands_lie_two_sample_deviations_from_the_mean():
    closes = [120.0] + [100.0] * 19  # mean 101, variance 380 / 19 = 20
    bars = [(120, 121, 91, 120), *flat_bars(closes[1:])]
    drawn = letters(ChartRenderer(301, averages=[], bollinger=True)(window(*bars))[0])
    rows = [round((121 - 101 + sign * 2 * math.sqrt(20)) * 10) for sign in (-1, 1)]
    assert np.argwhere(drawn == "~")[:, 0].tolist() == rows == [111, 289]


def test_a_band_off_the_price_axis_is_not_drawn():
    rising = window(*flat_bars(list(range(100, 120))))  # mean ± 11.8, while the axis ends at mean ± 9.5
    for panel in (False, True):
        for bars in (rising, rising.flip(1)):
            with_bands, without = (ChartRenderer(64, [], bands, panel)(bars) for bands in (True, False))
            assert torch.equal(with_bands, without)


@pytest.mark.parametrize(
    ("name", "days", "options"),
    [
        ("default_224", 60, {}),
        ("small_48", 40, {"size": 48}),
        ("all_224", 60, {"bollinger": True, "volume_panel": True}),
    ],
)
def test_charts_equal_the_golden_images(name, days, options, tmp_path):
    drawn = pixels(ChartRenderer(**options)(wave(days))[0])
    Image.fromarray(drawn).save(tmp_path / f"{name}.png", optimize=True)
    golden = np.asarray(Image.open(GOLDEN / f"{name}.png"))
    assert np.array_equal(drawn, golden), f"look at {tmp_path / name}.png; where the change is meant, it is the new one"


def test_default_charts_equal_an_independent_drawing_candle_by_candle(walks):
    expected = np.stack([numpy_chart(each) for each in walks.numpy()])
    assert np.array_equal(ChartRenderer()(walks).numpy(), expected)


@pytest.mark.parametrize("size", [61, 224, 256])
def test_a_chart_does_not_depend_on_its_batch(walks, size):
    renderer = ChartRenderer(size, bollinger=True, volume_panel=True)
    together = renderer(walks)
    assert torch.equal(together, torch.cat([renderer(each[None]) for each in walks]))
    assert torch.equal(together.flip(0), renderer(walks.flip(0)))
    assert torch.equal(together, renderer(walks.repeat(9, 1, 1))[-7:])


def test_charts_show_the_shape_of_prices_and_not_their_scale(walks):
    renderer, prices = ChartRenderer(bollinger=True), torch.tensor([1.0, 1, 1, 1, 0])
    drawn = renderer(walks)
    for factor in (2.0**-9, 2.0**7):
        assert torch.equal(drawn, renderer(walks * (prices * factor + (1 - prices))))
    assert (drawn != renderer(walks * (prices * 1.37 + (1 - prices)))).float().mean() < 1e-3


@pytest.mark.slow
def test_averages_start_with_the_session_that_completes_them(walks):
    for image in ChartRenderer()(walks[:3]):
        drawn = letters(image)
        # session k has its wick in column ceil(224 k / 60) + 1
        assert np.argwhere(drawn == "a")[:, 1].min() == 15 + 1
        assert np.argwhere(drawn == "b")[:, 1].min() == 71 + 1


def test_an_average_longer_than_the_window_is_absent(walks):
    short = walks[:, :19]
    assert torch.equal(ChartRenderer(averages=[5, 20], bollinger=True)(short), ChartRenderer(averages=[5])(short))


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 224])
def test_lines_have_no_holes(walks, size):
    for image in ChartRenderer(size, averages=[1])(walks[:3]):
        drawn = letters(image) == "a"
        rows = [np.flatnonzero(column) for column in drawn.T[drawn.any(0).argmax() :]]
        rows = rows[: max(k for k, column in enumerate(rows) if len(column)) + 1]
        assert all(len(column) == column[-1] - column[0] + 1 for column in rows)
        assert all(a[0] - 1 <= b[-1] and b[0] - 1 <= a[-1] for a, b in pairwise(rows))


def test_a_constant_window_is_a_flat_line_in_the_middle():
    bars = window(*[(100.1, 100.1, 100.1, 100.1, 0.0)] * 17)
    image = ChartRenderer(17, [5], bollinger=True)(bars)[0]
    assert text(image) == ["." * 17] * 8 + ["UUUU" + "a" * 13] + ["." * 17] * 8
    with_panel = ChartRenderer(17, [], volume_panel=True)(bars)[0]
    assert text(with_panel)[-3:] == ["." * 17] * 3


@pytest.mark.parametrize("size", [16, 255, 256, 1024])
def test_a_full_range_wick_fills_its_column_at_every_size(size):
    image = ChartRenderer(size, [])(window((100, 200, 100, 100), (200, 200, 100, 200)))[0]
    assert ((image != 1).any(0).sum(0) == size).sum() == 2


@pytest.mark.parametrize(("days", "size"), [(1, 16), (16, 16), (37, 64), (120, 224)])
def test_any_window_that_fits_gives_float32_images_of_four_levels(days, size):
    images = ChartRenderer(size, [1, 5], True, True)(wave(days).double().expand(3, -1, -1))
    assert images.shape == (3, 3, size, size)
    assert images.dtype == torch.float32
    assert set((images * 3).unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}


def test_an_empty_batch_gives_no_images():
    assert ChartRenderer(32)(torch.empty(0, 20, 5)).shape == (0, 3, 32, 32)


def test_more_sessions_than_columns_are_refused(walks):
    with pytest.raises(UserError, match=r"60 sessions do not fit into 48 columns\. Set size=60 or more"):
        ChartRenderer(48)(walks)


@pytest.mark.parametrize("averages", [[0], [5, 20, 60, 120, 240]])
def test_impossible_averages_do_not_pass_the_annotation(averages):
    with pytest.raises(ValidationError):
        TypeAdapter(ChartRenderer.__init__.__annotations__["averages"]).validate_python(averages)


@pytest.mark.gpu
def test_charts_are_the_same_on_a_gpu(walks):
    renderer = ChartRenderer(bollinger=True, volume_panel=True)
    assert torch.equal(renderer(walks), renderer(walks.cuda()).cpu())
