"""Every search space of conf/sweep/ is valid in the experiment that the file says it is for."""

import re

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

from common.config import CONF, initialised, options, summary_line
from common.search_space import grid, parse_space
from common.sweep_checks import check_space

SWEEPS = [name for name in options("sweep") if name != "base"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_a_search_space_is_valid(name):
    experiment = re.search(r"experiment=(\w+)", summary_line(CONF / "sweep" / f"{name}.yaml")).group(1)
    chosen = [f"experiment={experiment}", f"sweep={name}"]
    with initialised():
        config = hydra.compose("train", chosen, return_hydra_config=True)
        sweeper = config.hydra.sweeper
        space, shared = parse_space(sweeper.params, [])
        check_space(lambda words: hydra.compose("train", [*chosen, *words, "study=x"]), space)
        if name == "ssmo_soft":
            assert config.loss.weighting == "soft"
            assert len(grid(space)) == sweeper.n_trials
    assert space
    assert not shared
    assert name.split("_")[0] == experiment.split("_")[0]
    assert not GlobalHydra.instance().is_initialized()
