"""The backtest engine: every rule against figures worked out by hand, and what must hold in any market."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from common.errors import UserError
from lasps.backtest import (
    SESSIONS_PER_YEAR,
    KrxRules,
    Panel,
    Portfolio,
    attainable,
    backtest,
    deflated_sharpe,
    equal_weight,
    excess_return,
    index_equity,
    panel,
    performance,
    score_matrix,
    session_returns,
    simulate,
    summary,
)
from lasps.data.bars import Bars
from lasps.data.sectors import LASPS13, SectorScheme
from lasps.data.sources import KrxFiles

RULES = Path(__file__).parents[2] / "conf/analysis/lasps/parts/krx_rules.yaml"
NAN = math.nan


def market(close, open=None, volume=1e9, factor=1.0, breaks=(), start="2019-05-27", sector=None) -> Panel:
    """A panel of the given closes (D, S); NaN halts. `breaks` names (session, issue) pairs."""
    close = np.array(close, dtype=np.float64)
    broken = np.zeros(close.shape, bool)
    for session, issue in breaks:
        broken[session, issue] = True
    prior = np.full(close.shape, NAN)
    for d in range(1, len(close)):
        prior[d] = np.where(np.isnan(close[d - 1]), prior[d - 1], close[d - 1])
    halted = np.isnan(close)
    return Panel(
        codes=[f"{number:06d}" for number in range(close.shape[1])],
        dates=np.busday_offset(start, np.arange(len(close)), roll="forward"),
        open=close if open is None else np.array(open, dtype=np.float64),
        close=close,
        prior=np.where(broken, NAN, prior),
        breaks=broken,
        volume=np.where(halted, 0.0, np.broadcast_to(np.array(volume, dtype=np.float64), close.shape)),
        factor=np.where(halted, 1.0, factor),
        sector=np.zeros(close.shape, np.int64) if sector is None else np.tile(sector, (len(close), 1)),
        sector_names=("electronics", "finance"),
        gaps=np.empty(0, "datetime64[D]"),
    )


def free(capital: float, **changes) -> KrxRules:
    """Rules without costs or volume cap, but for what `changes` says."""
    costless = {"commission_bp": 0.0, "slippage_bp": 0.0, "impact_bp": 0.0, "borrow_rate": 0.0, "max_volume_share": 1.0}
    return KrxRules(**{"sell_tax": {"1900-01-01": 0.0}, "capital": capital} | costless | changes)


def single(horizon: int = 2, **changes) -> Portfolio:
    """One tranche that holds the best issue."""
    return Portfolio(**{"quantile": 0.01, "horizon": horizon, "tranches": 1} | changes)


def column(*values) -> list[list[float]]:
    return [[value] for value in values]


def expect(actual, expected) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9)


# -- orders -----------------------------------------------------------------------------------------------------------


def test_only_whole_shares_are_bought_and_the_rest_stays_cash():
    run = simulate(market(column(300, 330, 330)), np.array(column(1, NAN, NAN)), free(1000), single())
    expect(run.equity, [1000, 1090, 1090])
    expect(run.cash, [100, 100, 1090])
    expect(run.shares, column(3, 3, 0))
    assert run.fills == 2


def test_a_lot_of_ten_shares_leaves_more_cash():
    run = simulate(market(column(30, 30)), np.array(column(1, NAN)), free(1000, lot=10), single())
    expect(run.shares, column(30, 30))


def test_money_that_does_not_buy_a_lot_is_counted():
    run = simulate(market(column(1001, 1001)), np.array(column(1, NAN)), free(1000), single())
    assert run.refused == {"entry_below_lot": 1}
    expect(run.equity, [1000, 1000])


def test_commission_and_tax_are_paid_and_set_aside_before_shares_are_counted():
    rules = free(10_000, commission_bp=10.0, sell_tax={"1900-01-01": 0.003})
    run = simulate(market(column(100, 110)), np.array(column(1, NAN)), rules, single(1))
    expect(run.shares, column(99, 0))  # 100 shares would cost 10 010
    expect(run.cost, [9.9, 10.89 + 32.67])
    expect(run.equity, [9_990.1, 10_936.54])
    expect(run.traded, [9_900, 10_890])


def test_the_tax_of_the_day_of_the_sale_applies():
    rules = free(1000, sell_tax={"2019-06-03": 0.0025, "1900-01-01": 0.003})
    score = np.array(column(1, NAN, NAN))
    before = simulate(market(column(100, 100, 100), start="2019-05-30"), score, rules, single(1))
    after = simulate(market(column(100, 100, 100), start="2019-05-31"), score, rules, single(1))
    expect(before.cost, [0, 3, 0])  # sold on Friday 31 May
    expect(after.cost, [0, 2.5, 0])  # sold on Monday 3 June


def test_slippage_and_the_root_of_the_volume_share_are_paid():
    rules = free(100_000, slippage_bp=5.0, impact_bp=100.0)
    run = simulate(market(column(100, 100), volume=100_000), np.array(column(1, NAN)), rules, single())
    # 1 000 shares are 1 % of the volume: 5 + 100 · 0.1 = 15 bp are set aside, 998 shares are left
    expect(run.shares, column(998, 998))
    expect(run.cost, [99_800 * (0.0005 + 0.01 * math.sqrt(0.00998)), 0])


def test_nothing_is_bought_at_the_upper_limit():
    score = np.array(column(NAN, 1, NAN))
    refused = simulate(market(column(100, 130, 150)), score, free(1000), single(1))
    assert refused.refused == {"entry_limit_up": 1}
    expect(refused.equity, [1000, 1000, 1000])
    done = simulate(market(column(100, 129, 150)), score, free(1000), single(1))
    assert done.refused == {}
    expect(done.shares, column(0, 7, 0))


def test_the_last_tick_before_a_limit_counts_as_the_limit():
    # 0.5 % of the limit: from 129.35 up and from 70.35 down
    score = np.array(column(NAN, 1, NAN, NAN))
    run = simulate(market(column(100, 129.4, 129, 129)), score, free(1000), single(1))
    assert run.refused == {"entry_limit_up": 1}
    run = simulate(market(column(100, 100, 70.3, 70.3)), score, free(1000), single(1))
    assert run.refused == {"exit_limit_down": 1}
    assert simulate(market(column(100, 100, 70.4, 70.4)), score, free(1000), single(1)).refused == {}


def test_a_sale_at_the_lower_limit_waits_for_the_next_close():
    score = np.array(column(1, NAN, NAN, NAN, NAN))
    run = simulate(market(column(100, 100, 70, 60, 90)), score, free(1000), single())
    expect(run.equity, [1000, 1000, 700, 600, 600])
    assert run.refused == {"exit_limit_down": 1}


def test_a_limit_set_by_config_is_the_one_obeyed():
    score = np.array(column(NAN, 1, NAN))
    run = simulate(market(column(100, 115, 150)), score, free(1000, price_limit=0.15), single(1))
    assert run.refused == {"entry_limit_up": 1}


def test_a_halted_issue_is_valued_at_its_last_close_and_sold_when_it_trades_again():
    score = np.array(column(1, NAN, NAN, NAN, NAN, NAN, NAN))
    run = simulate(market(column(100, 100, NAN, NAN, NAN, 80, 200)), score, free(1000), single())
    expect(run.equity, [1000, 1000, 1000, 1000, 1000, 800, 800])
    expect(run.carried_value, [0, 0, 1000, 1000, 1000, 0, 0])
    assert run.refused == {"exit_halt": 3}


def test_an_order_to_buy_a_halted_issue_lapses():
    prices = [[100, 100], [100, NAN], [100, 100], [100, 100]]
    score = np.array([[NAN, NAN], [0, 1], [NAN, NAN], [NAN, NAN]])
    run = simulate(market(prices), score, free(1000), single(3, entry="close_t"))
    expect(run.shares, np.zeros((4, 2)))  # sessions 0 and 3 form cohorts: nothing scored there
    run = simulate(market(prices), score, free(1000), single(1))
    expect(run.shares, np.zeros((4, 2)))
    assert run.refused == {"entry_halt": 1}


def test_what_cannot_be_sold_counts_up_to_its_own_target():
    third = np.full(3, 1 / 3)
    assert attainable(300.0, third, np.zeros(3)) == 300
    assert attainable(300.0, third, np.array([0.0, 60.0, 90.0])) == pytest.approx(450, abs=1e-9)
    # targets of 150 take 150 and 50 of the 200; the third has 850 too much, which helps nobody
    assert attainable(200.0, third, np.array([1000.0, 0.0, 100.0])) == pytest.approx(450, abs=1e-9)
    neutral = np.array([0.25, 0.25, -0.25, -0.25])
    assert attainable(300.0, neutral, np.array([500.0, 0.0, 0.0, 0.0])) == pytest.approx(400, abs=1e-9)
    assert attainable(300.0, neutral, np.array([500.0, 900.0, 0.0, 0.0])) == pytest.approx(600, abs=1e-9)
    assert attainable(300.0, np.zeros(3), np.ones(3)) == 300


def test_a_chosen_issue_is_not_sold_because_its_volume_is_thin():
    volume = column(1e6, 10, 10)
    run = simulate(market(column(100, 100, 100), volume=volume), np.array(column(1, 1, 1)), free(1000), single(1))
    expect(run.shares, column(10, 10, 10))
    volume = column(1e6, 4, 4)
    run = simulate(market(column(100, 100, 100), volume=volume), np.array(column(1, 1, 1)), free(1000), single(1))
    expect(run.shares, column(10, 10, 10))


def test_shares_held_are_not_sold_to_set_costs_aside():
    volume = column(1e6, 100, 100)
    score, rules = np.array(column(1, 1, 1)), free(100_200, impact_bp=100.0)
    run = simulate(market(column(100, 100, 100), volume=volume), score, rules, single(1))
    # on the thin days 100 shares can be sold at 1 %: the 100 won for that are 31.67 more than the cash that was left,
    # so one share is sold; a purchase of all of them would have to set aside 1 000
    expect(run.shares, column(1001, 1000, 1000))
    expect(run.cost, [100_100 * 0.01 * math.sqrt(0.001001), 100 * 0.01 * 0.1, 0])


def test_a_chosen_issue_that_is_halted_keeps_the_shares_it_has():
    run = simulate(market(column(100, 100, NAN, 120, 120)), np.array(column(1, NAN, 1, NAN, NAN)), free(1000), single())
    expect(run.shares, column(10, 10, 10, 10, 0))
    assert run.refused == {}


def test_orders_are_filled_up_to_their_share_of_the_volume():
    score = np.array(column(1, NAN, NAN, NAN))
    volume = column(60, 60, 40, 1000)
    rules = free(1000, max_volume_share=0.1)
    run = simulate(market(column(100, 100, 100, 80), volume=volume), score, rules, single())
    expect(run.shares, column(6, 6, 2, 0))  # the purchase lapses, the sale goes on
    expect(run.equity, [1000, 1000, 1000, 960])
    assert run.refused == {"entry_volume": 1, "exit_volume": 1}


def test_tranches_share_the_volume_of_the_day():
    score = np.array(column(1, 1, NAN, NAN, NAN))
    volume = column(5, 5, 3, 4, 9)
    run = simulate(market(column(*[100] * 5), volume=volume), score, free(1000), single(2, tranches=2))
    expect(run.shares, column(5, 10, 7, 3, 0))


# -- cohorts ----------------------------------------------------------------------------------------------------------


def test_tranches_are_books_of_their_own():
    prices = [[100, 50], [120, 50], [150, 60], [150, 60]]
    score = np.array([[1, 0], [0, 1], [0, 1], [NAN, NAN]])
    run = simulate(market(prices), score, free(1000), single(2, tranches=2))
    # the first sells its 5 shares for 750 and buys 12 of the other; the second holds 10 of it from session 1 on
    expect(run.shares, [[5, 0], [5, 10], [0, 22], [0, 12]])
    expect(run.equity, [1000, 1100, 1350, 1350])
    expect(run.cash, [500, 0, 30, 630])


def test_what_is_kept_at_the_same_close_is_not_traded():
    rules = free(10_100, commission_bp=10.0)
    run = simulate(market(column(*[100] * 5)), np.array(column(1, NAN, 1, NAN, NAN)), rules, single())
    expect(run.traded, [10_000, 0, 0, 0, 10_000])
    expect(run.equity, [10_090, 10_090, 10_090, 10_090, 10_080])


def test_only_the_difference_to_the_new_cohort_is_traded():
    prices = [[100, 100], [100, 100]]
    score = np.array([[1, NAN], [1, 0]])  # then both, half of the money each
    run = simulate(market(prices), score, free(1000), single(1, quantile=1.0))
    expect(run.shares, [[10, 0], [5, 5]])
    expect(run.traded, [1000, 1000])


def test_entry_at_the_next_open_and_exit_at_the_close_of_the_horizon():
    close, open = column(100, 120, 130, 500), column(100, 110, 100, 400)
    score = np.array(column(1, NAN, NAN, NAN))
    run = simulate(market(close, open), score, free(1100), single(entry="open_t1"))
    expect(run.shares, column(0, 10, 0, 0))
    expect(run.equity, [1100, 1200, 1300, 1300])


def test_cohorts_at_the_open_are_formed_on_the_scores_of_the_session_before():
    prices = [[100, 100]] * 4
    score = np.array([[1, 0], [0, 1], [1, 0], [0, 1]])
    run = simulate(market(prices), score, free(1000), single(2, tranches=2, entry="open_t1"))
    expect(run.shares, [[0, 0], [5, 0], [0, 5], [5, 0]])


def test_an_exit_missed_at_the_close_is_made_before_the_next_cohort_is_bought():
    close, open = [[100, 50], [100, 50], [NAN, 50], [90, 50]], [[100, 50], [100, 50], [NAN, 50], [80, 50]]
    score = np.array([[1, 0], [NAN, NAN], [0, 1], [NAN, NAN]])
    run = simulate(market(close, open), score, free(1000), single(entry="open_t1"))
    expect(run.shares, [[0, 0], [10, 0], [10, 0], [0, 16]])  # ten shares sold at the open, at 80
    expect(run.equity, [1000, 1000, 1000, 800])


@pytest.mark.parametrize(("quantile", "size"), [(0.1, 1), (0.3, 3), (1.0, 10)])
def test_a_leg_holds_its_share_of_the_scored_issues(quantile, size):
    score = np.append(np.arange(10.0), NAN)
    weights = Portfolio(quantile).weights(score, np.arange(11))
    expected = np.zeros(11)
    expected[10 - size : 10] = 1 / size
    expect(weights, expected)


def test_equal_scores_are_ranked_by_the_tie_break():
    weights = Portfolio(0.5).weights(np.zeros(4), np.array([2, 0, 3, 1]))
    expect(weights, [0, 0.5, 0, 0.5])


def test_the_legs_of_a_market_neutral_portfolio_never_overlap():
    neutral = Portfolio(0.5, "market_neutral")
    expect(neutral.weights(np.array([3.0, 1.0, 2.0]), np.arange(3)), [0.5, -0.5, 0])
    expect(neutral.weights(np.array([3.0, NAN, NAN]), np.arange(3)), [0, 0, 0])


# -- short sales ------------------------------------------------------------------------------------------------------


def short_rules(**changes) -> KrxRules:
    return free(2000, allow_short=True, **changes)


def test_a_market_neutral_portfolio_earns_on_both_legs():
    score = np.array([[1, 0], [NAN, NAN], [NAN, NAN]])
    run = simulate(market([[100, 50], [110, 45], [110, 45]]), score, short_rules(), single(side="market_neutral"))
    expect(run.shares, [[10, -20], [10, -20], [0, 0]])
    expect(run.cash, [2000, 2000, 2200])
    expect(run.equity, [2000, 2200, 2200])
    expect(run.invested, [2000, 2000, 0])


def test_short_sales_pay_commission_tax_and_borrowing():
    rules = short_rules(commission_bp=10.0, sell_tax={"1900-01-01": 0.003}, borrow_rate=0.001 * SESSIONS_PER_YEAR)
    score = np.array([[1, 0], [NAN, NAN], [NAN, NAN]])
    run = simulate(market([[100, 50], [110, 45], [110, 45]]), score, rules, single(side="market_neutral"))
    expect(run.shares[0], [9, -19])
    expect(run.cost, [0.9 + 0.95 + 2.85 + 0.95, 0.855, 0.99 + 2.97 + 0.855])
    expect(run.equity, [1994.35, 2178.495, 2173.68])
    double = simulate(market([[100, 50], [110, 45], [110, 45]]), score, rules, single(side="market_neutral"), 2.0)
    expect(double.cost, 2 * run.cost)  # the same 9 and 19 shares


def test_a_short_position_cannot_be_covered_at_the_upper_limit():
    score = np.array([[1, 0], [NAN, NAN], [NAN, NAN], [NAN, NAN]])
    prices = [[100, 50], [100, 50], [100, 65], [100, 70]]
    run = simulate(market(prices), score, short_rules(), single(side="market_neutral"))
    expect(run.shares, [[10, -20], [10, -20], [0, -20], [0, 0]])
    expect(run.equity, [2000, 2000, 1700, 1600])
    assert run.refused == {"exit_limit_up": 1}


def test_a_smaller_short_position_that_cannot_be_had_is_tried_again():
    score = np.array([[1, 0], [NAN, NAN], [1, 0], [NAN, NAN]])
    prices = [[100, 50], [100, 50], [100, 65], [100, 65]]
    run = simulate(market(prices), score, short_rules(), single(side="market_neutral"))
    expect(run.shares, [[10, -20], [10, -20], [8, -20], [8, -13]])  # of 1 700, half each
    assert run.refused == {"exit_limit_up": 1}


def test_a_short_position_that_cannot_be_covered_is_a_debt_when_money_is_counted():
    score = np.array([[1, 0], [1, 0]])
    prices = [[100, 50], [100, NAN]]
    run = simulate(market(prices), score, short_rules(), single(1, side="market_neutral"))
    expect(run.shares, [[10, -20], [10, -20]])  # 3 000 of cash and shares less the debt of 1 000


def test_a_long_position_can_turn_short_in_one_order():
    score = np.array([[1, 0], [0, 1]])
    run = simulate(market([[100, 100]] * 2), score, short_rules(), single(1, side="market_neutral"))
    expect(run.shares, [[10, -10], [-10, 10]])
    assert run.fills == 4


def test_short_sales_are_refused_unless_allowed():
    with pytest.raises(UserError, match="allow_short=true"):
        simulate(market([[1, 1]]), np.zeros((1, 2)), free(1000), single(side="market_neutral"))


# -- prices that do not compare ---------------------------------------------------------------------------------------


def test_a_position_is_carried_over_a_break_by_value():
    prices = column(100, 20, 22)  # one share became five
    run = simulate(market(prices, breaks=[(1, 0)]), np.array(column(1, NAN, NAN)), free(1000), single(5))
    expect(run.shares, column(10, 50, 50))
    expect(run.equity, [1000, 1000, 1100])
    assert run.breaks_held == 1


def test_a_sale_that_waits_over_a_break_is_made_in_the_new_shares():
    prices = column(100, NAN, 20, 30)
    run = simulate(market(prices, breaks=[(2, 0)]), np.array(column(1, NAN, NAN, NAN)), free(1000), single(1))
    expect(run.shares, column(10, 10, 0, 0))
    expect(run.equity, [1000, 1000, 1000, 1000])


def test_lots_and_volume_count_shares_as_quoted():
    quoted_100 = market(column(50, 50, 60), factor=0.5)
    run = simulate(quoted_100, np.array(column(1, NAN, NAN)), free(1050), single())
    expect(run.shares, column(20, 20, 0))  # ten shares at 100
    expect(run.equity, [1050, 1050, 1250])
    thin = market(column(50, 50, 60), factor=0.5, volume=5)
    run = simulate(thin, np.array(column(1, NAN, NAN)), free(1050), single())
    expect(run.shares, column(10, 10, 0))
    rules = free(1050, impact_bp=100.0)
    run = simulate(market(column(50, 50), factor=0.5, volume=1000), np.array(column(1, NAN)), rules, single())
    expect(run.cost, [1000 * 0.01 * math.sqrt(10 / 1000), 0])


# -- figures ----------------------------------------------------------------------------------------------------------


def test_runs_at_multiples_of_the_costs():
    rules = free(10_000, commission_bp=10.0, sell_tax={"1900-01-01": 0.003})
    result = backtest(market(column(100, 110)), np.array(column(1, NAN)), rules, single(1))
    expect(result.gross.equity, [10_000, 11_000])
    expect(result.net.equity, [9_990.1, 10_936.54])
    expect(result.runs[2.0].equity, [10_000 - 19.8, 10_000 - 19.8 + 990 - 10_890 * 0.008])


def test_turnover_and_holding_time():
    result = backtest(market(column(100, 125, 125)), np.array(column(1, NAN, NAN)), free(1000), single())
    expect(result.turnover(), [0.5, 0, 0.5])  # 1 000 bought of 1 000; 1 250 sold of 1 250
    expect(result.holding_sessions(), (1000 + 1250) / (2250 / 2))


def test_exposure_by_sector_is_signed():
    traded = market([[100, 50], [110, 50]], sector=[0, 1])
    rules, neutral = short_rules(), single(side="market_neutral")
    result = backtest(traded, np.array([[1, 0], [NAN, NAN]]), rules, neutral)
    expect(result.sector_exposure(), [[0.5, -0.5], [1100 / 2100, -1000 / 2100]])


def test_capacity_is_the_equity_at_which_the_median_order_fills_its_share_of_the_volume():
    rules = free(1000, max_volume_share=0.1)
    run = simulate(market(column(100, 100), volume=1005), np.array(column(1, NAN)), rules, single())
    assert run.capacity == pytest.approx(10_050, abs=1e-9)  # ten shares are asked for, a tenth of the volume is 100.5
    assert math.isnan(simulate(market(column(100)), np.array([[NAN]]), rules, single()).capacity)


def test_performance_of_a_curve():
    figures = performance(np.array([1100.0, 990.0, 1089.0]), 1000.0)
    spread = math.sqrt(0.04 / 3)  # returns 0.1, −0.1, 0.1 about their mean of 1/30
    expect(figures.total_return, 0.089)
    expect(figures.annual_return / 1.089 ** (246 / 3), 1 - 1 / 1.089 ** (246 / 3))
    expect(figures.volatility, spread * math.sqrt(246))
    expect(figures.max_drawdown, 0.1)


def test_the_sharpe_ratio_is_yearly_and_of_the_sample():
    equity = 1000 * np.cumprod(1 + np.tile([0.03, -0.01], 20))
    expect(performance(equity, 1000.0).sharpe.estimate, 0.01 / math.sqrt(40 * 0.02**2 / 39) * math.sqrt(246))


def test_a_loss_from_the_start_is_a_drawdown():
    expect(performance(np.array([900.0, 950.0]), 1000.0).max_drawdown, 0.1)


def test_the_interval_of_the_sharpe_ratio_resamples_blocks():
    returns = np.repeat(np.random.default_rng(0).normal(0.001, 0.01, 40), 5)  # five equal returns in a row
    equity = 1000 * np.cumprod(1 + returns)
    blocks, sessions = performance(equity, 1000.0, 5).sharpe, performance(equity, 1000.0, 1).sharpe
    assert blocks.n == 40
    assert blocks.low < blocks.estimate < blocks.high
    assert 1.9 < (blocks.high - blocks.low) / (sessions.high - sessions.low) < 2.6  # √5


def test_a_curve_that_moves_too_little_has_no_sharpe_ratio():
    assert performance(np.full(20, 1000.0), 1000.0).sharpe is None
    assert performance(np.full(20, 1010.0), 1000.0).sharpe is None  # one block of four
    rising = np.where(np.arange(20) < 15, 1.1, 0.9)  # three blocks equal but for rounding
    assert performance(1000 * np.cumprod(rising), 1000.0).sharpe is None


def test_excess_over_a_benchmark():
    equity, benchmark = 1000 * 1.002 ** np.arange(1, 11), 1000 * 1.001 ** np.arange(1, 11)
    expect(excess_return(equity, benchmark, 1000.0).estimate, 0.001 * 246)


def test_the_index_is_followed_from_the_close_of_the_first_session():
    sessions = np.array(["2019-05-27", "2019-05-28", "2019-05-29"], "datetime64[D]")
    dates = np.array(["2019-05-29", "2019-05-24", "2019-05-27"], "datetime64[D]")
    expect(index_equity(sessions, dates, np.array([330.0, 250.0, 300.0]), 1000.0), [1000, 1000, 1100])
    with pytest.raises(UserError, match="spans 2019-05-28 to 2019-05-29"):
        index_equity(sessions, sessions[1:], np.ones(2), 1000.0)


def test_the_deflated_sharpe_ratio_of_the_published_example():
    # Bailey and López de Prado 2014: yearly Sharpe 2.5 over 5 years of 250 days, 100 trials with variance ½,
    # skewness −3, kurtosis 10, which is that of two values, the higher 1 145 times in 1 250
    returns = np.where(np.arange(1250) < 1145, 1.0, 0.0)
    returns = (returns - returns.mean()) / returns.std(ddof=1) + 2.5 / math.sqrt(250)
    assert deflated_sharpe(returns, 100, math.sqrt(0.5 / 250)) == pytest.approx(0.9004, abs=3e-4)
    assert deflated_sharpe(returns, 46, math.sqrt(0.5 / 250)) == pytest.approx(0.9505, abs=3e-3)


def test_more_trials_deflate_more():
    returns = np.random.default_rng(1).normal(0.001, 0.01, 500)
    odds = [deflated_sharpe(returns, trials) for trials in (1, 2, 10, 1000)]
    assert odds == sorted(odds, reverse=True)
    assert 0.5 < odds[0] < 1
    with pytest.raises(ValueError, match="0 trials"):
        deflated_sharpe(returns, 0)


def test_the_summary_is_plain_json():
    rng = np.random.default_rng(0)
    traded = market(100 * np.exp(np.cumsum(rng.normal(0, 0.01, (30, 4)), 0)), sector=[0, 0, 1, 1])
    score, rules, portfolio = rng.normal(size=(30, 4)), free(1e6, commission_bp=1.5), Portfolio(0.5)
    result = backtest(traded, score, rules, portfolio)
    even = equal_weight(traded, score, rules, portfolio)
    record = json.loads(json.dumps(summary(result, {"equal_weight": even.net.equity}, 3), allow_nan=False))
    assert record["cost_multiples"]["1"]["total_return"] == pytest.approx(result.net.equity[-1] / 1e6 - 1)
    assert record["benchmarks"]["equal_weight"]["excess"]["n"] == 6
    assert sum(record["sector_exposure"].values()) == pytest.approx(record["invested_share"])


def test_yearly_cost_is_a_share_of_the_equity_before():
    rules = free(10_000, commission_bp=10.0, sell_tax={"1900-01-01": 0.003})
    record = summary(backtest(market(column(100, 110)), np.array(column(1, NAN)), rules, single(1)), {}, 1)
    expect(record["cost_year"], (9.9 / 10_000 + 43.56 / 9_990.1) / 2 * 246)
    expect(record["turnover_year"], (9_900 / 10_000 + 10_890 / 9_990.1) / 4 * 246)


def test_the_summary_of_a_strategy_that_never_trades():
    result = backtest(market(column(100, 110)), np.full((2, 1), NAN), free(1000), single())
    record = json.loads(json.dumps(summary(result, {"index": np.array([1000.0, 1100.0])}, 1), allow_nan=False))
    assert record["holding_sessions"] is None
    assert record["cost_multiples"]["1"]["sharpe"] is None


def test_equal_weight_holds_every_scored_issue_and_keeps_what_it_holds():
    traded = market([[100, 50, 20]] * 3)
    score = np.array([[3, 2, NAN]] * 3)
    even = equal_weight(traded, score, free(1000), single(1, entry="open_t1"))
    expect(even.net.shares, [[5, 10, 0]] * 3)
    expect(even.net.traded, [1000, 0, 0])


# -- input ------------------------------------------------------------------------------------------------------------


def bars(rows, sectors: SectorScheme = LASPS13, factor=None) -> Bars:
    """Bars from (code, segment, date, close, sector) rows; the open is one below, the volume ten."""
    codes = sorted({row[0] for row in rows})
    close = np.array([row[3] for row in rows], np.float64)
    return Bars(
        codes=codes,
        stock=np.array([codes.index(row[0]) for row in rows], np.int32),
        segment=np.array([row[1] for row in rows], np.int32),
        date=np.array([row[2] for row in rows], "datetime64[D]"),
        open=close - 1,
        high=close,
        low=close,
        close=close,
        volume=np.full(len(rows), 10.0),
        flow=np.full(len(rows), NAN),
        sector=np.array([row[4] for row in rows], np.int64),
        sectors=sectors,
        synthetic=True,
        factor=factor,
    )


def test_a_panel_shows_halts_breaks_and_the_close_before():
    table = bars(
        [
            ("000010", 0, "2019-05-27", 100, 3),
            ("000010", 0, "2019-05-28", 101, 3),
            ("000010", 1, "2019-05-30", 20, 4),
            ("000020", 2, "2019-05-28", 50, 5),
            ("000020", 2, "2019-05-29", 51, 5),
            ("000020", 2, "2019-05-31", 52, 5),
            ("000030", 3, "2019-05-27", 7, 0),
        ]
    )
    made = panel(table, "2019-05-28", "2019-05-31")
    assert made.codes == ["000010", "000020"]  # 000030 has no bar between the dates
    assert [str(day) for day in made.dates] == ["2019-05-28", "2019-05-29", "2019-05-30", "2019-05-31"]
    np.testing.assert_array_equal(made.close, [[101, 50], [NAN, 51], [20, NAN], [NAN, 52]])
    np.testing.assert_array_equal(made.open, [[100, 49], [NAN, 50], [19, NAN], [NAN, 51]])
    np.testing.assert_array_equal(made.prior, [[100, NAN], [NAN, 50], [NAN, NAN], [NAN, 51]])
    np.testing.assert_array_equal(made.breaks, [[False, False], [False, False], [True, False], [False, False]])
    np.testing.assert_array_equal(made.volume, [[10, 10], [0, 10], [10, 0], [0, 10]])
    np.testing.assert_array_equal(made.sector, [[3, 5], [3, 5], [4, 5], [4, 5]])
    np.testing.assert_array_equal(made.factor, np.ones((4, 2)))
    with pytest.raises(UserError, match="span 2019-05-27 to 2019-05-31"):
        panel(table, "2020-01-01", "2020-12-31")


def test_sessions_that_the_data_lack_are_left_out_and_a_break_on_them_is_not_lost():
    days = ["2019-05-27", "2019-05-28", "2019-05-29", "2019-05-30", "2019-05-31"]
    rows = [(f"{n:06d}", n, day, 10 + n, 0) for n in range(2) for day in days if day not in days[2:4]]
    rows += [("000002", 2 + (day > days[1]), day, 12, 0) for day in days]
    made = panel(bars(rows), days[0], days[-1])
    assert [str(day) for day in made.gaps] == days[2:4]
    assert [str(day) for day in made.dates] == [*days[:2], days[4]]
    np.testing.assert_array_equal(made.breaks[2], [False, False, True])
    score = score_matrix(made, np.array(["000002"] * 5), np.array(days, "datetime64[D]"), np.arange(5.0))
    np.testing.assert_array_equal(score[:, 2], [0, 1, 4])


def test_scores_are_placed_by_code_and_date():
    made = market([[1, 2]] * 3)
    score = score_matrix(made, np.array(["000001", "000000"]), made.dates[[2, 0]], np.array([7.0, 8.0]))
    np.testing.assert_array_equal(score, [[8, NAN], [NAN, NAN], [NAN, 7]])


def test_a_score_of_an_issue_without_bars_is_refused():
    made = market([[1, 2]] * 3)
    with pytest.raises(UserError, match="000009 on 2019-05-28"):
        score_matrix(made, np.array(["000009"]), made.dates[[1]], np.zeros(1))
    with pytest.raises(UserError, match="000000 on 2019-06-01"):
        score_matrix(made, np.array(["000000"]), np.array(["2019-06-01"], "datetime64[D]"), np.zeros(1))
    with pytest.raises(ValueError, match="shape"):
        simulate(made, np.zeros((2, 2)), free(1000), single())


def test_a_tax_table_must_begin_before_the_sessions():
    rules = free(1000, sell_tax={"2019-05-28": 0.003})
    with pytest.raises(UserError, match="no rate for 2019-05-27"):
        simulate(market(column(1, 1)), np.zeros((2, 1)), rules, single())
    with pytest.raises(UserError, match="2019-06-03"):
        free(1000, sell_tax={"June": 0.003})


def test_portfolios_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="does not divide"):
        Portfolio(horizon=5, tranches=2)
    with pytest.raises(UserError, match="overlap"):
        Portfolio(0.6, "market_neutral")


def test_the_configured_tax_table():
    rules = instantiate(OmegaConf.load(RULES).rules, _convert_="all")
    days = ["2015-01-02", "2019-05-31", "2019-06-03", "2020-12-30", "2021-01-04", "2023-01-02", "2024-01-02",
            "2025-01-02", "2026-01-02"]  # fmt: skip
    rates = [0.003, 0.003, 0.0025, 0.0025, 0.0023, 0.002, 0.0018, 0.0015, 0.002]
    np.testing.assert_array_equal(rules.tax(np.array(days, "datetime64[D]")), rates)
    assert rules.capital == 1e9
    assert not rules.allow_short


# -- what holds in any market -----------------------------------------------------------------------------------------


@st.composite
def markets(draw):
    """A random panel with halts, limit moves, breaks and thin volume, its scores, and the way they are traded."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sessions, issues = draw(st.integers(4, 16)), draw(st.integers(2, 6))
    moves = rng.choice([0.02, 0.2], (sessions, issues)) * rng.uniform(-1.7, 1.7, (sessions, issues))
    close = np.round(rng.uniform(20, 400, issues) * np.cumprod(1 + moves, 0), 2)
    halted = rng.random(close.shape) < 0.15
    close[halted] = NAN
    open = np.round(close * rng.uniform(0.9, 1.1, close.shape), 2)
    volume = rng.integers(1, 400, close.shape)
    listed = np.maximum.accumulate(~halted, 0)
    breaks = [(d, s) for d, s in np.argwhere(~halted) if d and listed[d - 1, s] and rng.random() < 0.05]
    score = np.where(rng.random(close.shape) < 0.2, NAN, rng.integers(0, 4, close.shape))
    horizon, tranches = draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2), (5, 5)]))
    entry, side = draw(st.sampled_from(["close_t", "open_t1"])), draw(st.sampled_from(["long_only", "market_neutral"]))
    portfolio = Portfolio(draw(st.sampled_from([0.2, 0.5])), side, entry, horizon, tranches)
    made = market(close, open, volume, breaks=breaks, sector=rng.integers(0, 2, issues))
    return made, score, portfolio


