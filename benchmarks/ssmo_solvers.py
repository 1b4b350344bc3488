"""CPU seconds per sample of the PDE solvers at the specification's resolutions, on one thread.

A batch against the same samples one at a time; Darcy also against scipy's sparse direct solve and Burgers against the
same scheme in NumPy, one sample at a time, each on the same inputs and to the same solution. Bars: a Burgers batch at
least 3 times cheaper than its samples alone and than NumPy, Darcy at least 2 times cheaper than scipy, and no batch
more than 1.3 times dearer than its samples alone. Run with `python benchmarks/ssmo_solvers.py`.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from ssmo.fields import binary_coefficient, burgers_initial, cosine_field, diagonal_forcing, vorticity_initial
from ssmo.solvers import solve_burgers, solve_darcy, solve_navier_stokes

BATCH, ALONE, ROUNDS, SEED = 8, 4, 3, 0
VISCOSITY = {"burgers": 0.01, "navier-stokes": 1e-3}


def scipy_darcy(a: Tensor) -> Tensor:
    """(B, N, N) the same five-point system by `spsolve`, one sample at a time."""
    return torch.stack([torch.from_numpy(_direct(each)) for each in a.numpy()])


def _direct(a: np.ndarray) -> np.ndarray:
    inner = len(a) - 2
    x = 2 / (1 / a[1:, 1:-1] + 1 / a[:-1, 1:-1]) * (inner + 1) ** 2
    y = 2 / (1 / a[1:-1, 1:] + 1 / a[1:-1, :-1]) * (inner + 1) ** 2
    along_y = np.pad(y[:, 1:-1], ((0, 0), (0, 1))).ravel()[:-1]
    along_x = x[1:-1].ravel()
    middle = (x[1:] + x[:-1] + y[:, 1:] + y[:, :-1]).ravel()
    diagonals = [middle, -along_x, -along_x, -along_y, -along_y]
    matrix = scipy.sparse.diags_array(diagonals, offsets=[0, inner, -inner, 1, -1], format="csc")
    return np.pad(scipy.sparse.linalg.spsolve(matrix, np.ones(inner**2)).reshape(inner, inner), 1)


def numpy_burgers(u0: Tensor, viscosity: float, steps: int = 1000) -> Tensor:
    """(B, N) the same scheme until t = 1, one sample at a time and with all modes, the 2/3 rule as a mask."""
    return torch.stack([torch.from_numpy(_integrating_factor(each, viscosity, steps)) for each in u0.numpy()])


def _integrating_factor(u0: np.ndarray, viscosity: float, steps: int) -> np.ndarray:
    mode = np.arange(len(u0) // 2 + 1)
    half = np.exp(-0.5 / steps * viscosity * (2 * np.pi * mode) ** 2)
    flux = -1j / steps * np.pi * mode * (mode < len(u0) / 3)
    v = np.fft.rfft(u0) * (mode < len(u0) / 3)
    for _ in range(steps):
        a = flux * np.fft.rfft(np.fft.irfft(v) ** 2)
        b = flux * np.fft.rfft(np.fft.irfft(half * (v + a / 2)) ** 2)
        c = flux * np.fft.rfft(np.fft.irfft(half * v + b / 2) ** 2)
        d = flux * np.fft.rfft(np.fft.irfft(half**2 * v + half * c) ** 2)
        v = half**2 * v + (half**2 * a + 2 * half * (b + c) + d) / 6
    return np.fft.irfft(v)


def cpu_seconds(function: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """What the function returns and the least CPU time of some calls."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return result, min(times)


def compare(name: str, solve: Callable[[Tensor], Tensor], inputs: Tensor, other=None, label: str = "") -> list[float]:
    """Cost of one sample at a time, and of the other way if there is one, in costs of a batch."""
    together, seconds = cpu_seconds(lambda: solve(inputs))
    seconds /= len(inputs)
    rivals = {"one at a time": lambda: torch.cat([solve(inputs[index : index + 1]) for index in range(ALONE)])}
    if other is not None:
        rivals[label] = lambda: other(inputs[:ALONE])
    print(f"{name}: {1000 * seconds:.1f} ms of CPU per sample in a batch of {len(inputs)}, {1 / seconds:.1f} samples/s")
    ratios = []
    for rival, run in rivals.items():
        result, spent = cpu_seconds(run)
        torch.testing.assert_close(result, together[:ALONE], rtol=1e-9, atol=1e-10)
        ratios.append(spent / ALONE / seconds)
        print(f"  {rival}: {1000 * spent / ALONE:.1f} ms, {ratios[-1]:.2f} times as much, same solution")
    return ratios


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(SEED)
    u0 = burgers_initial(BATCH, 1024, generator)
    a = binary_coefficient(cosine_field(BATCH, 241, generator))
    w0, forcing = vorticity_initial(BATCH, 64, generator), diagonal_forcing(64)
    viscosity = VISCOSITY["burgers"]
    burgers = compare(
        "Burgers, 1,024 points, 1,000 steps", lambda u: solve_burgers(u, viscosity, 1.0), u0,
        lambda u: numpy_burgers(u, viscosity), "NumPy",
    )  # fmt: skip
    darcy = compare("Darcy, 241² nodes, coefficients 3 and 12", solve_darcy, a, scipy_darcy, "scipy spsolve")
    viscosity_2d = VISCOSITY["navier-stokes"]
    vorticity = compare(
        "Navier-Stokes, 64² points, 256 steps", lambda w: solve_navier_stokes(w, viscosity_2d, 1.0, forcing), w0
    )
    sys.exit(min(burgers) < 3 or darcy[1] < 2 or min(darcy[0], vorticity[0]) < 1 / 1.3)


if __name__ == "__main__":
    main()
