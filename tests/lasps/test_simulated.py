from functools import cache

import numpy as np
import pytest

from common.errors import UserError
from lasps.data.bars import Bars
from lasps.data.simulated import DRIFT, RULES, SimulatedMarket, round_to_tick

COLUMNS = ("stock", "segment", "date", "open", "high", "low", "close", "volume", "flow", "sector")


@cache
def market(**options) -> tuple[SimulatedMarket, Bars]:
    simulated = SimulatedMarket(**options)
    return simulated, simulated.load()


def ahead(bars: Bars, sessions: int) -> np.ndarray:
    """(R,) return over the issue's next sessions, NaN at the end of its segment."""
    returns = np.full(len(bars), np.nan)
    for rows in bars.segments():
        close = bars.close[rows]
        returns[rows][:-sessions] = close[sessions:] / close[:-sessions] - 1
    return returns


def labels(bars: Bars) -> np.ndarray:
    """(R,) 0 SELL, 1 HOLD, 2 BUY; −1 without a label."""
    forward = ahead(bars, 5)
    return np.where(np.isnan(forward), -1, 1 + (forward >= 0.03).astype(int) - (forward <= -0.03))


def best_balanced_accuracy(score: np.ndarray, label: np.ndarray) -> float:
    """Balanced accuracy of BUY above +c, SELL below −c, for the best c."""

    def at(c: float) -> float:
        predicted = 1 + (score > c).astype(int) - (score < -c)
        return np.mean([(predicted[label == k] == k).mean() for k in range(3)])

    return max(at(c) for c in np.quantile(np.abs(score), np.linspace(0, 0.98, 50)))


def mean_and_error(values: np.ndarray, date: np.ndarray) -> tuple[float, float]:
    """Mean over sessions and its standard error; issues of one session share shocks, so sessions are the units."""
    session = np.unique(date, return_inverse=True)[1]
    daily = np.bincount(session, values) / np.bincount(session)
    return daily.mean(), daily.std(ddof=1) / np.sqrt(len(daily))


def volatility_clustering(bars: Bars) -> float:
    """Correlation of |return| with the mean |return| of the 20 sessions before, over all issues."""
    pairs = []
    for rows in bars.segments():
        size = np.abs(np.diff(np.log(bars.close[rows])))
        if len(size) > 20:
            before = np.lib.stride_tricks.sliding_window_view(size[:-1], 20).mean(axis=1)
            pairs.append(np.stack([before - before.mean(), size[20:] - size[20:].mean()]))
    return np.corrcoef(np.concatenate(pairs, axis=1))[0, 1]


def test_a_seed_gives_the_same_bars_again_and_another_seed_others():
    first, again, other = (SimulatedMarket(seed=seed, end="2020-06-30").load() for seed in (3, 3, 4))
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.close[:100], other.close[:100])


@pytest.mark.parametrize("signal", [0.0, 1.0])
def test_a_later_end_leaves_the_earlier_bars_as_they_were(signal: float):
    short = SimulatedMarket(signal=signal, end="2022-06-30").load()
    long = SimulatedMarket(signal=signal, end="2023-03-31").load()
    earlier = long.date <= np.datetime64("2022-06-30")
    assert long.codes[: len(short.codes)] == short.codes
    for name in set(COLUMNS) - {"segment"}:
        np.testing.assert_array_equal(getattr(short, name), getattr(long, name)[earlier])


@pytest.mark.parametrize("num_sectors", [13, 20])
def test_bars_are_sorted_complete_and_cover_every_sector(num_sectors: int):
    _, bars = market(num_sectors=num_sectors)
    assert len(bars.sectors) == num_sectors
    assert bars.synthetic
    issues = np.array([len(np.unique(bars.stock[bars.sector == k])) for k in range(num_sectors)])
    assert issues.min() >= 1
    assert issues.max() > issues.min()
    assert len(bars.codes) == len(set(bars.codes)) == pytest.approx(6 * num_sectors, abs=num_sectors)
    assert bars.codes[0] == "000010"
    assert len(bars.segments()) == len(np.unique(bars.stock))
    for rows in bars.segments():
        assert len(np.unique(bars.stock[rows])) == len(np.unique(bars.sector[rows])) == 1
        assert (np.diff(bars.date[rows]) > np.timedelta64(0, "D")).all()
    assert np.is_busday(bars.date).all()
    assert not np.isin(bars.date, np.array(["2020-01-01", "2021-03-01", "2023-12-25"], "datetime64[D]")).any()