def costly(**changes) -> KrxRules:
    defaults = {"capital": 20_000.0, "allow_short": True, "max_volume_share": 0.3}
    return KrxRules({"1900-01-01": 0.003}, **defaults | changes)


def last_close(made: Panel) -> np.ndarray:
    """(D, S) close of each issue's last bar so far, 0 before the first."""
    marks = np.nan_to_num(made.close)
    for d in range(1, len(marks)):
        marks[d] = np.where(np.isnan(made.close[d]), marks[d - 1], marks[d])
    return marks


@pytest.mark.slow
@settings(deadline=None, max_examples=80, derandomize=True)
@given(markets())
def test_cash_and_holdings_are_the_equity(case):
    made, score, portfolio = case
    run = simulate(made, score, costly(), portfolio)
    expect(run.equity - run.cash, (run.shares * last_close(made)).sum(1))
    expect(run.sector_value.sum(1), run.equity - run.cash)


@pytest.mark.slow
@settings(deadline=None, max_examples=80, derandomize=True)
@given(markets())
def test_money_only_leaves_as_cost(case):
    made, score, portfolio = case
    rules, marks = costly(), last_close(made)
    run = simulate(made, score, rules, portfolio)
    if portfolio.entry == "close_t" and not made.breaks.any():
        bought = np.diff(run.shares, axis=0, prepend=0)
        expect(np.diff(run.cash, prepend=rules.capital), -(bought * marks).sum(1) - run.cost)
        assert (np.abs(bought) <= 0.3 * made.volume + 1e-9).all()
        assert (run.shares == np.round(run.shares)).all()


