"""What a table of bars tells of its universe."""

import numpy as np

from tests.lasps.walks import random_bars, rows


def test_the_universe_tells_who_is_gone_who_came_later_and_how_often_trading_was_halted():
    bars = random_bars([100, 60, 100])
    late = (bars.stock == 2) & (bars.date < bars.date[25])
    halted = np.isin(np.arange(len(bars)), [10, 11, 30])
    assert rows(bars, ~late & ~halted).universe() == {
        "issues": 3, "issues_gone": 1, "issues_listed_later": 1, "halted_sessions": 3,
    }  # fmt: skip
