"""How a run's models fare on pictures of lower quality: every corruption in every severity, from one trained pair.

Source: ssmo specification, section 4.
"""

from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from common.evaluation import LoadedRun, Split
from common.files import write_text
from common.report import format_table
from common.rundir import Run
from ssmo.analysis import load_one
from ssmo.data.base import PairSet, Samples
from ssmo.data.corruptions import COLOUR_ONLY, CORRUPTIONS, STRENGTHS, check_strength
from ssmo.data.pictures import PictureData

CLEAN = "clean"


def corruptions(
    runs: list[Run], split: Split, output: Path, data_dir: str | None, severities: list[int]
) -> dict[str, Any]:
    """The deciding metric of both models and their ensemble under every corruption, and the mean corruption error.

    That error is the mean over corruptions of the mean over severities; it is not divided by a reference network's.

    Raises:
        UserError: for more than one run, data that is no pictures or corrupted already, a severity that is not 1 to 5,
            or a split that is not test.
    """
    for severity in severities:
        check_strength("corrupted", severity)
    if split != "test":
        raise UserError(f"split={split}: corruptions change the test split; choose test.")
    loaded = load_one(runs, split, data_dir)
    data, test = loaded.data, loaded.data.splits["test"]
    if not isinstance(data, PictureData):
        raise UserError(f"{runs[0]}: {data.dataset} has no pictures to corrupt.")
    if data.condition in (*STRENGTHS, "resolution_shift"):
        raise UserError(f"{runs[0]}: its test pictures are those of {data.condition} already; choose another run.")
    scores = {CLEAN: [score(loaded, test)]}
    for kind in (each for each in CORRUPTIONS if test.x.shape[1] > 1 or each not in COLOUR_ONLY):
        scores[kind] = [score(loaded, _corrupted(data, test, kind, severity)) for severity in severities]
    errors = mean_errors(scores, loaded.module.task.error)
    write_text(output / "report.md", _report(loaded, scores, errors, severities))
    return {"scores": scores, "severities": severities, "mean_corruption_error": errors}


def _corrupted(data: PictureData, test: Samples, kind: str, severity: int) -> Samples:
    under = copy(data)
    under.condition, under.strength = kind, severity
    return under.corrupted(test)


@torch.no_grad()
def score(loaded: LoadedRun, samples: Samples) -> dict[str, float]:
    """Who answers → the deciding metric on all samples."""
    task, network = loaded.module.task, loaded.module.network
    names = [*(f"{number}: {name}" for number, name in enumerate(network.names, 1)), "ensemble of both"]
    pictures, statistics = PairSet(samples, loaded.data.prepare), dict.fromkeys(names, 0)
    for rows in np.array_split(np.arange(len(samples)), -(-len(samples) // loaded.data.evaluation_batch)):
        batch = pictures[rows].to(loaded.module.device)
        outputs = network(batch.x)
        for name, answer in zip(names, (*outputs, task.mean(*outputs)), strict=True):
            statistics[name] = statistics[name] + task.statistics(answer, batch.targets[0])
    return {name: task.scores(found.cpu())[task.metric] for name, found in statistics.items()}


def mean_errors(scores: dict[str, list[dict[str, float]]], error: Callable[[float], float]) -> dict[str, float]:
    """Who answers → mean over corruptions of the mean error over severities."""
    corrupted = [found for kind, found in scores.items() if kind != CLEAN]
    return {
        name: float(np.mean([np.mean([error(each[name]) for each in found]) for found in corrupted]))
        for name in scores[CLEAN][0]
    }


def _report(
    loaded: LoadedRun, scores: dict[str, list[dict[str, float]]], errors: dict[str, float], severities: list[int]
) -> str:
    names = list(errors)
    rows = [[kind, *(float(np.mean([each[name] for each in found])) for name in names)]
            for kind, found in scores.items()]  # fmt: skip
    pair, module = " × ".join(loaded.module.network.names), loaded.module
    lines = [
        f"# {pair}, {module.method.name}, {loaded.data.dataset}: corruptions\n",
        f"{module.task.metric}, mean over severities {', '.join(map(str, severities))}.\n",
        format_table([*rows, ["mean corruption error", *errors.values()]], ["test pictures", *names]),
    ]
    return "\n".join(lines)