def test_a_sector_has_an_issue_even_at_one_issue_per_sector():
    _, bars = market(num_sectors=20, stocks_per_sector=1, end="2020-06-30")
    assert set(bars.sector) == set(range(20))


@pytest.mark.parametrize(
    ("price", "quoted"),
    [(1_999.4, 1_999), (2_003, 2_005), (5_004, 5_000), (20_030, 20_050), (123_449, 123_400), (300_249, 300_000),
     (700_499, 700_000), (19_997, 20_000)],
)  # fmt: skip
def test_prices_are_rounded_to_the_tick_of_their_bracket(price: float, quoted: float):
    assert round_to_tick(np.array([price])) == quoted


@pytest.mark.parametrize("signal", [0.0, 1.0, 40.0])
def test_prices_are_quotable_ordered_and_within_the_daily_limit(signal: float):
    _, bars = market(signal=signal, end="2021-12-30")
    prices = np.stack([bars.open, bars.high, bars.low, bars.close])
    np.testing.assert_array_equal(prices, round_to_tick(prices))
    assert (bars.low > 0).all()
    assert (bars.low <= np.minimum(bars.open, bars.close)).all()
    assert (bars.high >= np.maximum(bars.open, bars.close)).all()
    for rows in bars.segments():
        before = bars.close[rows][:-1]
        assert np.abs(prices[:, rows][:, 1:] / before - 1).max() <= 0.3


def test_a_strong_drift_runs_into_the_daily_limit():
    _, bars = market(signal=40.0, end="2021-12-30")
    assert np.nanmax(np.abs(ahead(bars, 1))) > 0.28


def test_halted_sessions_are_absent_and_counted():
    simulated, bars = market()
    missing = 0
    for rows in bars.segments():
        first, last = np.searchsorted(simulated.dates, bars.date[rows][[0, -1]])
        missing += last - first + 1 - len(bars.date[rows])
    assert 0 < missing <= bars.counts["non_trading_rows"]  # a halt at the very start or end leaves no gap
    assert bars.counts["rows_read"] == len(bars) + bars.counts["non_trading_rows"]


def test_some_issues_list_late_or_are_delisted_and_are_counted():
    simulated, bars = market()
    begin = np.array([bars.date[rows][0] for rows in bars.segments()])
    end = np.array([bars.date[rows][-1] for rows in bars.segments()])
    month = np.timedelta64(30, "D")  # longer than any halt
    assert (begin > simulated.dates[0] + month).sum() == bars.counts["late_listings"] > 0
    assert (end < simulated.dates[-1] - month).sum() == bars.counts["delisted_issues"] > 0
    assert bars.counts["delisted_issues"] < len(bars.codes) / 10


def test_volumes_and_flows_are_whole_shares_of_a_plausible_size():
    _, bars = market()
    for values in (bars.volume, bars.flow):
        np.testing.assert_array_equal(values, np.rint(values))
    assert bars.volume.min() >= 1
    assert (np.abs(bars.flow) <= np.ceil(0.1 * bars.volume)).all()
    assert np.abs(bars.flow).max() < 1e8
    assert np.mean(bars.flow > 0) == pytest.approx(0.5, abs=0.05)
    moves = [np.corrcoef(np.abs(np.diff(np.log(bars.close[s]))), np.log(bars.volume[s][1:]))[0, 1]
             for s in bars.segments()]  # fmt: skip
    assert np.mean(moves) > 0.1


def test_pure_noise_has_the_label_shares_of_the_korean_market():
    label = labels(market(signal=0.0)[1])
    np.testing.assert_allclose(np.bincount(label[label >= 0]) / (label >= 0).sum(), [0.24, 0.52, 0.24], atol=0.03)