@pytest.mark.slow
@settings(deadline=None, max_examples=80, derandomize=True)
@given(markets())
def test_without_short_sales_cash_and_shares_never_go_below_zero(case):
    made, score, portfolio = case
    long_only = Portfolio(portfolio.quantile, "long_only", portfolio.entry, portfolio.horizon, portfolio.tranches)
    run = simulate(made, score, costly(), long_only)
    assert run.cash.min() >= -1e-9
    assert run.shares.min() >= 0


@pytest.mark.slow
@settings(deadline=None, max_examples=60, derandomize=True)
@given(markets(), st.randoms(use_true_random=False))
def test_the_order_of_the_issues_changes_nothing(case, random):
    made, score, portfolio = case
    order = list(range(len(made.codes)))
    random.shuffle(order)
    dense = {name: getattr(made, name)[:, order] for name in DENSE}
    shuffled = Panel(
        [made.codes[n] for n in order], made.dates, **dense, sector_names=made.sector_names, gaps=made.gaps
    )
    run = simulate(made, score, costly(), portfolio)
    other = simulate(shuffled, score[:, order], costly(), portfolio)
    expect(other.shares, run.shares[:, order])
    expect(other.equity, run.equity)
    assert other.refused == run.refused


DENSE = ("open", "close", "prior", "breaks", "volume", "factor", "sector")


