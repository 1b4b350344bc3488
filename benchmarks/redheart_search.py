"""Forward passes of factorised evaluation against running the whole model for every combination tried. Bar: 20 x fewer.

Run with `python benchmarks/redheart_search.py [epochs]`; one thread, the smoke model, random units instead of trained
ones. Every combination that coordinate descent tries is evaluated both ways, and the losses must be equal to the last
bit; of those that the exact search covers a hundred are, up to the rounding of float32.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from redheart.candidates import exact_optimum, recipe_of, task_tables
from redheart.combine import blend
from redheart.contributions import Contributions
from redheart.rows import TASKS
from redheart.search import coordinate_descent
from redheart.tasks import Answer
from tests.redheart.collected import collect, contributions, small_module


@torch.no_grad()
def whole_model(kept: Contributions, picks: dict[str, int]) -> np.ndarray:
    """(n,) losses of one combination by a forward pass of everything."""
    module = kept.module
    for unit, source in recipe_of(kept, picks).items():
        module.units[unit].load_state_dict(blend(kept.units.folder, unit, source))
    said = [module.answers(batch) for batch in kept.batches]
    joined = {branch: Answer.join([each[branch] for each in said]) for branch in module.branches}
    fused = {task: Answer.fuse([each for branch, each in joined.items() if branch[1] == task]) for task in TASKS}
    return kept.losses(fused)


def main(num_epochs: int) -> None:
    torch.set_num_threads(1)
    epochs = tuple(range(2, 2 * num_epochs + 1, 2))
    with tempfile.TemporaryDirectory() as name:
        folder = collect(Path(name), small_module(), epochs)
        kept, naive = contributions(folder), contributions(folder)
        groups, tried = list(kept.units.groups), {}

        def losses_of(picks: dict[str, int]) -> np.ndarray:
            tried[tuple(picks.values())] = kept.losses(kept.fused(recipe_of(kept, picks)))
            return tried[tuple(picks.values())]

        began = time.process_time()
        for epoch in epochs:
            losses_of(dict.fromkeys(groups, epoch))
        start = dict.fromkeys(groups, epochs[0])
        coordinate_descent(losses_of, start, dict.fromkeys(groups, epochs))
        recipe, how = exact_optimum(kept)
        seconds, passes = time.process_time() - began, kept.passes / len(kept.units.graph)
        began = time.process_time()
        for at, losses in tried.items():
            assert np.array_equal(whole_model(naive, dict(zip(groups, at))), losses)
        naive_seconds = time.process_time() - began
        tables = task_tables(kept)
        rng = np.random.default_rng(0)
        for _ in range(100):
            at = {group: int(rng.integers(num_epochs)) for group in groups}
            summed = sum(table[tuple(at[each] for each in own)] for own, table in tables.items())
            mean = whole_model(naive, {group: epochs[k] for group, k in at.items()}).mean()
            assert abs(summed - mean) < 1e-6 * mean
        largest = max(table.size for table in tables.values())
        assert kept.losses(kept.fused(recipe)).mean() <= min(losses.mean() for losses in tried.values())
    print(f"{len(groups)} groups of {num_epochs} epochs, {len(kept.targets)} rows")
    print(f"factorised: {passes:.0f} passes of the model, {seconds:.1f} CPU s, both searches")
    ratio = len(tried) / passes
    print(f"whole model, coordinate descent: {len(tried):,} passes, {naive_seconds:.1f} CPU s; {ratio:.0f} x")
    print(f"whole model, exact search: at least {largest:,} passes; {(len(tried) + largest) / passes:.0f} x with both")
    print(how)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
