import numpy as np
import pytest

from common.report import format_table, verdict
from common.stats import Interval

CLAIM = "the sector heads beat the common head in accuracy"


def difference(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, 0.95, 72, "percentile bootstrap of groups")


def test_an_interval_that_covers_zero_is_no_evidence():
    assert verdict(difference(-0.01, 0.018), CLAIM) == (
        f"No evidence that {CLAIM}: the interval of the difference covers zero "
        "(0.004 [-0.010, 0.018], 95% percentile bootstrap of groups, n = 72)."
    )
    assert verdict(difference(0.0, 0.02), CLAIM).startswith("No evidence")


@pytest.mark.parametrize(("better", "good", "bad"), [("higher", 0.01, -0.03), ("lower", -0.03, 0.01)])
def test_the_sign_that_speaks_for_the_claim_depends_on_what_is_better(better, good, bad):
    assert verdict(difference(good, good + 0.02), CLAIM, better).startswith(f"Evidence that {CLAIM} (")
    assert verdict(difference(bad, bad + 0.02), CLAIM, better).startswith("Evidence against the claim")


def test_a_table_aligns_numbers_right_and_text_left():
    rows = [("food", 12, np.float64(0.41666)), ("a|b", 3000, None)]
    assert format_table(rows, ("sector", "n", "accuracy")) == (
        "| sector |    n | accuracy |\n"
        "| ------ | ---: | -------: |\n"
        "| food   |   12 |   0.4167 |\n"
        "| a\\|b   | 3000 |        – |\n"
    )


def test_a_table_shows_intervals_and_needs_full_rows():
    assert "0.010 [0.000, 0.020]" in format_table([["x", difference(0.0, 0.02)]], ("name", "difference"))
    with pytest.raises(ValueError, match="2 cells"):
        format_table([["x"]], ("name", "n"))