@pytest.mark.slow
@settings(deadline=None, max_examples=60, derandomize=True)
@given(markets(), st.integers(1, 15))
def test_cutting_off_the_future_leaves_the_past(case, kept):
    made, score, portfolio = case
    dense = {name: getattr(made, name)[:kept] for name in DENSE}
    cut = Panel(made.codes, made.dates[:kept], **dense, sector_names=made.sector_names, gaps=made.gaps)
    run, short = simulate(made, score, costly(), portfolio), simulate(cut, score[:kept], costly(), portfolio)
    np.testing.assert_array_equal(short.equity, run.equity[:kept])
    np.testing.assert_array_equal(short.shares, run.shares[:kept])


@pytest.mark.slow
@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1), (2, 1), (5, 5)]))
def test_costs_never_help(seed, cohorts):
    rng, (horizon, tranches) = np.random.default_rng(seed), cohorts
    close = 100 * np.cumprod(1 + rng.uniform(-0.1, 0.1, (15, 4)), 0)
    made = market(close, close * rng.uniform(0.95, 1.05, close.shape), 1e15)
    # everything is sold before anything is bought, and with 1e12 won whole shares are as good as any: so all runs
    # do the same trades in proportion to what they have
    portfolio = Portfolio(0.3, "long_only", "open_t1", horizon, tranches)
    result = backtest(made, rng.normal(size=close.shape), costly(capital=1e12, max_volume_share=1.0), portfolio)
    equity = np.stack([result.runs[multiple].equity for multiple in (2.0, 1.0, 0.0)])
    assert (np.diff(equity, axis=0) >= -1e-6 * equity[:2]).all()
    assert (np.diff(equity, axis=0)[:, -1] > 0).all()


# -- real bars --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="DATA_DIR names no data directory")
def test_equal_weight_on_real_bars_earns_what_the_mean_issue_earns():
    source = KrxFiles("krx/kospi200_2015_2020.parquet")
    made = panel(source.load(os.environ["DATA_DIR"]), "2019-07-01", "2020-12-18")
    assert [str(day) for day in made.gaps] == ["2020-03-09", "2020-03-12"]
    rules = instantiate(OmegaConf.load(RULES).rules, _convert_="all")
    even = equal_weight(made, made.close, rules, Portfolio())
    mean = np.nanmean((made.close / made.prior)[5:] - 1, axis=1)
    ours = session_returns(even.gross.equity, rules.capital)[5:]
    assert np.corrcoef(ours, mean)[0, 1] > 0.995
    assert np.log1p(ours).sum() == pytest.approx(np.log1p(mean).sum(), abs=0.05)
    assert even.turnover().mean() * SESSIONS_PER_YEAR < 3
