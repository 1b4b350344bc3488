"""Commands drawn under the grammar's mask per CPU second on one thread, beside the same in plain Python.

The network, the mask and the choice are the same; the plain form keeps the state of one sequence in lists, asks the
network for one step of one sequence at a time and draws with `random`. Bar: 100,000 commands per CPU second.
Run with `python benchmarks/nandseq_generator.py`.
"""

import math
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from nandseq.generator import NetworkPolicy, Sampler, TokenGRU, UniformPolicy
from nandseq.profiles import Profile
from nandseq.rules import check_batch
from nandseq.tokens import ERASE, OPEN, PROGRAM, READ, UNKNOWN, Vocabulary, Walks

SEQUENCES, LENGTH, SLOTS, PLAIN, ROUNDS = 4000, 50, 3, 20, 3


def plain_legal(vocabulary: Vocabulary, profile: Profile, newest: list[int], used: list[bool]) -> list[bool]:
    """The mask of one state, token by token."""
    legal, moves = [], (vocabulary.kind, vocabulary.slot, vocabulary.offset)
    for kind, s, offset in zip(*(table[: len(vocabulary)].tolist() for table in moves)):
        page = newest[s] + offset
        known = newest[s] > UNKNOWN
        legal.append(
            kind == ERASE
            or (kind == PROGRAM and known and page < profile.pages)
            or (kind == READ and known and page >= 0 and -offset < profile.read_offset_limit)
            or (kind == OPEN and used[s])
        )
    return legal


@torch.inference_mode()
def plain_sample(network: TokenGRU, vocabulary: Vocabulary, profile: Profile) -> int:
    """Draw one sequence; its number of commands."""
    newest, used, memory, previous, drawn = [UNKNOWN] * SLOTS, [False] * SLOTS, None, -1, 0
    scenario = torch.zeros(1, dtype=torch.long)
    while drawn < LENGTH:
        logits, memory = network(torch.tensor([[previous]]), torch.tensor([[newest]]), scenario, memory)
        legal = plain_legal(vocabulary, profile, newest, used)
        weights = [math.exp(logit) if ok else 0.0 for logit, ok in zip(logits[0, 0].tolist(), legal)]
        previous = random.choices(range(len(weights)), weights)[0]
        kind, s = int(vocabulary.kind[previous]), int(vocabulary.slot[previous])
        if kind == OPEN:
            newest[s], used[s] = UNKNOWN, False
            continue
        newest[s], used[s], drawn = -1 if kind == ERASE else newest[s] + (kind == PROGRAM), True, drawn + 1
    return drawn


def per_second(run: Callable[[], int], rounds: int = ROUNDS) -> float:
    """What `run` counts per CPU second, best of some rounds after one of warm-up."""
    rates = []
    for _ in range(rounds + 1):
        begin = time.process_time()
        count = run()
        rates.append(count / (time.process_time() - begin))
    return max(rates[1:])


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    profile = Profile.load("seed")
    vocabulary = Vocabulary.of(profile, SLOTS)
    network = TokenGRU(SLOTS, profile.read_offset_limit, 7, profile.pages, hidden_dim=128).eval()
    with torch.no_grad():
        network.out.bias[vocabulary.end] = -20.0  # sequences of full length, as a trained network draws them
    scenario = np.zeros(SEQUENCES, int)

    def drawn(masked: bool, top_p: float = 1.0, policy: object = None) -> Walks:
        sampler = Sampler(vocabulary, profile, top_p=top_p, masked=masked)
        return sampler.draw(policy or NetworkPolicy(network), scenario, LENGTH, 0).walks

    walks = drawn(True)
    assert not check_batch(walks.op, walks.block, walks.page, profile).primary.any()
    rates = {
        f"masked, {SEQUENCES:,} × {LENGTH}": per_second(lambda: int(drawn(True).length.sum())),
        "masked, top-p 0.9": per_second(lambda: int(drawn(True, 0.9).length.sum())),
        "without mask": per_second(lambda: int(drawn(False).length.sum())),
        "uniform walk under the mask": per_second(lambda: int(drawn(True, policy=UniformPolicy()).length.sum())),
        "plain Python, one at a time": per_second(
            lambda: sum(plain_sample(network, vocabulary, profile) for _ in range(PLAIN)), 1
        ),
    }
    slowest = rates["plain Python, one at a time"]
    print(f"{'one thread':<32} {'commands per CPU s':>20} {'ratio':>7}")
    for name, rate in rates.items():
        print(f"{name:<32} {rate:>20,.0f} {rate / slowest:>6.0f}×")


if __name__ == "__main__":
    main()
