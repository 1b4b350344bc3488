"""Train one run: `python train.py experiment=lasps_phase2`. Without arguments: the experiments there are."""

import hydra
from omegaconf import DictConfig

from common.cli import command_line, prepare_train, run_task


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float:
    from common.training import train  # torch and lightning only now that there is something to train

    return run_task(train, config)


if __name__ == "__main__":
    command_line(main, prepare_train)
