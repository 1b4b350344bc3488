"""What the module trains, logs and says of its units."""

import math
from functools import cache, partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from common.config import compose
from common.schedules import constant
from redheart.data import SyntheticData
from redheart.module import MultiTaskModule
from redheart.rows import TASKS
from redheart.tasks import has_target

composed = cache(lambda: compose("redheart_smoke"))


@pytest.fixture(scope="module")
def data():
    data = SyntheticData(0, 32, 0, [0.7, 0.15, 0.15], 240, 64, 1, 0.3, 0.5, 0)
    data.setup()
    return data


def module_for(**changes):
    config = composed().copy()
    OmegaConf.update(config, "facts", {"dim": 64}, force_add=True)
    config.model.update(changes)
    torch.manual_seed(0)
    network, loss = instantiate(config.model, _convert_="all"), instantiate(config.loss, _convert_="all")
    module = MultiTaskModule(network, loss, partial(torch.optim.AdamW, lr=0.01), constant, ["network.*"])
    module._trainer = SimpleNamespace(accumulate_grad_batches=1, num_training_batches=2)  # all that a step asks for
    module.log = lambda name, value: logged.__setitem__(name, float(value))
    logged.clear()
    return module


logged = {}


def validate(module, data):
    module.eval()
    with torch.no_grad():
        for number, batch in enumerate(data.whole("select")):
            module.validation_step(batch, number)
        module.on_validation_epoch_end()


@pytest.mark.slow
def test_one_batch_is_learnt_by_heart(data):
    module, batch = module_for(dropout=0.0), data.datasets["train"][np.arange(0, 160, 8)]
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.35 * losses[0]
    said = module.answers(batch)
    known = has_target("emotion", batch.targets)
    for unit in ("heads", "neural_analyzers", "dsp_kalman", "adv_emotion"):
        assert (said[unit, "emotion"].logits.argmax(1) == batch.targets.emotion)[known].all(), unit


def test_the_whole_loss_is_the_weighted_sum_of_the_branches(data):
    module, batch = module_for(dropout=0.0).eval(), data.datasets["train"][np.arange(0, 160, 4)]
    module.loss.unit_weights = {"adv_surd": 3.0}
    module.loss.task_weights = {**dict.fromkeys(TASKS, 1.0), "bentham": 0.5}
    expected = 0
    for (unit, task), said in module.answers(batch).items():
        mean = module.row_losses({task: said}, batch.targets).mean()
        expected += mean * (3 if unit == "adv_surd" else 1) * (0.5 if task == "bentham" else 1)
    assert module.training_step(batch, 0).detach().item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_units_loss_is_the_mean_of_its_rows_and_the_backbones_that_of_the_heads(data):
    module = module_for()
    validate(module, data)
    scores = {unit: select for unit, (_, select) in module.unit_scores().items()}
    assert set(scores) == set(module.units)
    said, targets = module.select_answers()
    for unit, score in scores.items():
        assert score.row_losses.mean() == pytest.approx(score.loss)
        assert len(score.row_losses) == score.n
        own = [task for name, task in module.branches if name == unit] or TASKS
        name = "heads" if unit == "backbone" else unit
        means = [module.loss.per_row(task, said[name, task], targets)[has_target(task, targets)] for task in own]
        assert score.loss == pytest.approx(np.mean([each.mean().item() for each in means]), rel=1e-5)
    assert scores["backbone"].loss == scores["heads"].loss
    assert scores["backbone"].loss_source == "heads"
    assert scores["adv_surd"].n == data.facts["num_targets"]["select"]["surd"]
    assert set(scores["adv_surd"].task_metrics) == {"pid_accuracy", "mae", "error_bits"}
    assert {"emotion/macro_f1", "surd/pid_accuracy"} < set(scores["heads"].task_metrics)
    assert scores["adv_emotion"].target_spread == 6  # all classes are there
    assert 0 < scores["heads"].target_spread <= scores["adv_surd"].target_spread <= 1


def test_the_fused_prediction_is_judged_on_the_select_split(data):
    module = module_for()
    validate(module, data)
    said, _ = module.select_answers()
    assert logged["select/loss"] < max(score[1].loss for score in module.unit_scores().values())
    assert 0 <= logged["select/emotion/macro_f1"] <= 1
    assert len(said["heads", "emotion"].logits) == data.facts["num_samples"]["select"]


@pytest.mark.slow
def test_confusion_stability_is_undefined_at_first_then_one_without_change(data):
    module = module_for()
    stability = []
    for step in range(3):
        validate(module, data)
        stability.append(module.unit_scores()["adv_emotion"][1].task_metrics["confusion_stability"])
        if step == 1:
            last = module.network.experts["emotion"][-1]
            last.bias.data[:] = torch.tensor([-100.0] * 6 + [100.0])  # every row fear
    assert stability[0] is None
    assert stability[1] == 1
    shares = module.confusions[module.branches.index(("adv_emotion", "emotion"))]
    assert (shares[:, 6] == 1).all()
    assert stability[2] < 0.9


def test_training_losses_are_means_over_the_rows_of_the_epoch(data):
    module, train = module_for(dropout=0.0).eval(), data.datasets["train"]
    batches = [np.arange(0, 160, 7), np.arange(1, 160, 3)]
    for number, index in enumerate(batches):
        module.training_step(train[index], number)
    count, mean = module._train_loss([("adv_surd", "surd")])
    whole = train[np.concatenate(batches)]
    rows = module.row_losses({"surd": module.answers(whole)["adv_surd", "surd"]}, whole.targets)
    assert (count, mean) == (len(rows), pytest.approx(rows.mean().item(), rel=1e-5))


def test_r_drop_adds_nothing_but_the_disagreement_of_two_passes(data):
    batch, totals = data.datasets["train"][np.arange(64)], {}
    for dropout in (0.0, 0.5):
        for weight in (0.0, 1.0):
            torch.manual_seed(0)
            module = module_for(dropout=dropout).train()
            module.loss.r_drop = weight
            totals[dropout, weight] = module.training_step(batch, 0).item()
    assert totals[0.0, 1.0] == pytest.approx(totals[0.0, 0.0])
    assert totals[0.5, 1.0] > totals[0.5, 0.0]


@pytest.mark.slow
def test_split_heads_are_scored_one_by_one(data):
    module = module_for(split_heads=True)
    validate(module, data)
    scores = {unit: select for unit, (_, select) in module.unit_scores().items()}
    heads = [scores[f"head.{task}"].loss for task in TASKS]
    assert scores["backbone"].loss == pytest.approx(np.mean(heads), rel=1e-6)
    assert "macro_f1" in scores["head.emotion"].task_metrics
    assert not any(math.isnan(loss) for loss in heads)


@pytest.mark.slow
def test_a_task_without_targets_has_no_loss(data):
    module = module_for()
    validate(module, data)
    for _, targets in module.answered:
        targets.surd[:] = math.nan
    scores = module.unit_scores()
    assert (scores["adv_surd"][1].n, scores["adv_surd"][1].loss) == (0, None)
    assert math.isfinite(scores["heads"][1].loss)
