"""Commands checked per CPU second on one thread: the compiled kernel, the NumPy step, and the plain-Python reference.

A long legal trace over many blocks, then many short sequences. Bar: 50 million commands per CPU second for `check`.
Run with `python benchmarks/nandseq_check.py`.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numba import njit

from nandseq import batched, reference
from nandseq.ops import Ops
from nandseq.profiles import Profile
from nandseq.rules import check, check_batch
from nandseq.state import State

LONG, SEQUENCES, LENGTH, SLOTS, ROUNDS = 4_000_000, 40_000, 50, 3, 7


@njit
def legal_walk(
    op: np.ndarray, slot: np.ndarray, page: np.ndarray, draws: np.ndarray, num_blocks: int, limit: int, pages: int
):
    """Fill the columns with erases of new or full blocks, programs of the next page and reads of the newest ones."""
    last = np.full(num_blocks, -2)
    for i in range(len(op)):
        s = draws[0, i] % num_blocks
        slot[i] = s
        if last[s] == -2 or last[s] == pages - 1:
            op[i], page[i], last[s] = 0, 0, -1
        elif last[s] == -1 or draws[1, i] % 2:
            last[s] += 1
            op[i], page[i] = 1, last[s]
        else:
            op[i], page[i] = 2, max(0, last[s] - draws[2, i] % limit)


def columns(length: int, num_blocks: int, profile: Profile, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    op, slot, page = np.empty(length, np.int8), np.empty(length, np.int32), np.empty(length, np.int32)
    draws = np.random.default_rng(seed).integers(0, 2**31, (3, length))
    legal_walk(op, slot, page, draws, num_blocks, profile.read_offset_limit, profile.pages)
    return op, slot, page


def long_trace(length: int, num_blocks: int, profile: Profile) -> Ops:
    op, slot, page = columns(length, num_blocks, profile)
    plane, block = np.divmod(slot, profile.blocks)
    return Ops(op, plane // profile.planes, plane % profile.planes, block, page)


def short_sequences(profile: Profile) -> list[np.ndarray]:
    drawn = [columns(LENGTH, SLOTS, profile, seed) for seed in range(8)]
    return [np.tile(np.stack(column), (SEQUENCES // 8, 1)) for column in zip(*drawn)]


def per_second(run: Callable[[], object], count: int, rounds: int = ROUNDS) -> float:
    """Commands per CPU second, best of some rounds after one round of warm-up."""
    seconds = []
    for _ in range(rounds + 1):
        begin = time.process_time()
        run()
        seconds.append(time.process_time() - begin)
    return count / min(seconds[1:])


def main() -> None:
    profile = Profile.load("seed")
    wide = profile.replace(dies=16, planes=4, blocks=1024)
    device = profile.replace(endurance=10**6)
    few, many, little = (long_trace(LONG, n, p) for n, p in ((300, profile), (65_536, wide), (300, profile)))
    short, little = short_sequences(profile), little[:100_000]
    states = State.batch(wide, 1, wide.num_blocks)
    rates = {
        "check, one trace, 300 blocks": per_second(lambda: check(few, profile), len(few)),
        "check, one trace, 65,536 blocks": per_second(lambda: check(many, wide, states), len(many)),
        f"check_batch, {SEQUENCES:,} × {LENGTH}": per_second(lambda: check_batch(*short, profile), SEQUENCES * LENGTH),
        "check with an extended rule": per_second(lambda: check(few, device), len(few), 2),
        f"batched.check_steps, {SEQUENCES:,} × {LENGTH}": per_second(
            lambda: batched.check_steps(*short, profile, State.batch(profile, SEQUENCES, SLOTS)), SEQUENCES * LENGTH, 2
        ),
        "reference, plain Python": per_second(lambda: reference.check(little, profile), len(little), 2),
    }
    slowest = rates["reference, plain Python"]
    print(f"{'one thread':<42} {'commands per CPU s':>20} {'ratio':>7}")
    for name, rate in rates.items():
        print(f"{name:<42} {rate:>20,.0f} {rate / slowest:>6.0f}×")


if __name__ == "__main__":
    main()
