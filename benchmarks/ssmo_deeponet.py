"""CPU time of a DeepONet training step against the form that evaluates the trunk for every sample, on one thread.

Same weights, batch of 32 Burgers fields on 1,024 points, same answers to 1e-5. Bar: at least 20 times cheaper. Run with
`python benchmarks/ssmo_deeponet.py`.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from ssmo.networks.operator import DeepONet, coordinates

BATCH, POINTS, WIDTH, BAR = 32, 1024, 128, 20


def trunk_per_sample(network: DeepONet, fields: Tensor) -> Tensor:
    """What `network` answers, with the query points repeated for every sample as in the original notebook."""
    points = coordinates([POINTS], False, fields).repeat(len(fields), 1)
    basis = network.trunk(points).unflatten(0, (len(fields), POINTS))
    return torch.einsum("bp,bnp->bn", network.branch(fields.flatten(1)), basis)[:, None] + network.bias


def step_seconds(network: DeepONet, answer: Callable[[Tensor], Tensor], fields: Tensor, rounds: int) -> float:
    """Least CPU time of a forward pass, a backward pass and an Adam step."""
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    times = []
    for _ in range(rounds):
        start = time.process_time()
        optimiser.zero_grad()
        answer(fields).square().mean().backward()
        optimiser.step()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, fields = DeepONet(1, 1, [POINTS], WIDTH), torch.randn(BATCH, 1, POINTS)
    torch.testing.assert_close(network(fields), trunk_per_sample(network, fields), rtol=0, atol=1e-5)
    once = step_seconds(network, network, fields, rounds=20)
    repeated = step_seconds(network, lambda x: trunk_per_sample(network, x), fields, rounds=5)
    print(f"DeepONet step, {BATCH} x {POINTS} points: trunk once {1000 * once:.2f} ms of CPU, per sample")
    print(f"  {1000 * repeated:.1f} ms, {repeated / once:.1f} times as much (bar {BAR}), same answers to 1e-5")
    sys.exit(repeated < BAR * once)


if __name__ == "__main__":
    main()
