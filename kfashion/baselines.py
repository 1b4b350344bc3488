"""What an attribute encoder has to beat: rivals that turn records into vectors without one.

Each rival gives query vectors of records and gallery vectors of images whose inner product is its score, so that
`kfashion.retrieval.rank` judges all alike. They are fitted on the training split. Source: kfashion specification,
section 5, rule 6.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from kfashion.records import FIELDS, MULTI, PAD, Codes

RIDGE_STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
WEIGHT_PENALTY = 1e-4
LBFGS_STEPS = 100


@dataclass(frozen=True)
class Fitted:
    """A rival's vectors.

    Attributes:
        queries: (N, D) float32, of records.
        gallery: (N, D) float32, of the images of the same garments.
    """

    queries: np.ndarray
    gallery: np.ndarray


def one_hot(codes: Codes, sizes: dict[str, int]) -> np.ndarray:
    """(N, sum of the sizes) float32: 1 for every token that a record has, missing being one; padding is none."""
    columns = []
    for field in FIELDS:
        hot = torch.zeros(len(codes[field]), sizes[field])
        hot.scatter_(1, codes[field].long().view(len(hot), -1), 1.0)
        hot[:, PAD] = 0
        columns.append(hot)
    return torch.cat(columns, 1).numpy()


def rivals(codes: Codes, sizes: dict[str, int], image: np.ndarray, train: np.ndarray, group: np.ndarray,
           judged: np.ndarray, seed: int = 0) -> dict[str, Fitted]:  # fmt: skip
    """Every rival's vectors of the judged garments, by name.

    Args:
        codes, image, group: of all garments: their records, (N, 512) image vectors and groups.
        train, judged: row numbers.
    """
    hot, vectors = one_hot(codes, sizes), image[judged]
    known, asked = hot[train], hot[judged]
    category = slice(0, sizes["category"])
    random = np.random.default_rng(seed).standard_normal(vectors.shape).astype(np.float32)
    classes = fit_classifiers(known, image[train], sizes)
    return {
        "random vectors": Fitted(_unit(random), vectors),
        "category mean": Fitted(_prototypes(known[:, category], image[train], asked[:, category]), vectors),
        "attribute prototypes": Fitted(_prototypes(known, image[train], asked), vectors),
        "ridge": Fitted(_unit(asked @ fit_ridge(known, image[train], group[train])), vectors),
        "attribute classifiers": classifier_scores(classes, asked, vectors, sizes),
    }


def fit_ridge(hot: np.ndarray, image: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(tokens, 512) linear map from one-hot records to image vectors.

    The penalty is the one of `RIDGE_STRENGTHS` that predicts a fifth of the groups best from the others.
    """
    held = np.unique(group, return_inverse=True)[1] % 5 == 0
    if not held.any() or held.all():
        return _ridge(hot, image, 1.0)
    errors = [np.square(hot[held] @ _ridge(hot[~held], image[~held], each) - image[held]).sum()
              for each in RIDGE_STRENGTHS]  # fmt: skip
    return _ridge(hot, image, RIDGE_STRENGTHS[int(np.argmin(errors))])


def fit_classifiers(hot: np.ndarray, image: np.ndarray, sizes: dict[str, int]) -> Tensor:
    """(513, tokens) weights, bias last, of logistic regressions from image vectors to every field's tokens.

    A single field is one softmax over its tokens, in a multi field every token is a yes or no of its own.
    """
    inputs, targets = _with_bias(image), torch.from_numpy(hot)
    weights = torch.zeros(inputs.shape[1], hot.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=LBFGS_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits, loss = inputs @ weights, WEIGHT_PENALTY * weights.square().sum()
        for field, columns in _columns(sizes).items():
            own, target = logits[:, columns], targets[:, columns]
            if field in MULTI:
                loss = loss + binary_cross_entropy_with_logits(own, target, reduction="none").sum(1).mean()
            else:
                loss = loss + cross_entropy(own, target)
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def classifier_scores(weights: Tensor, hot: np.ndarray, image: np.ndarray, sizes: dict[str, int]) -> Fitted:
    """Vectors whose inner product is the log-probability that the classifiers give a record for an image."""
    logits, parts, constant = _with_bias(image) @ weights, [], torch.zeros(len(image), 1)
    for field, columns in _columns(sizes).items():
        own = logits[:, columns]
        if field in MULTI:  # log p = y · logit + log(1 − sigmoid)
            parts.append(own)
            constant += logsigmoid(-own).sum(1, keepdim=True)
        else:
            parts.append(own.log_softmax(1))
    queries = np.concatenate([hot, np.ones((len(hot), 1), np.float32)], 1)
    return Fitted(queries, torch.cat([*parts, constant], 1).numpy())


def _prototypes(known: np.ndarray, image: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Records as the mean over their tokens of the mean training image vector of the token."""
    counts = known.sum(0)
    means = known.T @ image / np.maximum(counts, 1)[:, None]
    return _unit(asked * (counts > 0) @ means + 1e-6 * image.mean(0))  # of unknown words only: the mean image


def _ridge(hot: np.ndarray, image: np.ndarray, strength: float) -> np.ndarray:
    gram = hot.T @ hot + strength * np.eye(hot.shape[1], dtype=np.float32)
    return np.linalg.solve(gram, hot.T @ image)


def _columns(sizes: dict[str, int]) -> dict[str, slice]:
    ends = np.cumsum([sizes[field] for field in FIELDS]).tolist()
    return {field: slice(end - sizes[field], end) for field, end in zip(FIELDS, ends, strict=True)}


def _with_bias(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate([image, np.ones((len(image), 1), np.float32)], 1))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
