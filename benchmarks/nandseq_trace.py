"""Rows of a CSV trace judged per CPU second on one thread, and peak memory, against plain Python in the same run.

A legal trace over 8,000 blocks is written to a temporary folder, then judged in a process of its own by
`nandseq.check`; its start takes about 1.3 CPU seconds. Bar: a million rows per CPU second, and memory that does not
grow with the trace. Linux only. Run with `python benchmarks/nandseq_trace.py [ROWS …]`; 29 bytes of disk for each row.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from nandseq_check import long_trace

from nandseq import reference
from nandseq.ops import Ops
from nandseq.profiles import Profile
from nandseq.traces import op_number, write_trace

ROOT = Path(__file__).resolve().parents[1]
ROWS = (1_000_000, 10_000_000)
PLAIN_ROWS, REPEATED = 100_000, 4_000_000
# getrusage would count the memory of the process that starts this one
JUDGE = """
import re, sys, time
from nandseq.check import main
assert main(sys.argv[1:]) == 0
print(time.process_time(), re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def repeated(ops: Ops, count: int) -> Iterator[Ops]:
    """`count` commands with times of their own; a legal trace that erases its blocks first may be said again."""
    for begin in range(0, count, len(ops)):
        part = ops[: count - begin]
        yield dataclasses.replace(part, t_ns=1000 * np.arange(begin, begin + len(part)))


def checked(path: Path) -> tuple[float, float]:
    """CPU seconds and peak MiB of the command."""
    words = [sys.executable, "-c", JUDGE, str(path), "--profile", "seed"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    seconds, kibibytes = done.stdout.split()[-2:]
    return float(seconds), int(kibibytes) / 1024


def plainly_checked(path: Path, profile: Profile) -> float:
    """Rows per CPU second of a loop over lines and the plain-Python reference."""
    begin = time.process_time()
    with open(path) as file:
        next(file)
        rows = [line.split(",") for line in file]
    numbers = np.array([(op_number(op), *map(int, address)) for _, op, *address in rows])
    reference.check(Ops(*numbers.T), profile)
    return len(rows) / (time.process_time() - begin)


def main() -> None:
    counts = [int(word) for word in sys.argv[1:]] or ROWS
    profile = Profile.load("seed")
    ops = long_trace(min(REPEATED, max(*counts, PLAIN_ROWS)), profile.num_blocks, profile)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.csv"
        write_trace(repeated(ops, PLAIN_ROWS), path)
        plain = plainly_checked(path, profile)
        checked(path)  # compiles
        print(f"{'CSV rows':<26} {'rows per CPU s':>14} {'CPU s':>7} {'peak MiB':>9} {'ratio':>7}")
        print(f"{f'{PLAIN_ROWS:,}, plain Python':<26} {plain:>14,.0f}")
        for count in counts:
            write_trace(repeated(ops, count), path)
            seconds, memory = checked(path)
            rate = count / seconds
            print(f"{count:<26,} {rate:>14,.0f} {seconds:>7.2f} {memory:>9,.0f} {rate / plain:>6.0f}×")


if __name__ == "__main__":
    main()
