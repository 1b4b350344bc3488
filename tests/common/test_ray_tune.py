"""Ray Tune's command, as far as it goes without Ray; tests/e2e/test_ray.py has the rest."""

from types import SimpleNamespace

import pytest

from common import ray_tune
from common.errors import UserError
from common.search_space import parse_space
from tests.processes import ROOT

TOY = (f"hydra.searchpath=[file://{ROOT}/tests/conf]", "experiment=toy", "sweep=toy", "study=s")


def test_without_ray_there_is_one_line(monkeypatch):
    monkeypatch.setattr(ray_tune, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="ray: not installed"):
        ray_tune.search([*TOY, "scheduler=asha"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "scheduler: which one. There are asha, pbt"),
        (["scheduler=asha", "objectives=[a,b]"], "objectives: Ray's schedulers decide by one metric"),
        (["scheduler=asha", "scheduler.reduction=1"], "scheduler.reduction=1: input should be greater than 1"),
        (["scheduler=pbt", "scheduler.share=0.6"], "scheduler.share=0.6: input should be less than or equal to 0.5"),
        (["scheduler=asha", "monitor=val/los"], "objective val/los: no run logs it"),
        (["scheduler=asha", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: input should be greater"),
        (["scheduler=asha", "sweep=base"], "sweep: nothing to search"),
        (["scheduler=asha", "seed=choice(1,-1)"], "seed=-1"),
    ],
)
def test_a_mistake_is_told_before_ray_is_started(monkeypatch, words, message):
    monkeypatch.setattr(ray_tune, "find_spec", lambda name: True)
    with pytest.raises(UserError, match=message):
        ray_tune.search([*TOY, *words])


def test_a_population_needs_a_key_that_may_change_and_stays_within_bounds():
    pytest.importorskip("ray", reason="an optional extra")
    space, _ = parse_space({}, ["model.hidden_dim=4,8", "phase.epochs=3,4"])
    with pytest.raises(UserError, match=r"of model\.hidden_dim, phase\.epochs nothing"):
        ray_tune.population(space, 4, 2, 0.25, 0.25)
    space, _ = parse_space({}, ["optim.lr=interval(0.1,0.2)", "model.hidden_dim=4,8"])
    scheduler = ray_tune.population(space, 4, 1, 0.25, 0.0)
    donor = SimpleNamespace(config={"optim.lr": 0.19, "model.hidden_dim": 4})
    for _ in range(20):
        moved, _ = scheduler._get_new_config(None, donor)
        assert 0.1 <= moved["optim.lr"] <= 0.2
        assert moved["model.hidden_dim"] == 4
