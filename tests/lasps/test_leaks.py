"""The leak checks pass on the real pipeline and fail on each leak that is built in on purpose."""

from dataclasses import replace

import numpy as np
import pytest

from lasps.data.features import FEATURES, compute_features
from lasps.data.simulated import SimulatedMarket
from lasps.judged import Forecast, Rows
from lasps.leaks import (
    FEWEST_ISSUES,
    _disturbed,
    block_permutation_check,
    disjoint,
    future_columns,
    future_perturbation,
    plant_next_return,
    return_ahead,
    self_test,
    shuffled_labels,
    too_good_columns,
    truncation,
)
from tests.lasps.walks import random_bars

SESSIONS = np.busday_offset("2020-01-01", np.arange(300), roll="forward")
CLOSE, MA20, MA120, GAP = (FEATURES.index(name) for name in ("close", "ma20", "ma120", "gap_direction"))


@pytest.fixture(scope="module")
def bars():
    return random_bars([400] * 6, seed=1)


def centred(bars):
    """ma20 that looks two sessions ahead."""
    features = compute_features(bars)
    for rows in bars.segments():
        features[rows, MA20] = np.convolve(bars.close[rows], np.ones(5) / 5, mode="same")
    return features


def full_series_scaled(bars):
    """Closes scaled by the mean over all bars."""
    features = compute_features(bars)
    features[:, CLOSE] /= features[:, CLOSE].mean()
    return features


def backfilled(bars):
    """ma120 whose warm-up holds its first value."""
    features = compute_features(bars)
    for rows in bars.segments():
        column = features[rows, MA120]
        column[np.isnan(column)] = column[119] if len(column) > 119 else 0
    return features


def leaky_column(bars):
    return plant_next_return(bars, compute_features(bars))


SABOTAGES = [(centred, "ma20"), (full_series_scaled, "close"), (backfilled, "ma120"), (leaky_column, "gap_direction")]


@pytest.mark.parametrize("check", [truncation, future_perturbation])
def test_the_features_of_the_pipeline_pass(check, bars):
    found = check(bars, compute_features, samples=3)
    assert found.passed is True
    assert found.figures["moved_values"] == 0


@pytest.mark.parametrize(("compute", "column"), SABOTAGES)
def test_truncation_names_the_column_that_looks_ahead(compute, column, bars):
    found = truncation(bars, compute, samples=3)
    assert found.passed is False
    assert found.figures["moved_columns"] == [column]


@pytest.mark.parametrize(("compute", "column"), [each for each in SABOTAGES if each[0] is not backfilled])
def test_a_changed_future_shows_the_column_that_looks_ahead(compute, column, bars):
    found = future_perturbation(bars, compute, samples=3)
    assert found.passed is False
    assert found.figures["moved_columns"] == [column]


def test_a_backward_fill_shows_when_the_future_changes_while_it_fills(bars):
    for seed in range(5):
        assert future_perturbation(bars, backfilled, samples=1, seed=seed).figures["moved_columns"] == ["ma120"]


def test_a_changed_future_is_still_bars_and_leaves_the_past_alone(bars):
    future = bars.date > SESSIONS[200]
    other = _disturbed(bars, future, np.random.default_rng(0))
    assert (other.high >= np.maximum(other.open, other.close)).all()
    assert (other.low <= np.minimum(other.open, other.close)).all()
    assert (other.low > 0).all()
    assert (other.volume > 0).all()
    for name in ("open", "high", "low", "close", "volume", "flow"):
        now, before = getattr(other, name), getattr(bars, name)
        assert (now[~future] == before[~future]).all()
        assert (now[future] != before[future]).all()


def last_return(series, sector):
    """Probabilities from a window and its sector alone."""
    rise = 1 / (1 + np.exp(-10 * (series[:, -1, CLOSE] / series[:, -2, CLOSE] - 1) * (1 + sector)))
    return np.stack([1 - rise, np.zeros_like(rise), rise], axis=1)


def ranked_in_batch(series, sector):
    """Probabilities that depend on the other windows of the batch."""
    rank = np.argsort(np.argsort(series[:, -1, CLOSE])) / len(series)
    return np.stack([1 - rank, np.zeros_like(rank), rank], axis=1)


def test_predictions_from_windows_alone_keep_every_bit(bars):
    found = future_perturbation(bars, compute_features, last_return, samples=4)
    assert found.passed is True
    assert found.figures["predictions"] > 0


def test_predictions_that_depend_on_later_rows_of_their_batch_are_caught(bars):
    found = future_perturbation(bars, compute_features, ranked_in_batch, samples=4)
    assert found.passed is False
    assert found.figures["changed_predictions"] > 0
    assert found.figures["moved_values"] == 0