def test_no_label_is_rare_under_the_signal():
    label = labels(market()[1])
    sell, hold, buy = np.bincount(label[label >= 0]) / (label >= 0).sum()
    assert 0.40 < hold < 0.56
    assert abs(sell - buy) < 0.03


def test_volatility_clusters_with_the_signal_and_not_without():
    assert volatility_clustering(market()[1]) > 0.1
    assert abs(volatility_clustering(market(signal=0.0)[1])) < 0.02


def test_without_signal_all_issues_have_the_same_volatility():
    def spread(bars: Bars) -> float:
        return np.std([np.diff(np.log(bars.close[s])).std() for s in bars.segments() if len(bars.date[s]) > 600])

    assert spread(market(signal=0.0)[1]) < 0.001 < spread(market()[1])


def test_expected_return_follows_the_formula_of_the_module():
    simulated, bars = market()
    expected = simulated.expected_return(bars)
    rng = np.random.default_rng(0)
    for rows in bars.segments()[::8]:
        t = rows.start + 20 + int(rng.integers(rows.stop - rows.start - 20))
        returns = np.array([bars.close[s] / bars.close[s - 1] - 1 for s in range(t - 19, t + 1)])
        trend = np.tanh(returns[-5:].sum() / np.sqrt(5 * np.mean(returns**2)))
        flow = np.mean([np.sign(bars.flow[s]) for s in range(t - 4, t + 1)])
        by_trend, by_flow = RULES[bars.sector[t] % len(RULES)]
        assert expected[t] == pytest.approx(DRIFT * (by_trend * trend + by_flow * flow), abs=1e-12)
        assert (expected[rows.start : rows.start + 20] == 0).all()


def test_the_next_return_moves_one_for_one_with_its_expectation():
    simulated, bars = market()
    expected, after = simulated.expected_return(bars), ahead(bars, 1)
    known = np.isfinite(after) & (expected != 0)
    gap, error = mean_and_error(expected[known] * (after - expected)[known], bars.date[known])
    scale = np.mean(expected[known] ** 2)
    assert abs(gap) < 4 * error
    assert error < 0.1 * scale  # the check above could tell a slope of 1 from one of 0.5


@pytest.mark.slow
def test_who_knows_the_sectors_rule_does_much_better_than_who_does_not():
    simulated, bars = market()
    label = labels(bars)
    known = label >= 0
    oracle = best_balanced_accuracy(simulated.expected_return(bars)[known], label[known])
    average = tuple(np.array(RULES)[bars.sector % len(RULES)].mean(axis=0))
    blind = []
    for rule in ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0), average):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lasps.data.simulated.RULES", (rule,))  # every sector follows one rule
            score = simulated.expected_return(bars)[known]
        blind.append(best_balanced_accuracy(score, label[known]))
    assert 0.48 < oracle < 0.58
    assert max(blind) < oracle - 0.1


@pytest.mark.parametrize("sessions", [1, 5])
def test_without_signal_the_planted_rule_tells_nothing_of_the_next_returns(sessions: int):
    _, bars = market(signal=0.0)
    rule = SimulatedMarket(signal=1.0).expected_return(bars)
    after = ahead(bars, sessions)
    known = np.isfinite(after) & (rule != 0)
    known &= np.isin(bars.date, np.unique(bars.date)[::sessions])  # no two returns overlap
    mean, error = mean_and_error(rule[known] * after[known], bars.date[known])
    assert abs(mean) < 4 * error


@pytest.mark.parametrize(
    ("start", "end", "told"),
    [("2024-13-01", "2024-12-30", "2024-13-01"), ("2024-02-01", "2024-01-01", "longer span"),
     ("2024-01-06", "2024-01-07", "fewer than two sessions")],
)  # fmt: skip
def test_impossible_dates_are_refused(start: str, end: str, told: str):
    with pytest.raises(UserError, match=told):
        SimulatedMarket(start=start, end=end)
