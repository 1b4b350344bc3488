"""How many nats the simulator itself needs for its sequences: the entropy floor of a generator trained on them.

The simulator's machines keep hidden numbers (how far a block will be written, which other scenario runs), so that the
probability of the next command is a sum over all of them. A particle filter (Gordon, Salmond, Smith 1993, Novel
approach to nonlinear/non-Gaussian Bayesian state estimation) does that sum with the simulator's own code: of many
simulators that produced the sequence so far, what share goes on as the sequence does? The logarithm of a share p of K
particles is too low on average, by (1 − p) / 2Kp in the first order, which is added. Where few particles came through a
rare command the rest of the sequence is judged by too few hidden numbers, so the likelihood stays a little too low (the
floor too high, a gap to it too small); more particles tell how much.
"""

import numpy as np
from numba import njit

from nandseq.machines import ERASE, MACHINE, READ_VERIFY, UNKNOWN, below, between, cast, follow, random, step
from nandseq.scenarios import Source
from nandseq.tokens import Walks

MOST_PARTICLES = 2**18


def source_log_likelihood(
    walks: Walks, scenario: np.ndarray, source: Source, num_particles: int, seed: int = 0
) -> np.ndarray:
    """(N, L) estimated log-probability, in nats, of each command given those before it and the scenario.

    Where no particle goes on as the sequence does, the sequence is done again with four times as many.

    Args:
        walks: sequences that `source` can produce, blocks by order of first appearance.
        scenario: (N,) number of the first scenario in `nandseq.scenarios.NAMES`.

    Raises:
        ValueError: for a sequence that the source never produced with 2^18 particles.
    """
    result = np.zeros(walks.op.shape)
    todo = np.arange(len(walks))
    while len(todo):
        if num_particles > MOST_PARTICLES:
            raise ValueError(f"sequence {todo[0]}: no simulator of {MOST_PARTICLES} goes on as it does")
        some = walks[todo]
        worlds = np.repeat(source.world, num_particles)
        machines = np.zeros((num_particles, source.max_streams), MACHINE)
        keys = np.random.default_rng([seed, num_particles]).integers(0, 2**64, num_particles, np.uint64)
        result[todo] = _filter(some.op, some.block, some.page, scenario[todo].astype(np.int64), source.plan,
                               source.num_blocks, worlds, machines, keys)  # fmt: skip
        todo = todo[~np.isfinite(result[todo]).all(1)]
        num_particles *= 4
    return result


@njit(cache=True)
def _filter(op, block, page, scenario, plan, num_blocks, worlds, machines, keys):
    num_particles = len(worlds)
    worlds["rng"][:] = keys
    streams, alive = np.empty(num_particles, np.int64), np.empty(num_particles, np.int64)
    number = np.empty((num_particles, num_blocks), np.int64)  # of each particle's blocks by order of appearance
    result = np.zeros(op.shape)
    for n in range(len(op)):
        number[:] = -1
        for k in range(num_particles):
            worlds[k].last[:num_blocks] = UNKNOWN
            worlds[k].opened[:num_blocks] = 0
            streams[k] = cast(worlds[k], scenario[n], plan, num_blocks, machines[k])
        met = 0
        for t in range(op.shape[1]):
            count, is_new = 0, block[n, t] == met
            for k in range(num_particles):
                w = worlds[k]
                kind, b, at = step(w, machines[k, below(w, streams[k]) if streams[k] > 1 else 0])
                same_block = number[k, b] == (-1 if is_new else block[n, t])
                if same_block and kind == op[n, t] and (kind == ERASE or at == page[n, t]):
                    number[k, b] = block[n, t]
                    follow(w, kind, b, at)
                    alive[count], count = k, count + 1
            met += is_new
            if count == 0:
                result[n, t] = np.nan
                break
            share = count / num_particles
            result[n, t] = np.log(share) + (1 - share) / (2 * count)
            _replace_dead(alive, count, worlds, machines, streams, number)
    return result


@njit(cache=True)
def _replace_dead(alive, count, worlds, machines, streams, number):
    """Every particle that went another way becomes a copy of a random one that did not, with luck of its own."""
    following = 0
    for k in range(len(worlds)):
        if following < count and alive[following] == k:
            following += 1
            continue
        model = alive[below(worlds[k], count)]
        luck = random(worlds[k])
        worlds[k] = worlds[model]
        worlds[k].rng = luck
        machines[k] = machines[model]
        streams[k] = streams[model]
        number[k] = number[model]
        for s in range(streams[k]):
            _redraw_goals(worlds[k], machines[k, s])


@njit(cache=True)
def _redraw_goals(w, m):
    """Draw anew how far blocks will be written, where the sequence does not tell yet.

    All goals beyond the pages that are written, or due in a burst, explain it equally well, so each may take the place
    of another (Gilks, Berzuini 2001, Following a moving target). Without this few copies of one goal would be left.
    """
    due = m.left if m.kind == READ_VERIFY else 0
    for b in range(m.first, m.first + m.count):
        told = w.last[b] + due
        if w.opened[b] and w.goal[b] > told:
            goal = min(between(w, m.least, m.most) - 1, w.pages - 1)
            w.goal[b] = goal if goal > told else w.goal[b]
