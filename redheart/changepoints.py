"""Where a curve jumps: CUSUM on its detrended differences, and breaks of a piecewise linear fit as a second opinion."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from redheart.trend import noise_sd


@dataclass(frozen=True)
class ChangePoint:
    """A jump.

    Attributes:
        epoch: the first after the jump.
        direction: 1 up, −1 down.
        confirmed: whether the piecewise linear fit breaks within two checkpoints of it.
    """

    epoch: int
    direction: int
    confirmed: bool = False


@dataclass(frozen=True)
class ChangePoints:
    """Jumps, and the epochs at which a piecewise linear fit breaks."""

    jumps: list[ChangePoint]
    bends: list[int]


def change_points(epochs: ArrayLike, x: ArrayLike) -> ChangePoints:
    """Jumps and bends of a curve; a jump is confirmed by a bend near it."""
    bends = piecewise_linear(x)
    near = [bend + shift for bend in bends for shift in range(-2, 3)]
    found = [replace(jump, confirmed=bool(np.searchsorted(epochs, jump.epoch) in near)) for jump in jumps(epochs, x)]
    return ChangePoints(found, [int(np.asarray(epochs)[bend]) for bend in bends])


def jumps(epochs: ArrayLike, x: ArrayLike) -> list[ChangePoint]:
    """Lasting jumps of a curve, unconfirmed.

    A loss curve decays, so neither its first points nor its overall mean is a reference. CUSUM therefore runs on the
    first differences less their running median (7 wide, narrower at the ends, so that monotone decay leaves nothing);
    a jump is one spike there, found from about 8 noise standard deviations. A mere bend leaves none.
    """
    x = np.asarray(x, dtype=np.float64)
    noise = _noise(x)
    if not noise > 0:
        return []
    z = _spikes(np.diff(x)) / (math.sqrt(2) * noise)
    # noise may lift the sum from zero before the jump does: date it at the spike itself
    dated = [(begin + int(np.argmax(sign * z[begin : alarm + 1])), sign) for begin, alarm, sign in cusum(z)]
    return [ChangePoint(int(np.asarray(epochs)[at + 1]), sign) for at, sign in dated]


def cusum(z: ArrayLike, slack: float = 0.5, threshold: float = 5.0) -> list[tuple[int, int, int]]:
    """(begin, alarm, direction) of changes of the mean of standardised residuals; begin follows the last zero.

    Page's two-sided scheme: C± = max(0, C± ± z − slack), an alarm above `threshold`, then a fresh start.
    """
    found, sums, begin = [], {1: 0.0, -1: 0.0}, {1: 0, -1: 0}
    for t, value in enumerate(np.asarray(z, dtype=np.float64)):
        for sign in sums:
            sums[sign] = max(0.0, sums[sign] + sign * value - slack)
            if sums[sign] == 0:
                begin[sign] = t + 1
        alarm = next((sign for sign in sums if sums[sign] > threshold), None)
        if alarm is not None:
            found.append((begin[alarm], t, alarm))
            sums, begin = {1: 0.0, -1: 0.0}, {1: t + 1, -1: t + 1}
    return found


def piecewise_linear(x: ArrayLike) -> list[int]:
    """Positions where a piecewise linear regression breaks (PELT, penalty 3 σ² log n: a line and its place).

    On a piecewise constant fit smooth decay gives 3 to 6 breaks that are none (redheart specification, section 5), and
    the cost `clinear` joins single noisy points, so that every noisy line breaks.
    """
    from ruptures import Pelt  # a second to import

    x = np.asarray(x, dtype=np.float64)
    noise = _noise(x)
    if len(x) < 6 or not noise > 0:
        return []
    regression = np.column_stack([x, np.ones(len(x)), np.linspace(-1, 1, len(x))])
    search = Pelt(model="linear", min_size=3, jump=1).fit(regression)
    return [int(at) for at in search.predict(pen=3 * noise**2 * math.log(len(x)))[:-1]]


def _noise(x: np.ndarray) -> float:
    """Noise of the curve, at least what rounding makes of a noiseless one; 0 for a constant, NaN for too few points."""
    return max(noise_sd(x), 1e-9 * float(np.ptp(x))) if len(x) else math.nan


def _spikes(steps: np.ndarray, width: int = 7) -> np.ndarray:
    """Differences less their running median over a window that stays centred by narrowing at the ends."""
    reach = np.minimum(np.minimum(np.arange(len(steps)), np.arange(len(steps))[::-1]), width // 2)
    return steps - np.array([np.median(steps[i - r : i + r + 1]) for i, r in enumerate(reach)])
