"""Daily bars of many issues in one long table: what every source delivers and every later step reads."""

from dataclasses import dataclass, field

import numpy as np

from lasps.data.sectors import SectorScheme


@dataclass
class Bars:
    """R daily bars, sorted by segment and, within it, by date. Only sessions on which the issue traded.

    A segment is a stretch of one issue over which prices compare: it ends where an impossible move shows an
    unadjusted corporate action. No indicator, window or label crosses a segment's border.

    Attributes:
        codes: stock codes as text, leading zeros kept.
        stock: (R,) int32, index into `codes`.
        segment: (R,) int32, ascending; rows of one segment are contiguous.
        date: (R,) datetime64[D], session dates, strictly ascending within a segment.
        open, high, low, close: (R,) float64, adjusted prices, > 0.
        volume: (R,) float64, shares, > 0.
        flow: (R,) float64, net shares bought by foreigners and institutions together; NaN where unknown.
        sector: (R,) int64 in [0, len(sectors)), as it was known on that date.
        sectors: what the sector ids mean.
        synthetic: whether the bars come from a simulator.
        counts: what was read and what was left out, by reason, for the report.
        factor: (R,) float64, adjusted price / price as quoted; None where prices are as quoted.
    """

    codes: list[str]
    stock: np.ndarray
    segment: np.ndarray
    date: np.ndarray
    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    volume: np.ndarray
    flow: np.ndarray
    sector: np.ndarray
    sectors: SectorScheme
    synthetic: bool
    counts: dict[str, int] = field(default_factory=dict)
    factor: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.date)

    def segments(self) -> list[slice]:
        """Row ranges of the segments, in order."""
        starts = np.flatnonzero(np.diff(self.segment, prepend=-1))
        return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(self)], strict=True)]

    def universe(self) -> dict[str, int]:
        """What survivorship and halts can be judged by.

        `issues_gone` have no bar in the last 20 market sessions; a universe of several years with none of them holds
        only survivors. `halted_sessions` lie between an issue's first and last bar, without trading.
        """
        sessions, session = np.unique(self.date, return_inverse=True)
        first, last = np.full(len(self.codes), len(sessions)), np.full(len(self.codes), -1)
        np.minimum.at(first, self.stock, session)
        np.maximum.at(last, self.stock, session)
        present = last >= 0
        return {
            "issues": int(present.sum()),
            "issues_gone": int((last[present] < len(sessions) - 20).sum()),
            "issues_listed_later": int((first[present] >= 20).sum()),
            "halted_sessions": int((last - first + 1)[present].sum()) - len(self),
        }
