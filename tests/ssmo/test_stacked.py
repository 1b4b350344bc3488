"""Seeds trained at once leave what ordinary runs leave; what cannot be stacked is refused."""

import json
import math
import signal
from functools import cache

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from common.checkpoints import network_weights
from common.config import compose
from common.errors import UserError
from common.evaluation import load_run
from common.matrix import Cell
from common.recorder import GracefulStop
from common.rundir import Run
from common.training import quiet_libraries, train_run
from ssmo.batch import row
from ssmo.stacked import Stack, by_seed, train_seeds

TINY = [
    "data.num_train=40", "data.num_val=16", "data.num_test=16", "data.size=8", "data.batch_size=16", "phase.epochs=2",
    "trainer.accelerator=cpu",
]  # fmt: skip
VARIETIES = {
    "hard": {"loss.probe_every": 2},
    "soft, clipped": {
        "loss.weighting": "soft", "loss.soft_scale": "batch_std", "phase.gradient_clip": 0.5,
    },
    "noisy labels of one, notebooks": {
        "loss.combine": "subset_means", "loss.selector": "auto", "data.condition": "weak_labels",
    },
    "batch normalisation, ensemble": {"loss.weighting": "none", "loss.ensemble": True, "model.first.double": True},
}  # fmt: skip


@cache
def composed(first):
    return compose("ssmo_classification", [*TINY, f"net@model.first=ssmo/{first}"])


def configs_of(folder, changes=None, seeds=2):
    first = "cnn" if changes and "model.first.double" in changes else "mlp"  # these give equal sums, bit for bit
    configs = [composed(first).copy() for _ in range(seeds)]
    for seed, config in enumerate(configs, 5):
        for key, value in {"seed": seed, "paths.output_dir": str(folder), **(changes or {})}.items():
            OmegaConf.update(config, key, value, merge=False, force_add=True)
    return configs


def train_at_once(configs, folder, stop=None):
    runs = [Run(folder / f"once{number}") for number in range(len(configs))]
    with GracefulStop() as own:
        train_seeds(configs, runs, stop or own)
    return runs


def train_alone(config, folder):
    quiet_libraries()
    with GracefulStop() as stop:
        return train_run(config, Run(folder / f"alone{config.seed}"), stop, [])


def assert_same_figures(one, other):
    with np.load(one.path / "curves.npz") as ours, np.load(other.path / "curves.npz") as theirs:
        assert set(ours) == set(theirs)
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-5, err_msg=name)
    for left, right in zip(
        *((run.path / "metrics.jsonl").read_text().splitlines() for run in (one, other)), strict=True
    ):
        left, right = (
            {k: v for k, v in json.loads(text).items() if k not in ("time_sec", "run_id")} for text in (left, right)
        )
        assert left == {
            name: value if value is None else pytest.approx(value, abs=1e-4) for name, value in right.items()
        }
    scores = [{k: v for k, v in row(run).items() if k not in ("run_id", "wall_time_sec")} for run in (one, other)]
    assert scores[0] == {name: pytest.approx(value, abs=1e-5) if isinstance(value, float) else value
                         for name, value in scores[1].items()}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("changes", VARIETIES.values(), ids=VARIETIES)
def test_every_seed_has_the_figures_of_an_ordinary_run(changes, tmp_path):
    configs = configs_of(tmp_path, changes)
    runs = train_at_once(configs, tmp_path)
    for config, run in zip(configs, runs, strict=True):
        alone = train_alone(config, tmp_path)
        assert_same_figures(run, alone)
        assert run.status["status"] == "done"
        assert network_weights(run.best).keys() == network_weights(alone.best).keys()
    assert not torch.equal(*(network_weights(run.best)["network.slots.1.head.weight"] for run in runs))


@pytest.mark.slow
def test_the_best_weights_give_the_best_metric(tmp_path):
    (run,) = train_at_once(configs_of(tmp_path, seeds=1), tmp_path)
    loaded = load_run(run)
    with torch.no_grad():
        found = sum(
            loaded.module.statistics_of(loaded.module.network(batch.x), batch) for batch in loaded.data.whole("val")
        )
    assert loaded.module.score_figures({"val": found})["val/error"] == pytest.approx(run.summary["objective"])


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("model.first._target_", "ssmo.networks.operator.UNO", "model.first: neuraloperator's UNO cannot be stacked"),
        ("model.second.dropout", 0.1, "model.second.dropout=0.1: random numbers"),
        ("loss.weighting", "random", "loss.weighting=random: random numbers"),
        ("loss.teacher", "ema", "loss.teacher=ema: "),
        ("optim._target_", "torch.optim.Adafactor", "optim: torch.optim.Adafactor would mix"),
        ("init_from", "run:other", "init_from: "),
        ("trainer.precision", "bf16-mixed", "trainer.precision=bf16-mixed: "),
    ],
)
def test_what_cannot_be_stacked_is_refused_before_anything_is_written(key, value, reason, tmp_path):
    with pytest.raises(UserError) as caught:
        train_at_once(configs_of(tmp_path, {key: value}), tmp_path)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_cells_that_differ_by_seed_only_are_one_group(tmp_path):
    cells = [
        Cell(f"{weighting}{seed}", {"loss": weighting, "seed": seed},
             configs_of(tmp_path, {"loss.weighting": weighting, "seed": seed}, 1)[0])
        for seed in (0, 1)
        for weighting in ("hard", "soft", "random")
    ]  # fmt: skip
    names = [[cell.name for cell in group] for group in by_seed(cells)]
    assert names == [["hard0", "hard1"], ["soft0", "soft1"], ["random0"], ["random1"]]


@pytest.mark.slow
def test_a_seed_that_diverges_leaves_the_others_alone(tmp_path, monkeypatch):
    original = Stack.epoch_figures

    def epoch_figures(self, epoch):
        first, *others = original(self, epoch)
        return [first | {"train/loss": math.nan} if epoch == 1 else first, *others]

    monkeypatch.setattr(Stack, "epoch_figures", epoch_figures)
    configs = configs_of(tmp_path)
    diverged, fine = train_at_once(configs, tmp_path)
    assert diverged.status["status"] == "diverged"
    assert not diverged.finished
    assert_same_figures(fine, train_alone(configs[1], tmp_path))


@pytest.mark.slow
def test_an_interrupted_stack_begins_anew(tmp_path):
    configs = configs_of(tmp_path)
    with GracefulStop() as stop:
        stop.signal = signal.SIGTERM
        with pytest.raises(SystemExit) as caught:
            train_at_once(configs, tmp_path, stop)
    assert caught.value.code == 143
    runs = [Run(tmp_path / f"once{number}") for number in (0, 1)]
    assert [run.status["status"] for run in runs] == ["interrupted"] * 2
    with GracefulStop() as stop:
        train_run(configs[0], runs[0], stop, [])  # a run may also be finished by itself
    kept = runs[0].summary
    train_at_once(configs, tmp_path)
    assert all(run.status["status"] == "done" for run in runs)
    assert runs[0].summary == kept