def test_bars_too_short_for_a_window_leave_predictions_unjudged():
    found = future_perturbation(random_bars([150] * 3), compute_features, last_return, samples=2)
    assert found.passed is None


def test_the_predict_function_gets_raw_windows_and_the_sector_at_their_end(bars):
    bars = replace(bars, sector=np.arange(len(bars)) % 13)
    features, seen = compute_features(bars), []
    future_perturbation(bars, compute_features, lambda *batch: seen.append(batch) or last_return(*batch), samples=2)
    first = {row.tobytes(): number for number, row in enumerate(features)}
    for series, sector in seen[::2]:  # every other batch is of the unchanged bars
        assert series.shape[1:] == (60, 28)
        assert series.dtype == np.float32
        ends = np.array([first[window[-1].tobytes()] for window in series])
        assert (series == features[ends[:, None] + np.arange(-59, 1)]).all()
        assert (sector == bars.sector[ends]).all()


def windows(first: int, last: int, code: str = "000660") -> Rows:
    """One window of one issue on each session, decided five sessions later."""
    count = last - first
    return Rows(
        np.full(count, code), SESSIONS[first:last], SESSIONS[first + 5 : last + 5], np.ones(count, int),
        np.zeros(count), np.zeros(count, int), np.zeros(count),
    )  # fmt: skip


def together(*parts: Rows) -> Rows:
    return Rows(*(np.concatenate(columns) for columns in zip(*(vars(part).values() for part in parts))))


def test_splits_with_purge_and_embargo_pass_and_report_the_smallest_gap():
    # session 89 is decided on 94: 95 … 99 lie between it and validation
    splits = {"train": windows(0, 90), "val": windows(100, 150), "test": windows(170, 200)}
    unique, apart = disjoint(splits, SESSIONS, embargo=5)
    assert unique.passed is True
    assert apart.passed is True
    assert apart.figures["pairs"]["train → val"]["smallest_gap"] == 5


def test_a_label_one_session_inside_the_embargo_fails():
    unique, apart = disjoint({"train": windows(0, 91), "val": windows(100, 150)}, SESSIONS, embargo=5)
    assert unique.passed is True
    assert apart.passed is False
    assert apart.figures["pairs"]["train → val"] == {"smallest_gap": 4, "too_close": 1, "later_by_date": 0}


def test_a_random_split_is_called_leaky():
    every = windows(0, 200)
    dealt = np.random.default_rng(0).permutation(200) < 140
    unique, apart = disjoint({"train": every[dealt], "val": every[~dealt]}, SESSIONS, embargo=5)
    assert unique.passed is True
    assert apart.passed is False
    assert "leaky" in apart.detail


@pytest.mark.parametrize("where", ["within", "across"])
def test_a_window_that_occurs_twice_fails(where):
    train, val = windows(0, 90), windows(100, 150)
    if where == "within":
        train = together(train, train[np.array([7])])
    else:
        val = together(val, train[np.array([7])])
    unique, _ = disjoint({"train": train, "val": val}, SESSIONS, embargo=5)
    assert unique.passed is False
    assert unique.figures["repeated"] == 1


def test_two_issues_on_one_date_are_no_repetition():
    unique, _ = disjoint({"train": together(windows(0, 90), windows(0, 90, "005930"))}, SESSIONS, embargo=5)
    assert unique.passed is True


def table(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of which the first decides the class in part."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 4))
    return x, np.digitize(x[:, 0] + rng.standard_normal(count), [-0.7, 0.7])


def test_shuffled_labels_fall_to_chance_where_true_ones_do_not():
    found = shuffled_labels(*table(600, 0), *table(400, 1))
    assert found.passed is True
    assert found.figures["auc"] > 0.65


def test_a_fit_that_sees_the_held_out_labels_is_caught():
    held_x, held_y = table(400, 1)

    def peeking(x, y):
        return lambda values: np.eye(3)[held_y] * 0.1 + 0.3

    assert shuffled_labels(*table(600, 0), held_x, held_y, peeking).passed is False


def judged(num_sessions: int = 200, issues: int = 6) -> Rows:
    label = np.random.default_rng(0).integers(0, 3, (issues, num_sessions))
    rows = together(*(windows(0, num_sessions, f"{issue:06d}") for issue in range(issues)))
    return replace(rows, label=label.ravel())


def test_permuted_blocks_are_at_chance_even_for_a_forecast_that_knows_everything():
    rows = judged()
    found = block_permutation_check(rows, Forecast("oracle", rows.label, rows.label), 50)
    assert found.passed is True
    assert found.figures["observed"] == 1
    assert found.figures["p_value"] == pytest.approx(1 / 51)


def test_an_evaluation_that_looks_at_the_labels_is_caught():
    def looking(code, date, label, predicted, num_permutations, seed):
        return {"observed": 0.5, "permuted_mean": 0.5, "p_value": 0.5}

    rows = judged()
    assert block_permutation_check(rows, Forecast("any", rows.label, rows.label), 50, permute=looking).passed is False


def test_too_few_sessions_for_a_permutation_cannot_tell():
    rows = judged(4)
    assert block_permutation_check(rows, Forecast("any", rows.label, rows.label), 50).passed is None


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 5])
def test_no_column_of_the_pipeline_knows_the_future(horizon):
    bars = random_bars([700] * 10)
    assert future_columns(bars, compute_features(bars), SESSIONS[-1] + 1000, horizon).passed is True


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 5])
def test_the_next_return_in_any_column_is_too_good(horizon, bars):
    for column in ("gap_direction", "ma60", "weekday"):
        planted = plant_next_return(bars, compute_features(bars), column)
        found = future_columns(bars, planted, SESSIONS[-1] + 1000, horizon)
        assert found.passed is False
        assert column in found.figures["too_good"]


