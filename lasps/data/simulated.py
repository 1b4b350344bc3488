"""A seeded Korean-style market whose predictability is known.

Returns. The close of issue i in sector k moves by

    r[i, t+1] = market[t+1] · beta[i] + sector[k, t+1] + own[i, t+1] + drift[i, t]

with Student-t shocks (6 degrees of freedom) of daily standard deviation 0.8 %, 0.6 % and 1.6 %. Closes are rounded to
the exchange's tick and stay within ±30 % of the close before.

Planted signal. Two things that the bars show decide the drift; t counts the sessions on which the issue traded, and
the drift is 0 until 20 returns are known:

    trend[i, t] = tanh(sum of the last 5 returns / (√5 · root mean square of the last 20 returns))
    flow[i, t]  = mean of the signs of the last 5 net purchases by foreigners and institutions
    drift[i, t] = signal · 0.9 % · (RULES[k][0] · trend[i, t] + RULES[k][1] · flow[i, t])

`RULES` repeats over the sectors: some follow the flow and others fade it, some have momentum and others reversal, and
some have neither. Averaged over the sectors little remains, so a rule that is blind to the sector gains little. The
signal is far stronger than anything in real markets: it is there to be found by a method that works.

With signal > 0 volatility clusters (a GARCH(1, 1) process for each factor and each issue) and betas and volatilities
differ between issues, so that moves, though not their direction, can be told from HOLD by volatility as in real data.
With signal = 0 there is pure noise: shocks independent between sessions, equal volatility and beta 1 for every issue,
no drift. Nothing about a label can then be predicted beyond its share.

Volume rises with the size of the move. Flows persist (autocorrelation of about 0.9 from session to session) and never
depend on returns. Some issues are halted now and then, list late or are delisted; a halt costs the issue nothing, as
its shocks of those sessions are discarded.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from common.errors import UserError
from lasps.data.bars import Bars
from lasps.data.sectors import SCHEMES

RULES = ((0.0, 1.0), (-1.0, 0.0), (0.0, -1.0), (0.8, 0.6), (0.0, 1.0), (0.0, 0.0), (0.0, -1.0))  # trend, flow
DRIFT = 0.009  # per session, where a predictor is at its bound
MARKET_SD, SECTOR_SD, OWN_SD = 0.008, 0.006, 0.016  # per session
GARCH = (0.06, 0.92)  # weights of the last squared shock and of the last variance
DEGREES_OF_FREEDOM = 6
RMS_SESSIONS, SUM_SESSIONS = 20, 5
FLOW_PERSISTENCE = 0.9
WIDEST_MOVE = 0.29  # rounding to a tick may widen a move; the exchange's limit is 0.30
LOWEST_PRICE = 200  # won; below, a tick is too large a part of the price
LATE_SHARE, DELISTED_SHARE = 0.06, 0.04
HALT_RATE, HALT_SESSIONS = 0.0005, 5  # halts begun per issue and session, and how long one lasts
HOLIDAYS = ("01-01", "03-01", "05-01", "05-05", "06-06", "08-15", "10-03", "10-09", "12-25", "12-31")
TICK_FROM = (0, 2_000, 5_000, 20_000, 50_000, 200_000, 500_000)
TICKS = (1, 5, 10, 50, 100, 500, 1_000)


class SimulatedMarket:
    """Daily bars of a simulated Korean market; see the module for the process.

    A market with a later `end` begins with the very same bars.

    Args:
        seed: decides every random number.
        signal: strength of the planted signal; 0 is pure noise.
        num_sectors: 13 for the present scheme, 20 for the older one.
        stocks_per_sector: issues per sector on average. The first sectors have more, the last ones fewer, all some.
        start, end: first and last day, as ISO dates; sessions are the working days between them less fixed holidays.
    """

    synthetic = True

    def __init__(
        self,
        seed: Annotated[int, Field(ge=0)] = 0,
        signal: Annotated[float, Field(ge=0)] = 1.0,
        num_sectors: Literal[13, 20] = 13,
        stocks_per_sector: Annotated[int, Field(ge=1)] = 6,
        start: str = "2019-07-01",
        end: str = "2024-12-30",
    ):
        self.seed, self.signal, self.scheme = seed, signal, SCHEMES[num_sectors]
        sizes = np.maximum(1, np.rint(stocks_per_sector * np.linspace(1.6, 0.4, num_sectors))).astype(int)
        self.sector = np.repeat(np.arange(num_sectors), sizes)
        self.dates = _sessions(start, end)

    def load(self, data_dir: str | None = None) -> Bars:
        """The bars; nothing is read from `data_dir`."""
        streams = np.random.default_rng(self.seed).spawn(6)  # a stream per purpose: a later `end` only appends to each
        first = 30_000 * np.exp(0.8 * streams[0].standard_normal(len(self.sector)))
        listed, halted = self._calendar(*streams[:2])
        traded = listed & ~halted
        noise, level = self._noise(*streams[2:4])
        flow = self._flow_share(streams[4])
        close, previous = self._closes(round_to_tick(np.maximum(first, 2_000)), noise, np.sign(flow), traded)
        counts = {
            "rows_read": int(listed.sum()),
            "issues_read": int(listed.any(axis=0).sum()),
            "non_trading_rows": int((listed & halted).sum()),
            "late_listings": int((listed.any(axis=0) & ~listed[0]).sum()),
            "delisted_issues": int((listed.any(axis=0) & ~listed[-1]).sum()),
        }
        return self._bars(traded, close, previous, level, flow, streams[5], counts)

    def expected_return(self, bars: Bars) -> np.ndarray:
        """(R,) drift of each row's issue into its next session, worked out from the bars alone."""
        drift = np.zeros(len(bars))
        for rows in bars.segments():
            close, flow = bars.close[rows], np.sign(bars.flow[rows])
            if len(close) > RMS_SESSIONS:
                returns = np.lib.stride_tricks.sliding_window_view(close[1:] / close[:-1] - 1, RMS_SESSIONS)
                flows = np.lib.stride_tricks.sliding_window_view(flow[1:], RMS_SESSIONS)
                drift[rows][RMS_SESSIONS:] = self._drift(returns.T, flows.T, bars.sector[rows][0])
        return drift

    def _calendar(self, listing: np.random.Generator, halting: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Whether each issue is listed and whether it is halted, (T, N) bool each."""
        session, count = np.arange(len(self.dates))[:, None], len(self.sector)
        late, delisted = listing.random(count) < LATE_SHARE, listing.random(count) < DELISTED_SHARE
        first = np.where(late, listing.integers(100, 600, count), 0)
        last = np.where(delisted, listing.integers(700, 1200, count), np.iinfo(np.int64).max)
        listed = (session >= first) & (session <= last)
        halt = halting.random((len(self.dates), count)) < HALT_RATE
        halted = np.zeros_like(halt)
        for offset in range(HALT_SESSIONS):
            halted[offset:] |= halt[: len(halt) - offset]
        return listed, halted

    def _noise(self, shared: np.random.Generator, own: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns without drift, and each issue's own volatility relative to the average, (T, N) each."""
        num_sessions, count = len(self.dates), len(self.sector)
        beta, scale = np.exp(0.25 * own.standard_normal(count)), np.exp(0.25 * own.standard_normal(count))
        unit = np.sqrt(1 - 2 / DEGREES_OF_FREEDOM)  # a Student-t shock times this has variance 1
        factors = unit * shared.standard_t(DEGREES_OF_FREEDOM, (num_sessions, 1 + len(self.scheme)))
        shocks = unit * own.standard_t(DEGREES_OF_FREEDOM, (num_sessions, count))
        level = np.ones_like(shocks)
        if self.signal > 0:
            factors = factors * _garch_levels(factors)
            level = scale * _garch_levels(shocks)
        else:
            beta = np.ones(count)
        common = MARKET_SD * factors[:, :1] * beta + SECTOR_SD * factors[:, 1 + self.sector]
        return common + OWN_SD * level * shocks, level

    def _flow_share(self, stream: np.random.Generator) -> np.ndarray:
        """(T, N) persistent standard normal: net buying as a share of volume, before it is scaled."""
        shocks = stream.standard_normal((len(self.dates), len(self.sector)))
        flow = shocks.copy()
        for session in range(1, len(flow)):
            flow[session] = FLOW_PERSISTENCE * flow[session - 1] + np.sqrt(1 - FLOW_PERSISTENCE**2) * shocks[session]
        return flow

    def _closes(
        self, first: np.ndarray, noise: np.ndarray, flow_sign: np.ndarray, traded: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Close of each session and close before it, (T, N) each; where an issue does not trade both stay."""
        close, previous = np.empty_like(noise), np.empty_like(noise)
        returns = np.zeros((RMS_SESSIONS, len(first)))
        flows = np.zeros_like(returns)
        now, num_closes = first.astype(np.float64), np.zeros(len(first), np.int64)
        for session, trades in enumerate(traded):
            drift = np.where(num_closes > RMS_SESSIONS, self._drift(returns, flows, self.sector), 0)
            move = np.clip(noise[session] + drift, -WIDEST_MOVE, WIDEST_MOVE)
            after = round_to_tick(np.maximum(now * (1 + move), LOWEST_PRICE))
            previous[session] = now
            close[session] = now = np.where(trades, after, now)
            seen = trades & (num_closes > 0)  # the first close of an issue shows no return yet
            returns[:, seen] = np.vstack([returns[1:, seen], (now / previous[session] - 1)[seen]])
            flows[:, seen] = np.vstack([flows[1:, seen], flow_sign[session, seen]])
            num_closes += trades
        return close, previous

    def _drift(self, returns: np.ndarray, flows: np.ndarray, sector: np.ndarray | int) -> np.ndarray:
        """(n,) drift into the next session after 20 sessions of returns and signs of net buying, (20, n) each."""
        weights = np.array(RULES)[np.asarray(sector) % len(RULES)].T
        spread = np.sqrt(SUM_SESSIONS * (returns**2).mean(0))
        trend = np.tanh(returns[-SUM_SESSIONS:].sum(0) / np.maximum(spread, 1e-12))
        return self.signal * DRIFT * (weights[0] * trend + weights[1] * flows[-SUM_SESSIONS:].mean(0))

    def _bars(
        self, traded: np.ndarray, close: np.ndarray, previous: np.ndarray, level: np.ndarray, flow: np.ndarray,
        stream: np.random.Generator, counts: dict[str, int],
    ) -> Bars:  # fmt: skip
        """The long table of all traded sessions; opens, highs, lows, volumes and flows made up around the closes."""
        base = np.exp(12 + stream.standard_normal(len(self.sector)))
        z = stream.standard_normal((*close.shape, 4))
        move = close / previous - 1
        low_limit, high_limit = previous * (1 - WIDEST_MOVE), previous * (1 + WIDEST_MOVE)
        open_ = round_to_tick(np.clip(previous * (1 + 0.3 * move + 0.004 * level * z[..., 0]), low_limit, high_limit))
        top, bottom = np.maximum(open_, close), np.minimum(open_, close)
        high = np.maximum(top, round_to_tick(np.minimum(top * (1 + 0.006 * level * abs(z[..., 1])), high_limit)))
        low = np.minimum(bottom, round_to_tick(np.maximum(bottom * (1 - 0.006 * level * abs(z[..., 2])), low_limit)))
        volume = np.ceil(base * np.exp(0.4 * z[..., 3] + 6 * np.abs(move)))
        bought = np.sign(flow) * np.ceil(0.1 * np.tanh(np.abs(flow)) * volume)
        stock, session = np.nonzero(traded.T)
        columns = {"open": open_, "high": high, "low": low, "close": close, "volume": volume, "flow": bought}
        return Bars(
            codes=[f"{10 * (number + 1):06d}" for number in range(len(self.sector))],
            stock=stock.astype(np.int32),
            segment=(np.cumsum(np.diff(stock, prepend=-1) != 0) - 1).astype(np.int32),
            date=self.dates[session],
            sector=self.sector[stock].astype(np.int64),
            sectors=self.scheme,
            synthetic=True,
            counts=counts,
            **{name: values[session, stock] for name, values in columns.items()},
        )


def round_to_tick(price: np.ndarray) -> np.ndarray:
    """Prices in won rounded to the exchange's tick of their bracket."""
    tick = np.array(TICKS)[np.searchsorted(TICK_FROM, price, side="right") - 1]
    return np.rint(price / tick) * tick


def _garch_levels(shocks: np.ndarray) -> np.ndarray:
    """(T, n) volatility of a GARCH(1, 1) process with mean variance 1, driven by unit shocks (T, n)."""
    weight, memory = GARCH
    variance = np.ones_like(shocks)
    for session in range(1, len(shocks)):
        last = variance[session - 1]
        variance[session] = 1 - weight - memory + last * (weight * shocks[session - 1] ** 2 + memory)
    return np.sqrt(variance)


def _sessions(start: str, end: str) -> np.ndarray:
    """(T,) datetime64[D]: the weekdays from start to end that are no fixed holiday.

    Raises:
        UserError: for a text that is no date, or if fewer than two sessions remain.
    """
    try:
        first, last = np.datetime64(start, "D"), np.datetime64(end, "D")
    except ValueError as error:
        raise UserError(f"data.start={start}, data.end={end}: {error}; write dates as in 2024-01-05.") from None
    days = np.arange(first, last + 1)
    days = days[np.is_busday(days)]
    holiday = np.isin([str(day)[5:] for day in days], HOLIDAYS)
    if len(days[~holiday]) < 2:
        raise UserError(f"data.start={start}, data.end={end}: fewer than two sessions; give a longer span.")
    return days[~holiday]
