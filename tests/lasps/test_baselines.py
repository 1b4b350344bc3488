"""Each baseline by hand or on a planted signal, and what none of them may look at."""

import sys

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.metrics import log_loss
from lasps import baselines
from lasps.baselines import (
    COLUMNS,
    LAST_SESSION,
    PENALTIES,
    Table,
    Trees,
    class_prior,
    class_shares,
    fit_baselines,
    importances,
    logistic_regression,
    tabulate,
    tabulate_dataset,
    trend,
    volatility_only,
)
from lasps.data.dataset import PanelDataset
from lasps.data.features import FEATURES, compute_features
from lasps.data.windows import WINDOW, Windowing, index_windows
from lasps.normalise import relative
from tests.lasps.walks import random_bars, scaled

SMALL = Trees(min_data_in_leaf=20, max_trees=60, patience=10, num_threads=1)


def table(label, **columns) -> Table:
    """Rows of zeros, unless a column says otherwise."""
    label = np.asarray(label)
    features = np.zeros((len(label), len(COLUMNS)), np.float32)
    for name, values in columns.items():
        features[:, COLUMNS.index(name)] = values
    return Table(features, label)


def noise(num_rows: int, seed: int) -> Table:
    rng = np.random.default_rng(seed)
    return Table(
        rng.standard_normal((num_rows, len(COLUMNS)), np.float32), rng.choice(3, num_rows, p=[0.25, 0.5, 0.25])
    )


def curved(num_rows: int, seed: int) -> Table:
    """BUY where return_5 is far from 0, SELL where it is near, HOLD between and in a fifth of all rows."""
    blank, rng = noise(num_rows, seed), np.random.default_rng(seed + 1)
    size = np.abs(blank.column("return_5"))
    label = np.where(size > 1, 2, np.where(size < 0.4, 0, 1))
    return Table(blank.features, np.where(rng.random(num_rows) < 0.2, 1, label))


def prior_loss(train: Table, test: Table) -> float:
    return log_loss(np.tile(class_shares(train), (len(test), 1)), test.label)


