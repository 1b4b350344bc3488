"""Each scaling by hand, and what none of them may depend on or fail at."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from lasps.data.features import FEATURES, compute_features
from lasps.normalise import MinMaxVolatility, Normalise, Relative, SharedPriceScale, WindowMinMax
from tests.lasps.walks import random_bars, scaled

AT = {name: column for column, name in enumerate(FEATURES)}
PRICES = ["open", "high", "low", "close", "ma5", "ma20", "ma60", "ma120", "bb_upper", "bb_middle", "bb_lower"]


def windows_of(bars) -> Tensor:
    """(B, 60, 28) every full window of one issue."""
    features = torch.from_numpy(compute_features(bars))
    return features[119:].unfold(0, 60, 1).transpose(1, 2).contiguous()


@pytest.fixture(scope="module")
def series() -> Tensor:
    return windows_of(random_bars([240]))


@pytest.fixture(params=[WindowMinMax, SharedPriceScale, Relative], ids=lambda cls: cls.__name__)
def normalise(request, series) -> Normalise:
    module = request.param()
    if module.needs_fit:
        module.fit([series])
    return module


def flat_window(**columns: list[float] | float) -> Tensor:
    """(1, 3, 28) three sessions of prices 100, volumes 10 and zeros, unless a column says otherwise."""
    window = torch.zeros(1, 3, 28)
    window[..., [AT[name] for name in PRICES]] = 100
    window[..., [AT["volume"], AT["volume_ma20"]]] = 10
    for name, values in columns.items():
        window[0, :, AT[name]] = torch.as_tensor(values, dtype=torch.float32)
    return window


def column(window: Tensor, name: str) -> list[float]:
    return window[0, :, AT[name]].tolist()


def test_min_max_scales_the_first_twenty_columns_each_by_its_own_range():
    window = flat_window(open=[10, 20, 15], obv=[-5, 5, 0], volume_ratio=[0.2, 0.4, 0.3], day=[0.1, 0.2, 0.3])
    scaled_window = WindowMinMax()(window)
    assert column(scaled_window, "open") == column(scaled_window, "obv") == [0, 1, 0.5]
    assert column(scaled_window, "close") == column(scaled_window, "volume_ma20") == [0.5] * 3
    torch.testing.assert_close(scaled_window[..., 20:], window[..., 20:], rtol=0, atol=0)


def test_min_max_takes_a_range_below_1e_10_for_constant():
    assert column(WindowMinMax()(flat_window(macd=[0, 9e-11, 0])), "macd") == [0.5] * 3
    assert column(WindowMinMax()(flat_window(macd=[0, 2e-10, 0])), "macd") == [0, 1, 0]


def test_min_max_spans_exactly_0_to_1_on_real_walks(series):
    open_ended = WindowMinMax()(series)[..., :20]
    assert (open_ended.amin(1) == 0).all()
    assert (open_ended.amax(1) == 1).all()


def test_shared_scale_keeps_prices_comparable():
    window = flat_window(low=[80, 90, 100], high=[100, 110, 120], ma20=[100, 90, 120])
    scaled_window = SharedPriceScale()(window)
    assert column(scaled_window, "low") == [0, 0.25, 0.5]
    assert column(scaled_window, "high") == [0.5, 0.75, 1]
    assert column(scaled_window, "ma20") == [0.5, 0.25, 1]
    assert column(scaled_window, "close") == [0.5] * 3


def test_shared_scale_measures_price_differences_by_the_price_range():
    window = flat_window(low=80, high=120, macd=[-10, 0, 20], macd_signal=4, macd_hist=-4, atr=[2, 4, 40])
    scaled_window = SharedPriceScale()(window)
    assert column(scaled_window, "macd") == [-0.25, 0, 0.5]
    assert column(scaled_window, "atr") == pytest.approx([0.05, 0.1, 1])
    assert column(scaled_window, "macd_signal") == pytest.approx([0.1] * 3)
    assert column(scaled_window, "macd_hist") == pytest.approx([-0.1] * 3)


def test_shared_scale_of_volume_is_logarithmic_and_joint():
    scaled_window = SharedPriceScale()(flat_window(volume=[0, 9, 99], volume_ma20=[9, 9, 99]))
    assert column(scaled_window, "volume") == pytest.approx([0, 0.5, 1])
    assert column(scaled_window, "volume_ma20") == pytest.approx([0.5, 0.5, 1])


def test_shared_scale_of_the_other_columns():
    window = flat_window(rsi=[0, 50, 100], obv=[-5, 5, 0], bb_width=[0.1, 0.3, 2], weekday=[0.5, 0.75, 1])
    scaled_window = SharedPriceScale()(window)
    assert column(scaled_window, "rsi") == [0, 0.5, 1]
    assert column(scaled_window, "obv") == [0, 1, 0.5]
    assert column(scaled_window, "bb_width") == column(window, "bb_width")
    torch.testing.assert_close(scaled_window[..., 20:], window[..., 20:], rtol=0, atol=0)


def unscaled_relative() -> Relative:
    """A Relative that shows the ratios themselves."""
    module = Relative()
    module.load_state_dict({"mean": torch.zeros(28), "std": torch.ones(28)})
    return module


def test_relative_ratios_by_hand():
    window = flat_window(
        close=[50, 100, 200], open=[100, 200, 400], macd=[5, -10, 10], atr=[1, 1, 1], volume=[0, 99, 9],
        volume_ma20=[9, 9, 99], obv=[0, 198, 99], rsi=[4, 5, 6], bb_width=[0.1, 0.2, 0.3], day=[0.1, 0.2, 0.3],
    )  # fmt: skip
    ratios = unscaled_relative()(window)
    assert column(ratios, "close") == pytest.approx(np.log([0.25, 0.5, 1]).tolist())
    assert column(ratios, "open") == pytest.approx(np.log([0.5, 1, 2]).tolist())
    assert column(ratios, "macd") == pytest.approx([0.1, -0.1, 0.05])
    assert column(ratios, "atr") == pytest.approx([1 / 50, 1 / 100, 1 / 200])
    assert column(ratios, "volume") == pytest.approx(np.log([0.01, 1, 0.1]).tolist())
    assert column(ratios, "volume_ma20") == pytest.approx(np.log([0.1, 0.1, 1]).tolist())
    assert column(ratios, "obv") == [-1, 1, 0]
    for name in ("rsi", "bb_width", "day"):
        assert column(ratios, name) == column(window, name)


def test_relative_survives_a_negative_lower_band_and_clips_at_ten():
    ratios = unscaled_relative()(flat_window(bb_lower=[-20, 0, 100], rsi=[50, -50, 5]))
    assert column(ratios, "bb_lower") == pytest.approx([np.log(0.01), np.log(0.01), 0])
    assert column(ratios, "rsi") == [10, -10, 5]


def test_relative_survives_a_window_without_volume():
    ratios = unscaled_relative()(flat_window(volume=0, volume_ma20=0, obv=[1, 2, 3]))
    assert ratios.isfinite().all()
    assert column(ratios, "obv") == [-2, -1, 0]


def test_relative_gives_z_scores_over_the_windows_it_was_fitted_on(series):
    module = Relative()
    module.fit([series[:20], series[20:]])
    scores = module(series).double().flatten(0, 1)
    # clipping moves them a little
    torch.testing.assert_close(scores.mean(0), torch.zeros(28).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(scores.std(0), torch.ones(28).double(), atol=0.02, rtol=0)


def test_the_fit_does_not_depend_on_how_windows_are_batched(series):
    whole, parts = Relative(), Relative()
    whole.fit([series])
    parts.fit(iter(series.split(7)))
    for name in ("mean", "std"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-6, atol=1e-9)


def test_the_fit_agrees_with_numpy_where_the_mean_is_far_from_zero(series):
    module = Relative()
    module.fit([series])
    rsi = series[..., AT["rsi"]].double().numpy()
    assert module.mean[AT["rsi"]] == pytest.approx(rsi.mean(), rel=1e-6)
    assert module.std[AT["rsi"]] == pytest.approx(rsi.std(), rel=1e-6)


def test_a_column_constant_in_training_becomes_zero():
    window = flat_window(volume_ratio=0.33, rsi_norm=0.7, rsi=[40, 50, 60])
    module = Relative()
    module.fit([window] * 3)
    assert column(module(window), "volume_ratio") == column(module(window), "rsi_norm") == [0] * 3
    assert column(module(window), "rsi") == pytest.approx([-np.sqrt(1.5), 0, np.sqrt(1.5)])


def test_relative_unfitted_raises(series):
    with pytest.raises(RuntimeError, match="no statistics yet"):
        Relative()(series)
    module = Relative()
    module.load_state_dict(Relative().state_dict())
    with pytest.raises(RuntimeError, match="no statistics yet"):
        module(series)


@pytest.mark.parametrize("inside", [False, True])
def test_statistics_travel_in_the_state_dict_also_of_a_module_around_it(series, inside):
    fitted, loaded = Relative(), Relative()
    fitted.fit([series])
    assert set(fitted.state_dict()) == {"mean", "std"}
    if inside:
        torch.nn.Sequential(loaded).load_state_dict(torch.nn.Sequential(fitted).state_dict())
    else:
        loaded.load_state_dict(fitted.state_dict())
    assert torch.equal(loaded(series), fitted(series))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_are_fitted_apart(series, duplicate):
    original = Relative()
    twin = duplicate(original)
    twin.fit([series])
    assert twin(series).isfinite().all()
    with pytest.raises(RuntimeError):
        original(series)


def test_only_relative_needs_a_fit():
    assert [cls.needs_fit for cls in (WindowMinMax, SharedPriceScale, Relative)] == [False, False, True]


def test_scaling_leaves_its_input_as_it_is_and_gives_float32(normalise, series):
    before = series.clone()
    result = normalise(series)
    assert torch.equal(series, before)
    assert result.shape == series.shape
    assert result.dtype == torch.float32


def test_a_window_is_scaled_alike_alone_and_in_a_batch(normalise, series):
    alone = torch.cat([normalise(window) for window in series.split(1)])
    torch.testing.assert_close(alone, normalise(series), rtol=1e-6, atol=1e-6)


def test_a_window_without_any_movement_is_finite(normalise):
    bars = random_bars([200])
    for name in ("open", "high", "low", "close"):
        getattr(bars, name)[:] = 1234.5
    bars.volume[:], bars.flow[:] = 7, np.nan
    assert normalise(windows_of(bars)).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.02, 0.5, 3.0, 50.0])
def test_a_constant_price_factor_changes_nothing(normalise, factor):
    bars = random_bars([240])
    expected = normalise(windows_of(bars))
    torch.testing.assert_close(normalise(windows_of(scaled(bars, factor))), expected, rtol=0, atol=1e-4)


@pytest.mark.gpu
def test_scaling_is_the_same_on_the_gpu(normalise, series):
    on_gpu = copy.deepcopy(normalise).to("cuda")(series.to("cuda"))
    torch.testing.assert_close(on_gpu.cpu(), normalise(series), rtol=1e-5, atol=1e-5)


def test_min_max_with_volatility_takes_two_columns_from_relative_and_all_others_from_min_max():
    series = torch.rand(4, 60, 28, generator=torch.Generator().manual_seed(0)) * 100 + 1
    scale, relative, plain = MinMaxVolatility(), Relative(), WindowMinMax()
    scale.fit([series])
    relative.fit([series])
    told = [FEATURES.index("bb_width"), FEATURES.index("atr")]
    others = [column for column in range(28) if column not in told]
    assert torch.equal(scale(series)[..., told], relative(series)[..., told])
    assert torch.equal(scale(series)[..., others], plain(series)[..., others])
