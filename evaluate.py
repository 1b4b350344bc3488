"""Judge a run: `python evaluate.py run=latest:lasps_phase2` or `run=<run directory> analysis=… split=test`."""

import hydra
from omegaconf import DictConfig

from common.cli import command_line, prepare_evaluate, run_task


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    from common.evaluation import evaluate  # torch and lightning only now that there is something to judge

    run_task(evaluate, config)


if __name__ == "__main__":
    command_line(main, prepare_evaluate)
