"""What a score would have earned on the Korean exchange: cohorts of whole shares under its rules and costs.

Session by session, vectorised over issues. Nothing later than a session enters what is done in it, so cutting the
future off leaves the past as it is (lasps specification, section 12; docs/decisions/0004 says why it is our own).

What the model of trading is:
- Orders are filled at the open or the close as printed; commission, tax, slippage and impact are paid in cash on the
  traded value. Settlement after two sessions is ignored, cash earns nothing, dividends come with adjusted prices.
- Each tranche is a book of its own: it starts with an equal share of the capital and reinvests only what it has.
- Bars are adjusted prices. With `Bars.factor`, lots and volumes count shares as they were quoted; a holding grows by
  fractions of a share as adjusted prices reinvest dividends.
- A new segment of an issue (`Bars.segment`) is carried over by value: no return is booked on that session. An
  unadjusted split is met rightly so. The collapse of an issue in liquidation, where the exchange lifts its price
  limits, looks the same and is missed: `breaks_held` counts them, `carried_value` shows what has no price.
"""

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from scipy.special import ndtr, ndtri

from common.errors import UserError
from common.stats import Interval, bootstrap_sums, group_sums
from lasps.data.bars import Bars

SESSIONS_PER_YEAR = 246  # KRX: 243 to 248 in 2015 … 2024
COST_MULTIPLES = (0.0, 1.0, 2.0)

# A fill this near to the limit counts as at the limit, which is rounded inward to a tick: no tick above 200 won is
# wider than 0.5 % of the price, and of 1 450 real closes up by 28 % or more (2023–2025) 97 % lie that near. A table of
# ticks would not fit adjusted prices.
LIMIT_TOLERANCE = 0.005


@dataclass(frozen=True)
class Panel:
    """Bars of D sessions and S issues as dense arrays.

    Attributes:
        codes: S stock codes as text.
        dates: (D,) datetime64[D], every session on which any issue traded, but for `gaps`.
        open, close: (D, S) float64, adjusted prices; NaN where the issue did not trade: halted or not listed.
        prior: (D, S) float64, its last close before; NaN where none compares: the first bar, and after a break.
        breaks: (D, S) bool, prices do not compare with the issue's bar before.
        volume: (D, S) float64, shares as quoted; 0 where it did not trade.
        factor: (D, S) float64, adjusted price / quoted price; 1 where it did not trade.
        sector: (D, S) int64, the last one known; −1 before the first bar.
        sector_names: what the sector ids mean.
        gaps: dates left out, because the data lack most issues there: nobody could have been held up by that.
    """

    codes: list[str]
    dates: np.ndarray
    open: np.ndarray
    close: np.ndarray
    prior: np.ndarray
    breaks: np.ndarray
    volume: np.ndarray
    factor: np.ndarray
    sector: np.ndarray
    sector_names: tuple[str, ...]
    gaps: np.ndarray


def panel(bars: Bars, start: str, end: str) -> Panel:
    """The sessions from `start` to `end` (ISO dates, both inside), for all issues with a bar among them.

    Raises:
        UserError: if no bar lies between the dates.
    """
    gaps = _gaps(bars, start, end)
    order = np.lexsort((bars.date, bars.stock))
    order = order[~np.isin(bars.date[order], gaps)]
    stock, date, close = bars.stock[order], bars.date[order], bars.close[order]
    same_issue = np.diff(stock, prepend=-1) == 0
    new_segment = np.diff(bars.segment[order], prepend=-1) != 0
    prior = np.where(new_segment, np.nan, np.roll(close, 1))
    inside = (date >= np.datetime64(start)) & (date <= np.datetime64(end))
    dates, row = np.unique(date[inside], return_inverse=True)
    issues, column = np.unique(stock[inside], return_inverse=True)

    def dense(values: np.ndarray, fill: Any) -> np.ndarray:
        out = np.full((len(dates), len(issues)), fill, dtype=values.dtype)
        out[row, column] = values[inside]
        return out

    factor = np.ones(len(bars)) if bars.factor is None else bars.factor
    return Panel(
        codes=[bars.codes[issue] for issue in issues],
        dates=dates,
        open=dense(bars.open[order], np.nan),
        close=dense(close, np.nan),
        prior=dense(prior, np.nan),
        breaks=dense(same_issue & new_segment, False),
        volume=dense(bars.volume[order], 0.0),
        factor=dense(factor[order], 1.0),
        sector=_last_known(dense(bars.sector[order], -1)),
        sector_names=bars.sectors.english,
        gaps=gaps,
    )


