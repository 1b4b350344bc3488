"""What a sequence of commands looks like as a whole: shares and habits that tell scenarios apart (section 8)."""

import numpy as np
from numba import njit

from nandseq.codes import Op
from nandseq.ops import as_type

ERASE, PROGRAM, READ = int(Op.ERASE), int(Op.PROGRAM), int(Op.READ)
KINDS = ("erase", "program", "read", "other")
AGES = ("0", "1", "2 to 4", "5 or more", "unwritten")
WAITS = ("at once", "within 4", "within 16", "later")
NAMES = (
    *(f"share of {kind}" for kind in KINDS),
    *(f"{a} then {b}, {where}" for where in ("same block", "other block") for a in KINDS for b in KINDS),
    *(f"reads {age} pages behind" for age in AGES),
    *(f"reads {wait} after their block's program" for wait in WAITS),
    "reads of the page after the one read before", "reads of the page read before", "programs of the next page",
    "erases of a block with pages", "logarithm of pages at such an erase", "entropy of blocks, bits",
    "share of the busiest block", "entropy of erased blocks, bits", "logarithm of pages programmed in a row",
)  # fmt: skip


def trace_features(op: np.ndarray, block: np.ndarray, page: np.ndarray, length: np.ndarray | None = None) -> np.ndarray:
    """(N, D) float32 features of N sequences of up to L commands, named in `NAMES`; no address enters them.

    Args:
        op, block, page: (N, L); block numbers from 0, of any order.
        length: (N,) commands of each; None: all L.
    """
    length = np.full(len(op), op.shape[1]) if length is None else length
    num_blocks = max(int(block.max(initial=0)) + 1, 1)
    result = np.zeros((len(op), len(NAMES)))
    op, block, page = as_type(op, np.int8), as_type(block, np.int32), as_type(page, np.int32)
    _look(op, block, page, length, num_blocks, result)
    return result.astype(np.float32)


@njit(cache=True)
def _look(op, block, page, length, num_blocks, out):
    blocks = np.empty((3, num_blocks), np.int64)
    newest, wrote, read_page = blocks[0], blocks[1], blocks[2]
    uses, erases = np.empty(num_blocks), np.empty(num_blocks)
    base = np.array([4, 36, 41, 45, 48])  # first column of pairs, ages, waits, habits, erases
    for n in range(len(op)):
        newest[:], wrote[:], read_page[:], uses[:], erases[:] = -1, -1, -2, 0, 0
        counts, row, runs, before = np.zeros(4), out[n], 0.0, -1
        cleared = 0
        for t in range(length[n]):
            kind, b, p = min(op[n, t], 3) if op[n, t] >= 0 else 3, block[n, t], page[n, t]
            counts[kind] += 1
            uses[b] += 1
            if t > 0:
                other = block[n, t - 1] != b
                row[base[0] + 16 * other + 4 * before + kind] += 1
            if kind == ERASE:
                erases[b] += 1
                if newest[b] >= 0:
                    row[base[4]] += 1
                    row[base[4] + 1] += np.log2(newest[b] + 1.0)
                    cleared += 1
                newest[b], read_page[b] = -1, -2
            elif kind == PROGRAM:
                row[base[3] + 2] += p == newest[b] + 1
                runs += t == 0 or before != PROGRAM or block[n, t - 1] != b
                newest[b], wrote[b] = max(newest[b], p), t
            elif kind == READ:
                age = newest[b] - p
                row[base[1] + (4 if age < 0 else age if age < 2 else 2 if age < 5 else 3)] += 1
                wait = t - wrote[b]
                late = wrote[b] < 0 or wait > 16
                row[base[2] + (3 if late else 0 if wait == 1 else 1 if wait <= 4 else 2)] += 1
                row[base[3]] += p == read_page[b] + 1
                row[base[3] + 1] += p == read_page[b]
                read_page[b] = p
            before = kind
        total = max(length[n], 1)
        for kind in range(4):
            row[kind] = counts[kind] / total
        row[base[0] : base[1]] /= max(total - 1, 1)
        row[base[1] : base[3] + 2] /= max(counts[READ], 1)
        row[base[3] + 2] /= max(counts[PROGRAM], 1)
        row[base[4]] /= max(counts[ERASE], 1)
        row[base[4] + 1] /= max(cleared, 1)
        row[base[4] + 2], row[base[4] + 3] = _entropy(uses), uses.max() / total
        row[base[4] + 4] = _entropy(erases)
        row[base[4] + 5] = np.log2(max(counts[PROGRAM], 1) / max(runs, 1))


@njit(cache=True)
def _entropy(counts):
    total, bits = counts.sum(), 0.0
    for count in counts:
        if count > 0:
            bits -= count / total * np.log2(count / total)
    return bits
