"""Where the generator's training sequences come from, and what is known of the source's own probabilities."""

from typing import Annotated

import numpy as np
from pydantic import Field

from common.files import hash_record
from nandseq.generator import CompatPolicy, Sampler, log_likelihood
from nandseq.generator_floor import source_log_likelihood
from nandseq.machines import MAX_BLOCKS, NAMES
from nandseq.profiles import Profile
from nandseq.scenarios import MIXTURE, Source
from nandseq.simulator import make_sequences
from nandseq.tokens import Vocabulary, Walks, encode

NUM_PARTICLES = 8192


class CompatSource:
    """The founding generator, whose probabilities are known.

    Args:
        num_blocks: blocks of a sequence.

    Attributes:
        scenarios: names of the kinds of sequence.
        floor_method: how `log_likelihood` knows.
    """

    floor_method = "exact"
    scenarios = ("compat",)

    def __init__(self, num_blocks: Annotated[int, Field(ge=1)] = 3):
        self.num_blocks = num_blocks

    def sequences(self, count: int, profile: Profile, seq_len: int, seed: int, stream: str) -> tuple[Walks, np.ndarray]:
        """`count` legal sequences of `seq_len` commands, and the scenario (N,) of each."""
        scenario = np.zeros(count, np.int64)
        sampler = Sampler(Vocabulary.of(profile, self.num_blocks), profile)
        number = int(hash_record([seed, stream])[:8], 16)
        return sampler.draw(CompatPolicy(), scenario, seq_len, number).walks, scenario

    def log_likelihood(self, walks: Walks, scenario: np.ndarray, profile: Profile) -> np.ndarray:
        """(N, L) the source's own log-probability of each command, in nats, exactly."""
        vocabulary = Vocabulary.of(profile, self.num_blocks)
        return log_likelihood(CompatPolicy(), encode(walks, vocabulary, profile), vocabulary, profile, scenario)


class ScenarioSource:
    """The scenarios of the simulator, alone or several at once (nandseq specification, section 8).

    Args:
        mixture: weight of each scenario, by name; null is the simulator's own.
        num_blocks: blocks of a sequence.
        max_streams: scenarios that run at once, at most; the sequence is named after the first.

    Attributes:
        scenarios: names of the kinds of sequence.
        floor_method: how `log_likelihood` knows.
    """

    floor_method = f"particle filter over the simulator, {NUM_PARTICLES} particles"

    def __init__(
        self,
        mixture: dict[str, Annotated[float, Field(ge=0)]] | None,
        num_blocks: Annotated[int, Field(ge=1, le=MAX_BLOCKS)],
        max_streams: Annotated[int, Field(ge=1)],
    ):
        self.mixture = MIXTURE if mixture is None else mixture
        self.num_blocks, self.max_streams = num_blocks, max_streams
        self.scenarios = tuple(name for name in NAMES if self.mixture.get(name, 0) > 0)

    def sequences(self, count: int, profile: Profile, seq_len: int, seed: int, stream: str) -> tuple[Walks, np.ndarray]:
        """`count` legal sequences of `seq_len` commands, and the scenario (N,) of each."""
        made = make_sequences(
            count, profile, self.mixture, {"valid": 1.0}, seq_len, self.num_blocks, seed, stream, self.max_streams,
            hard_share=0.0,
        )  # fmt: skip
        return Walks.whole(made.op, made.slot.astype(np.int32), made.page), self._own(made.scenario)

    def log_likelihood(self, walks: Walks, scenario: np.ndarray, profile: Profile) -> np.ndarray:
        """(N, L) the source's own log-probability of each command, in nats, estimated by a particle filter."""
        source = Source(profile, self.mixture, walks.op.shape[1], self.num_blocks, self.max_streams)
        return source_log_likelihood(walks, self._numbers[scenario], source, NUM_PARTICLES)

    @property
    def _numbers(self) -> np.ndarray:
        """(K,) numbers in the simulator of the scenarios."""
        return np.array([NAMES.index(name) for name in self.scenarios])

    def _own(self, number: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._numbers, number)
