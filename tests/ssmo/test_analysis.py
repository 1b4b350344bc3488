"""One run judged: every answer against values worked out by hand, over batches of unequal size."""

import math

import pytest
import torch
from omegaconf import OmegaConf

from common.errors import UserError
from common.rundir import Run
from ssmo import analysis
from ssmo.analysis import judge
from ssmo.tasks import Classification, Operator, Segmentation, Series
from tests.ssmo.answers import loaded_run

LEARNED = ["1: left", "2: right", "ensemble of both"]


def always(number, num_classes=2, logit=10.0):
    """Logits that say one class, whatever the picture."""
    answer = torch.zeros(num_classes)
    answer[number] = logit
    return lambda x: answer.expand(len(x), num_classes)


def test_classes_are_judged_against_the_frequencies_of_training():
    label = torch.tensor([0, 1, 1, 1])
    run = loaded_run(
        Classification(2), torch.zeros(4, 1, 2, 2), label, always(1), always(0, logit=0.0),
        train_y=torch.tensor([0, 0, 1, 0]),
    )  # fmt: skip
    found = judge(run, "test")
    assert list(found) == [*LEARNED, "constant of the training split"]
    assert [each["accuracy"] for each in found.values()] == [0.75, 0.25, 0.75, 0.25]
    assert found["2: right"]["log_loss"] == pytest.approx(math.log(2))
    constant = -(math.log(4 / 6) + 3 * math.log(2 / 6)) / 4  # one more of each class than there is
    assert found["constant of the training split"]["log_loss"] == pytest.approx(constant)
    mean = (1 / (1 + math.exp(-10)) + 0.5) / 2
    assert found["ensemble of both"]["log_loss"] == pytest.approx(
        -(3 * math.log(mean) + math.log(1 - mean)) / 4, rel=1e-5
    )
    assert found["1: left"]["ece"] == pytest.approx(1 / (1 + math.exp(-10)) - 0.75, rel=1e-4)


def test_forecasts_are_judged_against_the_last_value():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, -1.0], [5.0, 5.0]])[..., None]  # (4, 2, 1)
    y = torch.tensor([[2.0, 3.0], [4.0, 6.0], [-1.0, -1.0], [5.0, 4.0]])[..., None]
    run = loaded_run(Series(), x, y, lambda x: x[:, -1:].expand(-1, 2, 1) + 1, lambda x: 0 * x)
    found = judge(run, "val")
    assert list(found) == [*LEARNED, "constant of the training split", "last value repeated"]
    assert found["last value repeated"]["mse"] == pytest.approx((0 + 1 + 0 + 4 + 0 + 0 + 0 + 1) / 8)
    assert found["1: left"]["mse"] == pytest.approx((1 + 0 + 1 + 1 + 1 + 1 + 1 + 4) / 8)
    assert (
        found["2: right"]["mse"] == found["constant of the training split"]["mse"] == pytest.approx(y.square().mean())
    )
    assert found["last value repeated"]["mse quarter 2"] == pytest.approx((1 + 4 + 0 + 1) / 4)


def test_fields_are_judged_against_zero_and_the_mean_in_their_own_units():
    y = torch.tensor([[1.0, -1.0, 1.0, -1.0], [3.0, 3.0, 3.0, 3.0]])[:, None]  # standardised; × 2 + 4 in their units
    task = Operator([4.0], [2.0])
    run = loaded_run(task, torch.zeros(2, 1, 4), y, lambda x: y[: len(x)], lambda x: y[: len(x)] + 0.5, periodic=True)
    found = judge(run, "test")
    assert list(found) == [*LEARNED, "constant of the training split", "zero"]
    assert found["zero"]["relative_l2"] == pytest.approx(1)
    assert found["1: left"]["relative_l2"] == 0
    norms = math.sqrt(2 * 36 + 2 * 4), math.sqrt(4 * 100)
    assert found["2: right"]["relative_l2"] == pytest.approx(sum(2 / norm for norm in norms) / 2)
    assert found["ensemble of both"]["relative_l2"] == pytest.approx(sum(1 / norm for norm in norms) / 2)
    assert found["constant of the training split"]["relative_l2"] == pytest.approx((4 / norms[0] + 12 / norms[1]) / 2)
    assert found["2: right"]["max_error"] == pytest.approx(1)


def test_segmentations_join_the_confusions_of_all_batches():
    label = torch.zeros(4, 2, 2, dtype=torch.long)
    label[0], label[3, 0, 0] = 1, 255
    answer = lambda x: torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(len(x), 2, 2, 2)  # noqa: E731
    found = judge(loaded_run(Segmentation(2), torch.zeros(4, 3, 2, 2), label, answer, answer), "test")
    assert found["1: left"]["iou 0"] == pytest.approx(11 / 15)
    assert found["1: left"]["mean_iou"] == pytest.approx(11 / 30)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([0.9, 0.4, 0.8, 0.5, 0.3], "Against “d” (0.5): a is better, b is NOT better, c is better."),
        ([0.6, 0.5, 0.5, 0.3, 0.5], "Against “e” (0.5): a is better, b is NOT better, c is NOT better."),
    ],
)
def test_the_verdict_is_against_the_best_that_learned_nothing(scores, said):
    figures = {name: {"accuracy": score} for name, score in zip("abcde", scores, strict=True)}
    assert analysis._verdict(figures, "accuracy", Classification(2)) == said


def test_what_cannot_be_judged_is_refused(tmp_path):
    runs = [Run(tmp_path / name) for name in ("one", "other")]
    for run, target in zip(runs, ("ssmo.module.PairModule", "lasps.module.Module"), strict=True):
        run.path.mkdir()
        run.write_config(OmegaConf.create({"name": run.path.name, "module": {"_target_": target}}), [])
    with pytest.raises(UserError, match="2 runs: this analysis reads one; to compare a batch use analysis=ssmo/matrix"):
        analysis.run(runs, "test", tmp_path, None)
    with pytest.raises(UserError, match="other is no run of ssmo"):
        analysis.run(runs[1:], "test", tmp_path, None)
    with pytest.raises(UserError, match="split=train: choose val or test"):
        analysis.run(runs[:1], "train", tmp_path, None)