def same(first, second) -> bool:
    pairs = zip(
        (first.score, first.predicted, first.probabilities), (second.score, second.predicted, second.probabilities)
    )
    return first.name == second.name and all(np.array_equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def bars():
    return random_bars([260, 240])


@pytest.fixture(scope="module")
def dataset(bars):
    return panel(bars)


def panel(bars) -> PanelDataset:
    features = compute_features(bars)
    windows = index_windows(bars, features, Windowing(stride=1))
    return PanelDataset(features, windows, np.arange(len(windows.label)), bars.codes)


@pytest.fixture(scope="module")
def splits():
    return curved(1200, 0), curved(400, 10), curved(300, 20)


@pytest.fixture(scope="module")
def forecasts(splits):
    return fit_baselines(*splits, seed=3, trees=SMALL)


def test_the_last_session_is_in_the_form_of_the_relative_normalisation(dataset):
    series = dataset.series(np.arange(len(dataset)))
    expected, ours = relative(torch.from_numpy(series))[:, -1].numpy(), tabulate(series)
    for column, name in enumerate(LAST_SESSION):
        np.testing.assert_array_equal(ours[:, column], expected[:, FEATURES.index(name)], err_msg=name)
    left_out = expected[:, [FEATURES.index(name) for name in ("close", "volume_ma20", "obv")]]
    assert (left_out == 0).all()


def test_columns_by_hand_from_the_bars(bars, dataset):
    made, end = tabulate_dataset(dataset), dataset.end_row
    close = bars.close
    for sessions in (1, 5, 20, 60):
        by_hand = np.log(close[end] / close[end - sessions])
        np.testing.assert_allclose(made.column(f"return_{sessions}"), by_hand, atol=2e-5)
    np.testing.assert_allclose(made.column("open"), np.log(bars.open[end] / close[end]), atol=1e-6)
    true_range = np.array([
        np.mean([
            max(bars.high[i], close[i - 1]) - min(bars.low[i], close[i - 1]) for i in range(row - 13, row + 1)
        ]) for row in end
    ])  # fmt: skip
    np.testing.assert_allclose(made.column("atr"), true_range / close[end], rtol=1e-5)
    np.testing.assert_array_equal(made.label, dataset.labels)


def test_no_column_repeats_another_is_constant_or_names_the_session(dataset):
    features = tabulate_dataset(dataset).features.astype(np.float64)
    correlation = np.corrcoef(features, rowvar=False) - np.eye(len(COLUMNS))
    assert (features.std(0) > 1e-4).all()
    assert np.abs(correlation).max() < 0.9999
    assert not {"month", "day"} & set(COLUMNS)


def test_a_return_beyond_the_window_is_bounded_where_stored_averages_contradict_the_closes(dataset):
    series = dataset.series(np.arange(3))
    series[:, -2, FEATURES.index("ma60")] = 0
    np.testing.assert_allclose(tabulate(series)[:, COLUMNS.index("return_60")], np.log(100), rtol=1e-6)


def test_a_constant_price_factor_changes_nothing(bars, dataset):
    other = tabulate_dataset(panel(scaled(bars, 7.3)))
    np.testing.assert_allclose(other.features, tabulate_dataset(dataset).features, atol=3e-5)


def test_a_data_set_is_read_in_chunks_and_in_order(dataset, monkeypatch):
    whole, asked, read = tabulate_dataset(dataset), [], PanelDataset.series
    monkeypatch.setattr(baselines, "CHUNK", 50)
    monkeypatch.setattr(PanelDataset, "series", lambda self, index: asked.append(len(index)) or read(self, index))
    np.testing.assert_array_equal(tabulate_dataset(dataset).features, whole.features)
    assert max(asked) == 50
    assert sum(asked) == len(dataset)
    assert len(dataset) % 50


def test_nothing_before_the_window_and_nothing_after_t_is_read(dataset):
    series = dataset.series(np.arange(5))
    assert series.shape[1] == WINDOW
    changed = series.copy()
    changed[:, : WINDOW - 21] = 1  # the returns reach back 20 sessions, the 60-session one through two averages
    np.testing.assert_array_equal(tabulate(series), tabulate(changed))


def test_a_price_of_zero_is_refused_with_its_window(bars):
    dataset = panel(bars)
    dataset.features[dataset.end_row[7], FEATURES.index("close")] = 0
    with pytest.raises(UserError, match="window 7 of"):
        tabulate_dataset(dataset)


def test_the_class_prior_says_the_training_shares_and_ranks_nothing():
    forecast = class_prior(table([0, 1, 1, 2, 1]), table([2, 2]))
    assert forecast.predicted.tolist() == [1, 1]
    assert forecast.score.tolist() == [0, 0]
    np.testing.assert_allclose(forecast.probabilities, [[0.2, 0.6, 0.2]] * 2)


def test_momentum_says_as_many_buy_and_sell_as_training_has():
    train = table([0, 0, 1, 1, 1, 1, 1, 2, 2, 2], return_5=[3, 1, 4, 10, 5, 9, 2, 6, 8, 7])  # bounds at 2.8 and 7.3
    momentum = trend("up", "return_5", 1, train, table([1] * 4, return_5=[2.7, 2.9, 7.2, 7.4]))
    assert momentum.predicted.tolist() == [0, 1, 1, 2]
    np.testing.assert_allclose(momentum.score, [2.7, 2.9, 7.2, 7.4], rtol=1e-6)
    assert momentum.probabilities is None
    itself = trend("up", "return_5", 1, train, train)
    assert np.bincount(itself.predicted).tolist() == [2, 5, 3]


def test_reversal_is_the_negative_signal_with_its_own_bounds():
    train = table([0, 0, 1, 1, 1, 1, 1, 2, 2, 2], return_5=[3, 1, 4, 10, 5, 9, 2, 6, 8, 7])  # of −x: −8.2 and −3.7
    reversal = trend("down", "return_5", -1, train, table([1] * 4, return_5=[3.6, 3.8, 8.1, 8.3]))
    assert reversal.predicted.tolist() == [2, 1, 1, 0]
    np.testing.assert_allclose(reversal.score, [-3.6, -3.8, -8.1, -8.3], rtol=1e-6)


def test_a_signal_that_never_moves_is_hold():
    train = table([0, 1, 2])
    assert trend("up", "return_20", 1, train, train).predicted.tolist() == [1, 1, 1]


def test_volatility_shares_by_hand():
    train = table([0, 1, 2, 2], atr=[1, 2, 2, 3])  # the bound is 2, of the upper bin; one is added to each count
    odds = volatility_only(train, table([0, 0, 0], atr=[-9, 2, 99]), num_bins=2)
    np.testing.assert_allclose(odds, [[2 / 4, 1 / 4, 1 / 4], [1 / 6, 2 / 6, 3 / 6], [1 / 6, 2 / 6, 3 / 6]])


def test_volatility_bins_recover_known_shares():
    rng = np.random.default_rng(0)
    atr, draw = rng.uniform(0, 1, 40_000).astype(np.float32), rng.random(40_000)
    move = 0.2 + 0.6 * atr  # share of SELL and BUY together, twice as many BUY
    label = np.where(draw < move / 3, 0, np.where(draw < move, 2, 1))
    middle = np.arange(0.025, 1, 0.05)
    odds = volatility_only(table(label, atr=atr), table([0] * 20, atr=middle))
    known = 0.2 + 0.6 * middle
    np.testing.assert_allclose(odds, np.stack([known / 3, 1 - known, known * 2 / 3], 1), atol=0.04)
    assert len(np.unique(odds[:, 1])) == 20


def test_logistic_regression_recovers_a_planted_direction():
    train, val, test = (noise(3000, seed) for seed in (0, 1, 2))
    for each in (train, val):
        strength = each.column("return_5") - each.column("gap_direction")
        random = np.random.default_rng(len(each)).logistic(size=len(each))
        each.label[:] = 1 + (strength + random > 1) - (strength + random < -1)
    odds = logistic_regression(train, val, test)
    direction = test.column("return_5") - test.column("gap_direction")
    assert np.corrcoef(odds[:, 2] - odds[:, 0], direction)[0, 1] > 0.95
    np.testing.assert_allclose(odds.sum(1), 1)


def test_logistic_regression_knows_no_units_and_clips_outliers(splits):
    train, val, _ = splits
    factor = np.ones(len(COLUMNS), np.float32)
    factor[COLUMNS.index("return_5")] = 1024
    changed = [Table(each.features * factor - 4 * factor, each.label) for each in splits]
    np.testing.assert_allclose(logistic_regression(*changed), logistic_regression(*splits), atol=1e-4)
    far, farther = (table([1], return_5=value) for value in (50, 5000))
    np.testing.assert_array_equal(logistic_regression(train, val, far), logistic_regression(train, val, farther))


def test_a_column_constant_in_training_does_no_harm(splits):
    train, val, test = (Table(each.features.copy(), each.label) for each in splits)
    train.features[:, 0] = 0.7
    assert np.isfinite(logistic_regression(train, val, test)).all()


def test_the_penalty_is_the_one_of_lowest_validation_loss(splits):
    train, val, test = splits
    losses = {each: log_loss(logistic_regression(train, val, val, [each]), val.label) for each in PENALTIES}
    best = min(losses, key=losses.get)
    np.testing.assert_array_equal(logistic_regression(train, val, test), logistic_regression(train, val, test, [best]))
    assert len(set(losses.values())) == len(PENALTIES)


def test_trees_find_a_curve_that_no_line_finds(splits):
    train, val, test = splits
    booster = SMALL.fit(train, val, seed=0)
    assert log_loss(booster.predict(test.features), test.label) < prior_loss(train, test) - 0.2
    assert log_loss(logistic_regression(*splits), test.label) > prior_loss(train, test) - 0.05
    shares = importances(booster)
    assert next(iter(shares)) == "return_5"
    assert shares["return_5"] > 0.5
    assert sum(shares.values()) == pytest.approx(1)


def test_trees_stop_at_once_on_noise():
    train, val, test = noise(1200, 0), noise(600, 1), noise(600, 2)
    booster = SMALL.fit(train, val, seed=0)
    assert booster.best_iteration <= 10
    assert log_loss(booster.predict(test.features), test.label) > prior_loss(train, test) - 0.01


def test_trees_without_a_split_are_the_prior(splits):
    train, val, test = splits
    booster = Trees(min_data_in_leaf=1000, max_trees=20, num_threads=1).fit(train, val, seed=0)
    np.testing.assert_allclose(booster.predict(test.features), np.tile(class_shares(train), (len(test), 1)), atol=1e-4)
    assert set(importances(booster).values()) == {0}


@pytest.mark.slow
def test_threads_leave_the_trees_as_they_are(splits):
    train, val, test = splits
    one, two = (Trees(min_data_in_leaf=20, max_trees=4, num_threads=each).fit(train, val, 0) for each in (1, 2))
    np.testing.assert_array_equal(one.predict(test.features), two.predict(test.features))


def test_the_list_of_baselines(forecasts, splits):
    both = ("volatility only", "logistic regression", "LightGBM")
    assert [forecast.name for forecast in forecasts] == [
        "class prior",
        *(f"{rule} {sessions}" for sessions in (5, 20, 60) for rule in ("momentum", "reversal")),
        *(f"{model}, {rule}" for model in both for rule in ("argmax", "divided by prior")),
    ]
    prior = class_shares(splits[0])
    for plain, divided in zip(forecasts[7::2], forecasts[8::2]):
        np.testing.assert_array_equal(plain.predicted, plain.probabilities.argmax(1))
        np.testing.assert_array_equal(divided.predicted, (plain.probabilities / prior).argmax(1))
        np.testing.assert_array_equal(divided.score, plain.probabilities[:, 2] - plain.probabilities[:, 0])
    for momentum, reversal in zip(forecasts[1:7:2], forecasts[2:7:2]):
        column = "return_" + momentum.name.split()[1]
        np.testing.assert_array_equal(momentum.score, splits[2].column(column))
        np.testing.assert_array_equal(momentum.score, -reversal.score)


@pytest.mark.slow
def test_equal_input_gives_equal_bits_and_the_seed_matters(forecasts, splits):
    np.random.seed(99)  # noqa: NPY002
    assert all(map(same, forecasts, fit_baselines(*splits, seed=3, trees=SMALL)))
    other = fit_baselines(*splits, seed=4, trees=SMALL)
    assert [name for name, equal in zip(range(13), map(same, forecasts, other)) if not equal] == [11, 12]


def test_test_labels_change_nothing(forecasts, splits):
    train, val, test = splits
    unknown = Table(test.features, np.zeros_like(test.label))
    assert all(map(same, forecasts, fit_baselines(train, val, unknown, seed=3, trees=SMALL)))


def test_what_is_said_of_a_window_does_not_depend_on_the_other_test_windows(forecasts, splits):
    train, val, test = splits
    chosen = np.arange(250, 20, -7)
    for whole, part in zip(forecasts, fit_baselines(train, val, test[chosen], seed=3, trees=SMALL)):
        np.testing.assert_array_equal(whole[chosen].predicted, part.predicted)
        np.testing.assert_allclose(whole[chosen].score, part.score, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_validation_labels_choose_only_a_penalty_and_a_number_of_trees(forecasts, splits):
    train, val, test = splits
    mixed = Table(val.features, np.random.default_rng(0).permutation(val.label))
    booster = Trees(min_data_in_leaf=20, max_trees=60, patience=60, num_threads=1).fit(train, val, 3)
    stopped = SMALL.fit(train, mixed, 3)
    assert stopped.best_iteration < SMALL.fit(train, val, 3).best_iteration
    np.testing.assert_array_equal(
        stopped.predict(test.features), booster.predict(test.features, num_iteration=stopped.best_iteration)
    )
    grid = [logistic_regression(train, val, test, [each]) for each in PENALTIES]
    chosen = logistic_regression(train, mixed, test)
    assert any(np.array_equal(chosen, each) for each in grid)
    other = fit_baselines(train, mixed, test, seed=3, trees=SMALL)
    assert all(map(same, forecasts[:9], other[:9]))


def test_a_class_missing_in_training_is_refused(splits):
    train, val, test = splits
    with pytest.raises(UserError, match="labelled BUY"):
        fit_baselines(train[train.label < 2], val, test, seed=0)


@pytest.mark.parametrize("package", ["lightgbm", "sklearn.linear_model"])
def test_a_missing_package_names_the_extra(splits, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match="extra `lasps`"):
        fit_baselines(*splits, seed=0)