def _gaps(bars: Bars, start: str, end: str) -> np.ndarray:
    """Dates from `start` to `end` with bars of fewer than half as many issues as the median of the 20 before."""
    inside = (bars.date >= np.datetime64(start)) & (bars.date <= np.datetime64(end))
    if not inside.any():
        raise UserError(f"no bar between {start} and {end}; the bars span {bars.date.min()} to {bars.date.max()}.")
    dates, count = np.unique(bars.date[inside], return_counts=True)
    usual = [np.median(count[max(0, row - 20) : row]) for row in range(1, len(count))]
    return dates[1:][2 * count[1:] < usual]


def _last_known(sector: np.ndarray) -> np.ndarray:
    """(D, S) with −1 replaced by the value last seen above it."""
    seen = np.maximum.accumulate(np.where(sector >= 0, np.arange(len(sector))[:, None], 0))
    return np.take_along_axis(sector, seen, 0)


def score_matrix(panel: Panel, code: np.ndarray, date: np.ndarray, score: np.ndarray) -> np.ndarray:
    """(D, S) float64 scores, NaN where none is given; those on the panel's gaps are left out.

    Args:
        code, date, score: (N,) one row per scored issue and session.

    Raises:
        UserError: if a row is of an issue or a session that the panel does not have.
    """
    kept = ~np.isin(date, panel.gaps)
    code, date, score = code[kept], date[kept], score[kept]
    codes, issue = np.unique(code, return_inverse=True)
    known = {name: number for number, name in enumerate(panel.codes)}
    column = np.array([known.get(str(name), -1) for name in codes], dtype=np.int64)[issue]
    row = np.searchsorted(panel.dates, date).clip(max=len(panel.dates) - 1)
    missing = (column < 0) | (panel.dates[row] != date)
    if missing.any():
        first = int(np.flatnonzero(missing)[0])
        raise UserError(
            f"scores: {code[first]} on {date[first]} is not among the bars of {panel.dates[0]} to {panel.dates[-1]} "
            f"({missing.sum()} of {len(code)} rows); take the bars that the scores were made from."
        )
    matrix = np.full(panel.close.shape, np.nan)
    matrix[row, column] = score
    return matrix


class KrxRules:
    """Rules and costs of the exchange, the same for every strategy and benchmark.

    Args:
        commission_bp: of the traded value, on either side.
        sell_tax: first day of validity (ISO date) → tax on sales as a fraction of their value.
        slippage_bp: of the traded value, on either side: half the spread.
        impact_bp: of the traded value, for an order as large as the day's volume; falls with the square root of the
            order's share of it.
        max_volume_share: an order is filled up to this share of the day's volume in the issue.
        price_limit: no purchase at the last close × (1 + limit), no sale at × (1 − limit). 0.15 before 2015-06-15.
        lot: shares of the smallest order.
        allow_short: whether a market-neutral portfolio is accepted at all.
        borrow_rate: paid a year on the value of shares sold short.
        capital: won at the start.

    Raises:
        UserError: if a date of `sell_tax` is not an ISO date.
    """

    def __init__(
        self,
        sell_tax: dict[str, Annotated[float, Field(ge=0, lt=1)]],
        commission_bp: Annotated[float, Field(ge=0)] = 1.5,
        slippage_bp: Annotated[float, Field(ge=0)] = 5.0,
        impact_bp: Annotated[float, Field(ge=0)] = 100.0,
        max_volume_share: Annotated[float, Field(gt=0, le=1)] = 0.1,
        price_limit: Annotated[float, Field(gt=0, le=1)] = 0.30,
        lot: Annotated[int, Field(ge=1)] = 1,
        allow_short: bool = False,
        borrow_rate: Annotated[float, Field(ge=0)] = 0.025,
        capital: Annotated[float, Field(gt=0)] = 1e9,
    ):
        self.flat_rate, self.impact_rate = (commission_bp + slippage_bp) * 1e-4, impact_bp * 1e-4
        self.max_volume_share, self.price_limit, self.lot = max_volume_share, price_limit, lot
        self.allow_short, self.borrow_rate, self.capital = allow_short, borrow_rate, capital
        try:
            table = sorted((np.datetime64(day, "D"), rate) for day, rate in sell_tax.items())
        except ValueError as error:
            raise UserError(f"sell_tax: {error}; write its days as 2019-06-03.") from None
        self._tax_from = np.array([day for day, _ in table], dtype="datetime64[D]")
        self._tax_rate = np.array([rate for _, rate in table])

    def tax(self, dates: np.ndarray) -> np.ndarray:
        """(D,) tax rate on sales valid on each of the dates.

        Raises:
            UserError: if the table begins after the first date.
        """
        row = np.searchsorted(self._tax_from, dates, side="right") - 1
        if row.min() < 0:
            raise UserError(f"sell_tax: no rate for {dates[row.argmin()]}; add one valid from then or earlier.")
        return self._tax_rate[row]


