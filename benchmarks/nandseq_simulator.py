"""Commands generated, corrupted and verified per CPU second on one thread, against the plain-Python reference.

Bar: 8 million commands per CPU second for the default settings. `reference` verifies the same sequences in plain
Python; `verify` is the compiled rule engine alone. Run with `python benchmarks/nandseq_simulator.py`.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nandseq import reference
from nandseq.profiles import Profile
from nandseq.simulator import EXTRA_SETS, Sequences, make_sequences

COUNT, SLOW_COUNT, ROUNDS = 20_000, 1_000, 5
SETTINGS = {
    "default: 50 commands, 3 blocks": {},
    "no hard ones": {"hard_share": 0.0},
    **{f"test set {name}": settings for name, settings in EXTRA_SETS.items()},
    "older generator": {"profile": "compat"},
    "legal only": {"class_shares": {"valid": 1.0}, "hard_share": 0.0},
}


def per_second(run: Callable[[], object], count: int, rounds: int = ROUNDS) -> float:
    """Commands per CPU second, best of some rounds after one round of warm-up."""
    seconds = []
    for _ in range(rounds + 1):
        begin = time.process_time()
        run()
        seconds.append(time.process_time() - begin)
    return count / min(seconds[1:])


def verify_slowly(sequences: Sequences, profile: Profile) -> None:
    for number in range(len(sequences)):
        reference.check(sequences.trace(number), profile)


def main() -> None:
    profile = Profile.load("seed")
    made, few = make_sequences(COUNT), make_sequences(SLOW_COUNT)
    rates = {
        f"make_sequences, {name}": per_second(
            lambda settings=settings: make_sequences(COUNT, **settings), COUNT * settings.get("seq_len", 50)
        )
        for name, settings in SETTINGS.items()
    }
    rates["verify alone"] = per_second(lambda: made.check(profile), made.op.size)
    rates["verify alone, plain Python"] = per_second(lambda: verify_slowly(few, profile), few.op.size, 2)
    slowest = rates["verify alone, plain Python"]
    print(f"{'one thread':<48} {'commands per CPU s':>20} {'ratio':>7}")
    for name, rate in rates.items():
        print(f"{name:<48} {rate:>20,.0f} {rate / slowest:>6.0f}×")


if __name__ == "__main__":
    main()
