"""Corruptions of the test pictures of one run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.rundir import Run
from ssmo import robustness
from ssmo.data.classification import Shapes10
from ssmo.data.corruptions import CORRUPTIONS, corrupt
from ssmo.robustness import corruptions, mean_errors
from ssmo.tasks import Classification
from tests.ssmo.answers import Written, loaded_run

WEIGHTS = torch.randn(2, 64, 10, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def shapes(monkeypatch):
    """A run of two linear models on a few glyphs, loaded by whatever directory."""
    data = Shapes10(0, 4, 0, "clean", None, 3, num_train=20, num_val=4, num_test=40, size=8)
    data.setup()
    network = Written(*(lambda x, weights=weights: x.flatten(1) @ weights for weights in WEIGHTS))
    method, device = SimpleNamespace(name="ssmo_hard"), torch.device("cpu")
    module = SimpleNamespace(network=network, task=Classification(10), device=device, method=method)
    monkeypatch.setattr(robustness, "load_one", lambda *_: SimpleNamespace(data=data, module=module))
    return data


def test_every_corruption_is_scored_on_the_same_pictures(shapes, tmp_path):
    shapes.evaluation_batch = 16
    found = corruptions([Run(tmp_path)], "test", tmp_path, None, [2, 5])
    kinds = [kind for kind in CORRUPTIONS if kind != "saturate"]  # these have no colour
    assert list(found["scores"]) == ["clean", *kinds]
    test = shapes.splits["test"]
    for kind, severity, place in (("clean", None, 0), ("contrast", 2, 0), ("shot_noise", 5, 1)):
        x = test.x if severity is None else corrupt(test.x, kind, severity, 3)
        picture = torch.from_numpy(shapes.prepare(x)).flatten(1)
        for name, weights in zip(("1: left", "2: right"), WEIGHTS, strict=True):
            right = (picture @ weights).argmax(1).numpy() == test.y
            assert found["scores"][kind][place][name] == pytest.approx(right.mean())
    errors = [1 - np.mean([each["2: right"] for each in found["scores"][kind]]) for kind in kinds]
    assert found["mean_corruption_error"]["2: right"] == pytest.approx(np.mean(errors))
    assert (shapes.condition, shapes.strength) == ("clean", None)
    report = (tmp_path / "report.md").read_text()
    assert "left × right, ssmo_hard, shapes10: corruptions" in report
    assert "mean over severities 2, 5" in report
    assert report.count("\n| ") == len(kinds) + 4  # clean, the mean, head and rule


def test_the_mean_is_over_severities_first_and_leaves_out_clean_pictures():
    scores = {"clean": [{"a": 1.0}], "fog": [{"a": 0.5}, {"a": 0.7}], "jpeg": [{"a": 0.9}]}
    assert mean_errors(scores, lambda score: 1 - score) == {"a": pytest.approx((0.4 + 0.1) / 2)}


def test_what_cannot_be_corrupted_is_refused(shapes, monkeypatch, tmp_path):
    run = Run(tmp_path)
    with pytest.raises(UserError, match="split=val: corruptions change the test split"):
        corruptions([run], "val", tmp_path, None, [1])
    with pytest.raises(UserError, match="strength=6: corrupted has the severities"):
        corruptions([run], "test", tmp_path, None, [6])
    shapes.condition = "fog"
    with pytest.raises(UserError, match="its test pictures are those of fog already"):
        corruptions([run], "test", tmp_path, None, [1])
    other = loaded_run(Classification(2), torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))
    monkeypatch.setattr(robustness, "load_one", lambda *_: other)
    with pytest.raises(UserError, match="given has no pictures to corrupt"):
        corruptions([run], "test", tmp_path, None, [1])