class Portfolio:
    """What is bought on a session's scores, and how long it is kept.

    A cohort formed on the scores of session t enters at the close of t or the open of t+1 and leaves at the close of
    t + horizon. `tranches` cohorts overlap, one formed every horizon / tranches sessions: 5 of 5 is one a session,
    1 of 5 is weekly rebalancing of everything.

    Args:
        quantile: share of the scored issues in a leg, at least one issue; 1.0 holds the whole universe. Equal weights.
        side: the best issues with all the money; or the best with half of it against the worst sold short for half.
        entry: as in `data.windowing`.
        horizon: sessions.
        tranches: must divide the horizon.

    Raises:
        UserError: if the tranches do not divide the horizon, or the two legs would overlap.
    """

    def __init__(
        self,
        quantile: Annotated[float, Field(gt=0, le=1)] = 0.1,
        side: Literal["long_only", "market_neutral"] = "long_only",
        entry: Literal["close_t", "open_t1"] = "close_t",
        horizon: Annotated[int, Field(ge=1)] = 5,
        tranches: Annotated[int, Field(ge=1)] = 5,
    ):
        if horizon % tranches:
            raise UserError(f"tranches={tranches} does not divide horizon={horizon}; use 1 or {horizon}.")
        if side == "market_neutral" and quantile > 0.5:
            raise UserError(f"quantile={quantile}: the legs of a market-neutral portfolio overlap; use at most 0.5.")
        self.quantile, self.side, self.entry = quantile, side, entry
        self.horizon, self.tranches = horizon, tranches

    def forms(self, session: int) -> int | None:
        """Number of the tranche that forms a cohort on this session's scores; None where none does."""
        interval = self.horizon // self.tranches
        return None if session % interval else session // interval % self.tranches

    def weights(self, score: np.ndarray, tie_break: np.ndarray) -> np.ndarray:
        """(S,) shares of the money, negative where sold short, from scores (S,) with NaN where there is none.

        Among equal scores the lower `tie_break` (S,) ranks first, so that the order of the issues does not matter.
        """
        scored = np.flatnonzero(~np.isnan(score))
        ranked = scored[np.lexsort((tie_break[scored], -score[scored]))]
        weights, size = np.zeros(len(score)), max(1, round(self.quantile * len(ranked)))
        if self.side == "long_only":
            weights[ranked[:size]] = 1 / size
            return weights
        size = min(size, len(ranked) // 2)
        if size:
            weights[ranked[:size]], weights[ranked[-size:]] = 0.5 / size, -0.5 / size
        return weights


@dataclass(frozen=True)
class Run:
    """One simulation of D sessions, at one multiple of all costs. Money in won, at the close.

    Attributes:
        equity: (D,) cash and holdings.
        cash: (D,) of it, all tranches together; includes what short sales brought in.
        traded: (D,) bought and sold, both counted.
        cost: (D,) commission, tax, slippage, impact and borrowing.
        invested: (D,) holdings without their sign.
        sector_value: (D, N) holdings by sector, with their sign.
        carried_value: (D,) of `invested`, in issues without a bar that session: valued at their last close.
        shares: (D, S) held, all tranches together, in shares of the adjusted price.
        fills: orders done, in full or in part.
        refused: orders not done in full, by kind and reason. An entry (entry_…) lapses. An exit (exit_…) is tried
            again whenever its tranche trades and at each close, and counted each time. Reasons: halt, limit_up,
            limit_down, volume; entry_below_lot where the money does not buy a lot. Cash cannot run out: costs are
            set aside before shares are counted.
        breaks_held: holdings carried over a new segment by value.
        capacity: equity in won at which the median order asks for `max_volume_share` of the day's volume; NaN
            without orders.
    """

    equity: np.ndarray
    cash: np.ndarray
    traded: np.ndarray
    cost: np.ndarray
    invested: np.ndarray
    sector_value: np.ndarray
    carried_value: np.ndarray
    shares: np.ndarray
    fills: int
    refused: dict[str, int]
    breaks_held: int
    capacity: float


def simulate(panel: Panel, score: np.ndarray, rules: KrxRules, portfolio: Portfolio, multiple: float = 1.0) -> Run:
    """What happens when `score` (D, S; NaN where none) is traded with all costs times `multiple`.

    What is held at the end is valued at its last close, not sold.

    Raises:
        UserError: if short sales are needed and not allowed, or the tax table begins too late.
        ValueError: if the scores have another shape than the panel.
    """
    if score.shape != panel.close.shape:
        raise ValueError(f"scores have shape {score.shape}, the panel {panel.close.shape}")
    if portfolio.side == "market_neutral" and not rules.allow_short:
        raise UserError("side=market_neutral sells short; set rules.allow_short=true, or use side=long_only.")
    books, tie_break = _Books(panel, rules, portfolio.tranches, multiple), np.argsort(np.argsort(panel.codes))
    at_close = portfolio.entry == "close_t"
    for session in range(len(panel.dates)):
        books.start(session)
        waiting = portfolio.forms(session - 1) if session and not at_close else None
        if waiting is not None:
            books.enter(waiting, panel.open[session], portfolio.weights(score[session - 1], tie_break))
        ending = portfolio.forms(session)
        for tranche in range(portfolio.tranches):
            if tranche != ending:
                books.finish_exits(tranche, panel.close[session])
        if ending is not None:
            weights = portfolio.weights(score[session], tie_break) if at_close else np.zeros(len(panel.codes))
            books.enter(ending, panel.close[session], weights)
        books.end()
    return books.run()


class _Books:
    """Cash and shares of the tranches, and what happened to them. `session` is the one being played."""

    def __init__(self, panel: Panel, rules: KrxRules, tranches: int, multiple: float):
        sessions, issues = panel.close.shape
        self.panel, self.rules, self.multiple, self.tax = panel, rules, multiple, rules.tax(panel.dates)
        self.cash = np.full(tranches, rules.capital / tranches)
        self.held = np.zeros((tranches, issues))
        self.due = np.zeros((tranches, issues))  # orders that close a position and could not be done yet
        self.mark = np.zeros(issues)  # last close; 0 before the first
        self.equity = rules.capital
        self.fills, self.refused, self.breaks_held, self.demand = 0, Counter(), 0, []
        self.record = {
            name: np.zeros(sessions) for name in ("equity", "cash", "traded", "cost", "invested", "carried_value")
        }
        self.sector_value = np.zeros((sessions, len(panel.sector_names)))
        self.shares = np.zeros((sessions, issues))

    def start(self, session: int) -> None:
        """Carry holdings over a break by value; look up the day's limits and volumes."""
        panel, rules = self.panel, self.rules
        self.session = session
        broken = np.flatnonzero(panel.breaks[session] & self.held.any(0))
        scale = self.mark[broken] / panel.close[session, broken]
        self.held[:, broken] *= scale
        self.due[:, broken] *= scale
        self.breaks_held += len(broken)
        self.limit_up = panel.prior[session] * (1 + rules.price_limit) * (1 - LIMIT_TOLERANCE)
        self.limit_down = panel.prior[session] * (1 - rules.price_limit) * (1 + LIMIT_TOLERANCE)
        self.unit = rules.lot / panel.factor[session]  # a lot, in shares of the adjusted price
        most = rules.max_volume_share * panel.volume[session]
        self.cap, self.room = most / panel.factor[session], np.floor(most / rules.lot) * self.unit

    def enter(self, tranche: int, price: np.ndarray, weights: np.ndarray) -> None:
        """Bring a tranche to `weights` (S,) of what it is worth, as far as the rules let it."""
        want = self._shares(weights * self._money(tranche, price, weights), price, self.held[tranche])
        small = int(np.count_nonzero((weights != 0) & (want == 0) & ~np.isnan(price)))
        self.refused.update({"entry_below_lot": small} if small else {})
        self._trade(tranche, price, want)

    def finish_exits(self, tranche: int, price: np.ndarray) -> None:
        if self.due[tranche].any():
            self._trade(tranche, price, self.held[tranche] + self.due[tranche])

    def end(self) -> None:
        """Value everything at the close and note it down."""
        session, close = self.session, self.panel.close[self.session]
        self.mark = np.where(np.isnan(close), self.mark, close)
        borrowed = -np.minimum(self.held, 0) @ self.mark
        self._pay(borrowed * self.multiple * self.rules.borrow_rate / SESSIONS_PER_YEAR)
        self.shares[session] = self.held.sum(0)
        value, size = self.shares[session] * self.mark, np.abs(self.held).sum(0) * self.mark
        listed = self.panel.sector[session] >= 0
        self.sector_value[session] = np.bincount(
            self.panel.sector[session, listed], value[listed], len(self.panel.sector_names)
        )
        self.equity = self.cash.sum() + value.sum()
        self.record["equity"][session], self.record["cash"][session] = self.equity, self.cash.sum()
        self.record["invested"][session] = size.sum()
        self.record["carried_value"][session] = size[np.isnan(close)].sum()

    def run(self) -> Run:
        demand = np.concatenate(self.demand) if self.demand else np.empty(0)
        return Run(
            **self.record,
            sector_value=self.sector_value,
            shares=self.shares,
            fills=self.fills,
            refused=dict(sorted(self.refused.items())),
            breaks_held=self.breaks_held,
            capacity=float(1 / np.median(demand)) if len(demand) else math.nan,
        )

    def _money(self, tranche: int, price: np.ndarray, weights: np.ndarray) -> float:
        """Won that the tranche can be brought to `weights` (S,) of: cash, and what closing all positions would bring.

        What of a position cannot be closed today counts up to its own target, and as a debt if sold short.
        """
        held, worth = self.held[tranche], np.where(np.isnan(price), self.mark, price)
        fill = self._possible(-held, price)
        stuck = (held + fill) * worth
        proceeds = -(fill * worth).sum() - self._costs(fill, price).sum()
        liquid = self.cash[tranche] + proceeds + np.minimum(stuck, 0).sum()
        return attainable(max(0.0, liquid), weights, np.maximum(stuck, 0))

    def _shares(self, money: np.ndarray, price: np.ndarray, held: np.ndarray) -> np.ndarray:
        """(S,) whole lots for `money` (S,), negative where it is to be sold short.

        Costs are set aside for all of it, as if bought anew; but shares held are not sold to set costs aside.
        """
        worth = np.where(np.isnan(price), self.mark, price)
        most = np.divide(money, worth, out=np.zeros_like(money), where=worth > 0)
        value = np.abs(most) * worth
        rate = np.divide(self._costs(most, worth), value, out=np.zeros_like(money), where=value > 0)
        most = np.abs(most)
        bought, kept = np.floor(np.stack([most / (1 + rate), most]) / self.unit) * self.unit
        kept = np.where(np.abs(held) <= most, np.abs(held), kept) * (held * money > 0)
        return np.sign(money) * np.maximum(bought, kept)

    def _trade(self, tranche: int, price: np.ndarray, want: np.ndarray) -> None:
        """Trade a tranche towards `want` (S,) shares; what closes a position and is not done stays due."""
        held = self.held[tranche]
        kept = np.where(held * want > 0, np.sign(held) * np.minimum(np.abs(held), np.abs(want)), 0.0)
        exits, order = kept - held, want - held
        self._note_refused(order, exits != 0, price)
        fill = self._possible(order, price)
        value = fill * np.nan_to_num(price)
        costs = self._costs(fill, price).sum()
        self.cash[tranche] -= value.sum()
        self._pay(np.where(np.arange(len(self.cash)) == tranche, costs, 0.0))
        self.held[tranche] = np.where(fill == order, want, held + fill)
        self.due[tranche] = exits - np.sign(exits) * np.minimum(np.abs(exits), np.abs(fill))  # exits go first
        self.room = self.room - np.abs(fill)
        self.record["traded"][self.session] += np.abs(value).sum()
        self.fills += np.count_nonzero(fill)

    def _note_refused(self, order: np.ndarray, exits: np.ndarray, price: np.ndarray) -> None:
        reasons = self._refusals(order, price)
        tradable = (order != 0) & ~np.any(list(reasons.values()), axis=0)
        reasons["volume"] = tradable & (np.abs(order) > self.room)
        for reason, refused in reasons.items():
            for kind, chosen in (("exit", refused & exits), ("entry", refused & ~exits)):
                if chosen.any():
                    self.refused[f"{kind}_{reason}"] += int(chosen.sum())
        asked = (order != 0) & ~np.isnan(price)
        self.demand.append(np.abs(order[asked]) / self.cap[asked] / self.equity)

    def _refusals(self, order: np.ndarray, price: np.ndarray) -> dict[str, np.ndarray]:
        """(S,) masks of the orders that cannot be done at all, by reason."""
        return {
            "halt": (order != 0) & np.isnan(price),
            "limit_up": (order > 0) & (price >= self.limit_up),
            "limit_down": (order < 0) & (price <= self.limit_down),
        }

    def _possible(self, order: np.ndarray, price: np.ndarray) -> np.ndarray:
        """(S,) the part of `order` (S,) shares that the rules let through."""
        refused = np.any(list(self._refusals(order, price).values()), axis=0)
        return np.where(refused, 0.0, np.clip(order, -self.room, self.room))

    def _costs(self, fill: np.ndarray, price: np.ndarray) -> np.ndarray:
        """(S,) won that filling `fill` (S,) shares at `price` costs."""
        rules = self.rules
        size = np.abs(fill)
        share = size * self.panel.factor[self.session] / np.maximum(self.panel.volume[self.session], 1)
        rate = rules.flat_rate + rules.impact_rate * np.sqrt(share) + self.tax[self.session] * (fill < 0)
        return self.multiple * rate * size * np.nan_to_num(price)

    def _pay(self, costs: np.ndarray) -> None:
        """Take costs (K,) from the tranches' cash."""
        self.cash -= costs
        self.record["cost"][self.session] += costs.sum()


def attainable(liquid: float, weights: np.ndarray, stuck: np.ndarray) -> float:
    """The largest M with M = liquid + Σ min(stuck, weights · M) over the positive weights, which are all equal.

    Args:
        liquid: won to spend.
        weights: (S,) of M.
        stuck: (S,) won, held already and not for sale: no issue lends another what it has too much.
    """
    bought = weights > 0
    if not bought.any():
        return liquid
    weight, stuck = weights[bought][0], np.sort(stuck[bought])
    above_target = np.arange(len(stuck))[::-1]  # how many issues have more stuck than this one
    money = (liquid + np.cumsum(stuck)) / (1 - weight * above_target)
    within = np.flatnonzero(weight * money >= stuck * (1 - 1e-12))
    return float(money[within[-1]]) if len(within) else liquid / (1 - weight * len(stuck))


@dataclass(frozen=True)
class Result:
    """The same strategy at several multiples of all costs.

    Attributes:
        dates: (D,) sessions.
        capital: won before the first session.
        sector_names: of the columns of `Run.sector_value`.
        runs: cost multiple → what happened. 0 is gross, 1 is net; each decides on the money that it has.
    """

    dates: np.ndarray
    capital: float
    sector_names: tuple[str, ...]
    runs: dict[float, Run]

    @property
    def gross(self) -> Run:
        return self.runs[0.0]

    @property
    def net(self) -> Run:
        return self.runs[1.0]

    def turnover(self) -> np.ndarray:
        """(D,) mean of bought and sold, as a share of the equity at the last close, net run."""
        return self.net.traded / 2 / np.append(self.capital, self.net.equity[:-1])

    def holding_sessions(self) -> float:
        """Sessions that money stays in an issue: mean holdings / mean of bought and sold; NaN without trades."""
        traded = self.net.traded.sum() / 2
        return float(self.net.invested.sum() / traded) if traded else math.nan

    def sector_exposure(self) -> np.ndarray:
        """(D, N) holdings of each sector as a share of equity, with their sign, net run."""
        return self.net.sector_value / self.net.equity[:, None]


def backtest(panel: Panel, score: np.ndarray, rules: KrxRules, portfolio: Portfolio) -> Result:
    """The strategy at no, single and double costs; see `simulate`."""
    runs = {multiple: simulate(panel, score, rules, portfolio, multiple) for multiple in COST_MULTIPLES}
    return Result(panel.dates, rules.capital, panel.sector_names, runs)


def equal_weight(panel: Panel, score: np.ndarray, rules: KrxRules, portfolio: Portfolio) -> Result:
    """The benchmark that holds every scored issue alike, in the same cohorts under the same rules.

    Always at the close, where what is kept is not sold and bought back: it needs no score and waits for none.
    """
    everything = Portfolio(1.0, "long_only", "close_t", portfolio.horizon, portfolio.tranches)
    return backtest(panel, np.where(np.isnan(score), np.nan, 0.0), rules, everything)


def index_equity(sessions: np.ndarray, dates: np.ndarray, close: np.ndarray, capital: float) -> np.ndarray:
    """(D,) won that `capital` is worth if it follows an index from the close of the first of the sessions.

    On a session without a close of its own the index keeps its last one.

    Args:
        dates, close: (N,) the index, in any order.

    Raises:
        UserError: if the index begins after the first session or ends before the last.
    """
    order = np.argsort(dates)
    dates, close = dates[order], close[order]
    if not len(dates) or dates[0] > sessions[0] or dates[-1] < sessions[-1]:
        span = f"spans {dates[0]} to {dates[-1]}" if len(dates) else "is empty"
        raise UserError(f"index: {span}, the sessions {sessions[0]} to {sessions[-1]}; give an index that covers them.")
    level = close[np.searchsorted(dates, sessions, side="right") - 1]
    return capital * level / level[0]


@dataclass(frozen=True)
class Performance:
    """What a curve of equity amounts to, over `SESSIONS_PER_YEAR` sessions a year where it is yearly.

    Attributes:
        total_return, annual_return: fractions; the latter compounds.
        volatility: sample standard deviation of the returns of a session, yearly.
        sharpe: mean / standard deviation of the returns of a session, yearly, over an interest of 0; None where
            too few blocks vary to resample them.
        max_drawdown: largest loss from a peak, the capital included, as a fraction ≥ 0 of it.
    """

    total_return: float
    annual_return: float
    volatility: float
    sharpe: Interval | None
    max_drawdown: float


def performance(equity: np.ndarray, capital: float, block_sessions: int = 5) -> Performance:
    """Figures of an equity curve (D,) that began with `capital`; intervals by bootstrap of blocks of sessions."""
    returns = session_returns(equity, capital)
    curve = np.append(capital, equity)
    growth = equity[-1] / capital
    return Performance(
        total_return=float(growth - 1),
        annual_return=float(max(growth, 0.0) ** (SESSIONS_PER_YEAR / len(equity)) - 1),
        volatility=float(returns.std(ddof=1) * math.sqrt(SESSIONS_PER_YEAR)) if len(returns) > 1 else math.nan,
        sharpe=_sharpe(returns, block_sessions),
        max_drawdown=float((1 - curve / np.maximum.accumulate(curve)).max()),
    )


def session_returns(equity: np.ndarray, capital: float) -> np.ndarray:
    """(D,) returns of a session, the first one over the capital."""
    return equity / np.append(capital, equity[:-1]) - 1


def _sharpe(returns: np.ndarray, block_sessions: int) -> Interval | None:
    blocks = _blocks(len(returns), block_sessions)
    if blocks[-1] < 1 or np.ptp(returns) == 0:
        return None
    scaled = returns / returns.std()  # sums of squares of order 1 keep their digits
    sums = group_sums(np.stack([np.ones(len(scaled)), scaled, scaled**2], 1), blocks)
    try:
        return bootstrap_sums(_sharpe_of_sums, sums)
    except ValueError:  # more than a tenth of the resamples consist of blocks that do not vary
        return None


def _blocks(sessions: int, block_sessions: int) -> np.ndarray:
    return np.arange(sessions) // block_sessions


def _sharpe_of_sums(sums: np.ndarray) -> np.ndarray:
    """(R,) yearly Sharpe ratios from (R, 3) number, sum and sum of squares of returns."""
    n, total, squares = sums.T
    mean = total / n
    variance = (squares - n * mean**2) / (n - 1)
    varied = variance > 1e-9  # of returns scaled to 1; what is left of equal ones is rounding
    deviation = np.sqrt(np.where(varied, variance, np.nan))
    return mean / deviation * math.sqrt(SESSIONS_PER_YEAR)


def excess_return(equity: np.ndarray, benchmark: np.ndarray, capital: float, block_sessions: int = 5) -> Interval:
    """Mean return of a session over the benchmark's, × sessions per year, with the same bootstrap as the Sharpe ratio.

    Raises:
        ValueError: for fewer than two blocks of sessions.
    """
    difference = session_returns(equity, capital) - session_returns(benchmark, capital)
    blocks = _blocks(len(difference), block_sessions)
    sums = group_sums(np.stack([np.ones(len(difference)), difference], 1), blocks)
    return bootstrap_sums(lambda totals: totals[:, 1] / totals[:, 0] * SESSIONS_PER_YEAR, sums)


def deflated_sharpe(returns: np.ndarray, num_trials: int, spread: float | None = None) -> float:
    """Probability that the true Sharpe ratio beats what the best of `num_trials` configurations without skill shows.

    Bailey and López de Prado 2014, "The Deflated Sharpe Ratio: Correcting for Selection Bias, Backtest Overfitting
    and Non-Normality". With one trial, the probability that it is above 0.

    Args:
        returns: (D,) of a session, D ≥ 3, of the configuration that was chosen.
        num_trials: configurations tried, this one included.
        spread: standard deviation, over the trials, of their Sharpe ratios of a session; None takes 1 / √(D − 1),
            what chance alone gives.

    Raises:
        ValueError: for no trial, or returns that do not vary.
    """
    if num_trials < 1 or len(returns) < 3 or np.ptp(returns) == 0:
        raise ValueError(f"needs a trial and three returns that vary; got {num_trials} trials, {len(returns)} returns")
    centred = returns - returns.mean()
    sharpe, deviation = returns.mean() / returns.std(ddof=1), returns.std()
    skew, kurtosis = (centred**3).mean() / deviation**3, (centred**4).mean() / deviation**4
    spread = 1 / math.sqrt(len(returns) - 1) if spread is None else spread
    best = spread * _expected_maximum(num_trials)
    error = math.sqrt(1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2)
    return float(ndtr((sharpe - best) * math.sqrt(len(returns) - 1) / error))


def _expected_maximum(count: int) -> float:
    """Of `count` independent standard normal values, approximately (Bailey and López de Prado 2014, equation 1)."""
    if count == 1:
        return 0.0
    gamma = np.euler_gamma
    return float((1 - gamma) * ndtri(1 - 1 / count) + gamma * ndtri(1 - 1 / (count * math.e)))


def summary(result: Result, benchmarks: dict[str, np.ndarray], num_trials: int) -> dict[str, Any]:
    """The figures of a backtest as plain values for JSON; None where one cannot be computed.

    Args:
        benchmarks: name → (D,) equity that began with the same capital.
        num_trials: configurations tried before this one was chosen, itself included.
    """
    net, capital = result.net, result.capital
    returns, turnover = session_returns(net.equity, capital), result.turnover()
    enough = len(returns) > 5 and np.ptp(returns) > 0
    return _plain(
        {
            "first_session": str(result.dates[0]),
            "last_session": str(result.dates[-1]),
            "sessions": len(result.dates),
            "capital": capital,
            "cost_multiples": {
                f"{multiple:g}": asdict(performance(run.equity, capital)) for multiple, run in result.runs.items()
            },
            "deflated_sharpe": deflated_sharpe(returns, num_trials) if enough else None,
            "num_trials": num_trials,
            "turnover_session": turnover.mean(),
            "turnover_year": turnover.mean() * SESSIONS_PER_YEAR,
            "cost_year": (net.cost / np.append(capital, net.equity[:-1])).mean() * SESSIONS_PER_YEAR,
            "holding_sessions": result.holding_sessions(),
            "fills": net.fills,
            "refused": net.refused,
            "breaks_held": net.breaks_held,
            "carried_share_max": (net.carried_value / net.equity).max(),
            "invested_share": (net.invested / net.equity).mean(),
            "capacity": net.capacity,
            "sector_exposure": dict(zip(result.sector_names, result.sector_exposure().mean(0), strict=True)),
            "benchmarks": {
                name: asdict(performance(equity, capital))
                | {"excess": excess_return(net.equity, equity, capital).as_dict() if enough else None}
                for name, equity in benchmarks.items()
            },
        }
    )


def _plain(value: Any) -> Any:
    """The same with Python's own numbers, None for what is not finite."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
