"""Generated rows whose best possible predictor is known: texts of hidden mood and utility, and bags of observations."""

from dataclasses import dataclass

import numpy as np

from redheart.rows import DIMENSIONS, NUM_OUTPUTS, UNLABELLED, Rows, Task
from redheart.surd import surd

EMOTIONS = ("joy", "anger", "surprise", "disgust", "sadness", "neutral", "fear")
# valence, arousal and dominance that each emotion stands for
AFFECTS = np.array(
    [[2.0, 1.0, 1.0], [-1.5, 1.8, 1.2], [0.6, 2.2, -0.6], [-2.0, 0.4, 0.4], [-1.6, -1.4, -1.2], [0.2, -1.0, 0.2],
     [-1.4, 1.6, -1.8]]
)  # fmt: skip
TEXT_DIM, BAG_DIM, NUM_WAVES = 8, 16, 32
CONCENTRATION = 20.0  # of the Beta distribution around a bentham dimension's mean
REGRET_NOISE = 0.1
NUM_VOTES = 5
LABELLED, ANNOTATED = 0.9, 0.7  # shares of rows with an emotion, and of bentham dimensions annotated
BAG_SIZES = (200, 1000)
SMALLEST = 1e-9


@dataclass
class Generated:
    """Rows, and what the best predictor says.

    Attributes:
        ideal: (M, C) logits of each task for every vector, from the distribution that the targets were drawn from. No
            predictor of the emotion, of bentham's mean or of the votes does better on average; the regret is its
            median; a bag's shares follow from its input without error.
    """

    rows: Rows
    ideal: dict[Task, np.ndarray]


def generate(
    num_rows: int, dim: int, seed: int, bag_share: float = 0.3, pair_share: float = 0.25, num_segments: int = 1
) -> Generated:
    """Texts and bags.

    A text's mood decides its emotion, all of it the ten bentham dimensions, and two utilities its regret: how much the
    best alternative exceeds what was chosen, on a scale that levels off at 0 and 1. Vectors are an injective map of
    what is hidden, the same for every seed. Source: redheart specification, section 3.2.

    Args:
        dim: size of the vectors, at least 56.
        bag_share: of the rows.
        pair_share: of the texts, compared with another text by five votes.
        num_segments: vectors per text, whose mean is the text's; 1 gives (M, dim).

    Raises:
        ValueError: if the vectors are too small to hold what is hidden.
    """
    if dim < TEXT_DIM + BAG_DIM + NUM_WAVES:
        raise ValueError(f"dim={dim}: need at least {TEXT_DIM + BAG_DIM + NUM_WAVES}")
    rng = np.random.default_rng(seed)
    num_bags = round(bag_share * num_rows)
    bags, texts = _bags(num_bags, dim, rng, f"bag-{seed}"), _texts(num_rows - num_bags, dim, pair_share, rng, seed)
    rows = Rows.join([texts.rows, bags.rows])
    if num_segments > 1:
        shape = (len(rows.x), num_segments, dim)
        noise = rng.normal(size=shape).astype(np.float32)
        rows.x = rows.x[:, None] + noise - noise.mean(1, keepdims=True)
    return Generated(rows, {task: np.concatenate([texts.ideal[task], bags.ideal[task]]) for task in NUM_OUTPUTS})