@pytest.mark.parametrize("column", ["close", "open", "bb_upper"])
@pytest.mark.parametrize("horizon", [1, 5])
def test_the_next_close_in_any_column_is_too_good_by_its_change(column, horizon, bars):
    planted = compute_features(bars)
    planted[:, FEATURES.index(column)] = bars.close * (1 + np.nan_to_num(return_ahead(bars, 1)))
    found = future_columns(bars, planted, SESSIONS[-1] + 1000, horizon)
    assert found.passed is False
    assert found.figures["too_good"] == [f"change of {column}"]


@pytest.mark.slow
def test_the_strong_signal_of_the_simulated_market_is_not_too_good():
    bars = SimulatedMarket(0, 1.0, 13, 2, "2019-07-01", "2021-12-30").load()
    for horizon in (1, 5):
        found = future_columns(bars, compute_features(bars), np.datetime64("2021-12-30"), horizon)
        assert found.passed is True
    assert 0.15 < found.figures["largest"]["estimate"] < found.figures["limit"]


def test_columns_are_judged_up_to_the_last_session_of_training_only(bars):
    features = compute_features(bars)
    planted = np.where(bars.date[:, None] > SESSIONS[290], plant_next_return(bars, features), features)
    assert future_columns(bars, planted, SESSIONS[290]).figures == future_columns(bars, features, SESSIONS[290]).figures


def test_fewer_than_three_issues_a_day_cannot_tell():
    bars = random_bars([400] * (FEWEST_ISSUES - 1))
    assert future_columns(bars, compute_features(bars), SESSIONS[-1] + 1000).passed is None


def test_days_too_few_to_catch_a_planted_column_cannot_tell():
    rng = np.random.default_rng(0)
    date = np.repeat(SESSIONS[:25], 4)
    found = too_good_columns(rng.standard_normal((100, 2, 3)), list("abc"), rng.standard_normal(100), date)
    assert found.passed is None


@pytest.mark.slow
def test_the_limit_is_a_share_of_what_the_next_session_shows_among_as_many_issues():
    rng, rho = np.random.default_rng(0), 5**-0.5
    date, outcome = np.repeat(np.arange(4000).astype("datetime64[D]"), 4), rng.standard_normal(16_000)
    column = rho * outcome + np.sqrt(1 - rho**2) * rng.standard_normal(16_000)
    last_two = np.stack([np.zeros(16_000), column], axis=1)[..., None]
    found = too_good_columns(last_two, ["planted"], outcome, date)
    assert found.figures["largest"]["estimate"] == pytest.approx(found.figures["limit"] / 0.7, abs=0.02)
    assert found.passed is False


def test_returns_ahead_stay_within_their_segment():
    bars = random_bars([5, 3])
    ahead = return_ahead(bars, 2)
    assert np.isnan(ahead).tolist() == [False, False, False, True, True, False, True, True]
    assert ahead[0] == bars.close[2] / bars.close[0] - 1


def test_the_self_test_finds_the_planted_column_by_all_three_checks(bars):
    found = self_test(bars, compute_features, SESSIONS[-1] + 1000)
    assert found.passed is True
    assert set(found.figures.values()) == {"caught"}


def test_the_self_test_fails_where_a_check_misses_the_plant(bars, monkeypatch):
    monkeypatch.setattr("lasps.leaks.plant_next_return", lambda bars, features: features)
    assert self_test(bars, compute_features, SESSIONS[-1] + 1000).passed is False
