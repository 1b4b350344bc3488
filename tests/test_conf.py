"""Every experiment composes, and everything its config names exists where it may."""

import re

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from common.config import CONF, compose, options, summary_line
from common.matrix import checked_matrix, plan
from common.schema import validate

LIBRARIES = ("torch", "lightning", "torchmetrics", "optuna", "hydra_plugins")
PROGRAMMES = ("lasps", "nandseq", "kfashion", "ssmo", "redheart")
FILES = sorted(CONF.rglob("*.yaml"))


def targets(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


@pytest.mark.slow
@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_composes_and_is_valid(name):
    config = compose(name)
    if "matrix" in config:
        checked_matrix(config, [])
    else:
        validate(config)
    assert config.name == name
    assert name.startswith(tuple(f"{programme}_" for programme in PROGRAMMES))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in options("experiment") if "_matrix" in name])
def test_every_matrix_lists_valid_runs(name):
    config = compose(name)
    matrix = checked_matrix(config, [])
    for block in matrix.blocks:  # what differs between methods and seeds is checked elsewhere
        block.update(loss=block["loss"][:1], seed=block["seed"][:1])
    assert plan(matrix, config)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_every_file_says_what_it_is(path):
    assert len(summary_line(path)) > 15


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_every_target_exists_and_stays_inside(path):
    here = path.relative_to(CONF).parts
    own = next((name for name in PROGRAMMES if any(re.match(rf"{name}(\b|_)", part) for part in here)), None)
    if here == ("hydra", "launcher", "ray.yaml"):
        pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="an optional extra")
    for target in targets(OmegaConf.to_container(OmegaConf.load(path), resolve=False)):
        assert get_object(target) is not None
        assert target.split(".")[0] in {"common", own, *LIBRARIES}, f"{target} is outside"


@pytest.mark.slow
@pytest.mark.parametrize("group", ["data", "model", "loss"])
def test_every_option_of_lasps_composes(group):
    for option in options(group):
        if option.startswith("lasps/") and "/parts/" not in option:
            path = ["data.path=somewhere"] if option in ("lasps/krx", "lasps/arrays") else []
            config = compose("lasps_phase1", [f"{group}={option}", *path])
            validate(config)
            assert config[group]._target_