def _texts(count: int, dim: int, pair_share: float, rng: np.random.Generator, seed: int) -> Generated:
    num_pairs = round(pair_share * count)
    hidden = rng.normal(size=(count + num_pairs, TEXT_DIM))
    ideal = {
        "emotion": hidden[:, :3] @ AFFECTS.T,
        "bentham": hidden @ np.random.default_rng(1).normal(size=(TEXT_DIM, len(DIMENSIONS))) / 2,
        "regret": 2 * (hidden[:, 3:4] - hidden[:, 4:5]) - 1,
        "surd": np.zeros((len(hidden), 4)),
    }
    mean = sigmoid(ideal["bentham"][:count])
    bentham = rng.beta(CONCENTRATION * mean, CONCENTRATION * (1 - mean))
    regret = sigmoid(ideal["regret"][:count, 0]) + REGRET_NOISE * rng.normal(size=count)
    emotion = (ideal["emotion"][:count] + rng.gumbel(size=(count, len(EMOTIONS)))).argmax(1)
    second, vote = np.full(count, -1), np.full(count, np.nan)
    second[:num_pairs] = np.arange(count, count + num_pairs)
    margin = ideal["regret"][:num_pairs, 0] - ideal["regret"][count:, 0]
    vote[:num_pairs] = rng.binomial(NUM_VOTES, sigmoid(margin)) / NUM_VOTES
    rows = Rows.of(
        embed(np.pad(hidden, ((0, 0), (0, BAG_DIM))), dim), [f"text-{seed}-{i}" for i in range(count)],
        np.arange(count), second, vote=vote, regret=regret.clip(0, 1),
        emotion=np.where(rng.random(count) < LABELLED, emotion, UNLABELLED),
        bentham=np.where(rng.random(bentham.shape) < ANNOTATED, bentham, np.nan),
    )  # fmt: skip
    return Generated(rows, ideal)


def make_bags(count: int, dim: int, seed: int) -> Rows:
    """Bags alone, for data whose texts are real: no text has a decomposition."""
    return _bags(count, dim, np.random.default_rng(seed), f"bag-{seed}").rows


def _bags(count: int, dim: int, rng: np.random.Generator, name: str) -> Generated:
    joints = np.stack(list(mechanisms().values()))
    mixtures = np.einsum("bm,m...->b...", rng.dirichlet(np.full(len(joints), 0.3), size=count), joints)
    sizes = rng.integers(*BAG_SIZES, endpoint=True, size=count)
    counts = rng.multinomial(sizes, mixtures.reshape(count, BAG_DIM))
    parts = [surd(each.reshape(4, 2, 2)) for each in counts]
    shares = np.array([part.shares() for part in parts]).reshape(count, 4)
    seen = 4 * np.sqrt(counts / np.maximum(sizes, 1)[:, None]) - 1
    rows = Rows.of(
        embed(np.pad(seen, ((0, 0), (TEXT_DIM, 0))), dim), [f"{name}-{i}" for i in range(count)], np.arange(count),
        surd=np.where(shares.sum(1, keepdims=True) > 0, shares, np.nan),
        information=np.array([part.information for part in parts]),
    )  # fmt: skip
    ideal = {task: np.zeros((count, size)) for task, size in NUM_OUTPUTS.items()}
    return Generated(rows, ideal | {"surd": np.log(np.maximum(shares, SMALLEST))})


def mechanisms() -> dict[str, np.ndarray]:
    """(4, 2, 2) joint distributions of a target and two fair binary sources, by name."""
    one, two = np.meshgrid([0, 1], [0, 1], indexing="ij")
    rules = {
        "xor": one ^ two, "copy": one, "copy_other": two, "and": one & two, "or": one | two, "sum": one + two,
        "both": 2 * one + two,
    }  # fmt: skip
    target = np.arange(4)[:, None, None]
    joints = {name: (target == rule) / 4 for name, rule in rules.items()}
    joints["redundant"] = (target == one) * (one == two) / 2
    joints["noisy_copy"] = 0.9 * joints["copy"] + 0.1 * (target == 1 - one) / 4
    joints["independent"] = np.broadcast_to((target < 2) / 8, (4, 2, 2))
    return joints


def embed(hidden: np.ndarray, dim: int) -> np.ndarray:
    """(M, dim) vectors: a linear image of what is hidden plus one of its waves, apart, hence injective."""
    rng = np.random.default_rng(0)
    linear, waves = rng.normal(size=(hidden.shape[1], dim)), rng.normal(size=(hidden.shape[1], NUM_WAVES))
    return (hidden @ linear + np.sin(hidden @ waves) @ rng.normal(size=(NUM_WAVES, dim))) / 6


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
