"""W&B sweeps: the definition, and the command line that an agent makes of it."""

import pytest

from common.errors import UserError
from common.wandb_sweep import definition
from tests.processes import ROOT, command

TOY = (f"hydra.searchpath=[file://{ROOT}/tests/conf]", "experiment=toy", "sweep=toy", "study=w")


def test_a_sweep_file_becomes_a_definition():
    made = definition([*TOY, "hydra/sweeper/sampler=tpe_joint", "pruner=asha", "phase.epochs=9", "seed=range(0,10,5)",
                       "module.loss_scale=interval(0,0.5)", "hydra.sweeper.n_trials=7"])  # fmt: skip
    assert made == {
        "name": "w",
        "project": "toy",
        "program": "train.py",
        "command": ["${env}", "${interpreter}", "${program}", TOY[0], "experiment=toy", "sweep=toy", "pruner=asha",
                    "phase.epochs=9", "study='w'", "hydra.mode=RUN", "logger=wandb", "logger.wandb.offline=false",
                    "${args_no_hyphens}"],
        "method": "bayes",
        "metric": {"name": "val/loss", "goal": "minimize"},
        "parameters": {
            "optim.lr": {"distribution": "log_uniform_values", "min": 1e-3, "max": 1e-1},
            "model.hidden_dim": {"values": [4, 8]},
            "seed": {"values": [0, 5]},
            "module.loss_scale": {"distribution": "uniform", "min": 0.0, "max": 0.5},
        },
        "run_cap": 7,
        "early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 3},
    }  # fmt: skip


def test_words_that_are_no_numbers_are_written_as_hydra_reads_them():
    space = ["sweep=base", "optim.lr=0.1", "phase.patience=null,3", "+optim.amsgrad=true,false", "optim=adam,adamw"]
    parameters = definition([*TOY, *space])["parameters"]
    assert parameters["phase.patience"] == {"values": ["null", 3]}
    assert parameters["+optim.amsgrad"] == {"values": ["true", "false"]}
    assert parameters["optim"] == {"values": ["adam", "adamw"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra/sweeper/sampler=grid"], "optim.lr: a grid needs single values"),
        (["objectives=[val/loss,num_parameters]"], "objectives: a W&B sweep has one metric"),
        (["model.hidden_dim=tag(log,int(interval(1,8)))"], "model.hidden_dim: W&B draws no whole numbers"),
        (["model.hidden_dim=4,0.5"], "model.hidden_dim=0.5"),
        (["monitor=val/los"], "objective val/los: no run logs it"),
    ],
)
def test_what_cannot_be_a_definition_is_told(words, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        definition([*TOY, *words])


@pytest.mark.slow
def test_what_an_agent_types_runs_and_logs_the_metric_of_the_definition(tmp_path):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    made = definition([*TOY, "phase.epochs=1"])
    drawn = {"args": {"optim.lr": {"value": 0.01}, "model.hidden_dim": {"value": 4}}}
    words = [*made["command"][3:-1], *create_sweep_command_args(drawn)["args_no_hyphens"]]
    assert command("train.py", *words, env={"OUTPUT_DIR": str(tmp_path), "WANDB_MODE": "offline"}).code == 0
    (run,) = (tmp_path / "studies" / "w").iterdir()
    assert (run / "summary.json").exists()
    (log,) = run.glob("wandb/offline-run-*/*.wandb")
    assert made["metric"]["name"].encode() in log.read_bytes()
