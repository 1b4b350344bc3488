"""Random traces that break every base rule often, for the tests of the rule engines."""

import numpy as np

from nandseq.ops import Ops
from nandseq.profiles import Profile


def random_trace(rng: np.random.Generator, length: int, profile: Profile, num_blocks: int = 3) -> Ops:
    """Mostly legal commands near the write frontier of few blocks, with faults of every kind mixed in."""
    sizes = (profile.dies, profile.planes, profile.blocks)
    addresses = np.stack([rng.integers(0, size, num_blocks) for size in sizes], 1)
    frontier = np.full(num_blocks, -1)
    rows = np.empty((length, 5), np.int64)
    which, draw = rng.integers(0, num_blocks, length), rng.random((length, 3))
    offset = rng.integers(-7, 4, length)
    for i, (block, (kind, fault, where)) in enumerate(zip(which.tolist(), draw.tolist())):
        op = 0 if kind < 0.06 else 1 if kind < 0.55 else 2
        page = frontier[block] + 1 if op == 1 else max(frontier[block] - int(where * 4), 0)
        if fault < 0.25:
            page = max(frontier[block] + offset[i], 0)
        page = min(page, profile.pages - 1)
        frontier[block] = -1 if op == 0 else max(frontier[block], page) if op == 1 else frontier[block]
        rows[i] = (op, *addresses[block], page)
    broken = np.flatnonzero(rng.random(length) < 0.02)
    rows[broken, rng.integers(0, 5, len(broken))] = rng.choice([-1, 10**6, 2**40], len(broken))
    return Ops(*rows.T)


CONTROL_SHARES = [0.1, 0.15, 0.15, 0.15, 0.15, 0.05, 0.1, 0.14, 0.01]


def random_device_trace(rng: np.random.Generator, length: int, profile: Profile) -> Ops:
    """A base trace over all blocks with extended commands, times that often collide, groups, modes and failed reads."""
    base = random_trace(rng, length, profile, profile.num_blocks + 2)
    op = base.op.copy()
    drawn = rng.random(length)
    twin = {1: [4, 6], 2: [3, 5]}
    for kind, others in twin.items():
        at = (op == kind) & (drawn < 0.35)
        op[at] = rng.choice(others, at.sum())
    control = rng.random(length) < 0.15
    op[control] = rng.choice([7, 8, 8, 9, 9, 10, 11, 12, 13], control.sum(), p=CONTROL_SHARES)
    page = np.where(op == 12, rng.integers(0, 2, length), base.page)
    repeat = np.flatnonzero(rng.random(length - 1) < 0.3) + 1  # the row before again, on another plane or page
    columns = [op, base.die.copy(), base.plane.copy(), base.block.copy(), page]
    for row in repeat:
        for column in columns:
            column[row] = column[row - 1]
        changed = rng.choice([0, 2, 3, 4])
        columns[changed][row] = max(0, columns[changed][row] + rng.choice([-1, 1]))
    group = np.full(length, -1)
    group[repeat] = group[repeat - 1] = repeat // 2
    return Ops(
        *columns,
        t_ns=np.cumsum(rng.choice([0, 1, 10, 60], length)),
        group=group,
        mode=rng.choice([-1, 0, 0, 0, 1], length),
        src_block=rng.choice([-1, 0, 1], length, p=[0.8, 0.1, 0.1]),
        src_page=rng.choice([-1, 0, 1], length, p=[0.8, 0.1, 0.1]),
        status=rng.choice([0, 1], length),
    )
