"""What the trunk costs: a phase-1 fit through Trainer and recorder against a bare PyTorch loop over the same batches.

Bar: at most 1.10 times the CPU time. Both train and validate the same epochs. `python benchmarks/lasps_trainer.py`
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from common.config import compose
from common.data import EpochOrder
from common.module import TrunkModule
from common.recorder import GracefulStop
from common.rundir import Run
from common.training import add_facts, quiet_libraries, train_run

EPOCHS, ROUNDS = 4, 3


def bare_loop(config: DictConfig, data, module: TrunkModule) -> None:
    """The same epochs without Trainer, callbacks, checkpoints or records."""
    module.freeze()
    optimizer = module.optimizer_factory([each for each in module.parameters() if each.requires_grad])
    train, val = data.datasets["train"], data.datasets["val"]
    steps = len(EpochOrder(len(train), data.batch_size, 0))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: module.schedule(step / steps, EPOCHS))
    for epoch in range(EPOCHS):
        module.train()
        order = EpochOrder(len(train), data.batch_size, seed=0)
        order.set_epoch(epoch)
        for rows in order:
            batch = data.view(train[rows], draw=True)
            optimizer.zero_grad()
            module.loss(module.logits(batch), batch.label).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), config.phase.gradient_clip)
            optimizer.step()
            scheduler.step()
        module.eval()
        with torch.no_grad():
            for batch in data.in_order(val):
                batch = data.view(batch, draw=True)
                module.loss.per_sample(module.logits(batch), batch.label)


def main() -> None:
    quiet_libraries()
    torch.set_num_threads(1)
    seconds = {"trunk": [], "bare loop": []}
    with tempfile.TemporaryDirectory() as folder:
        words = [f"phase.epochs={EPOCHS}", f"paths.output_dir={folder}"]
        config = compose("lasps_phase1", words)
        data = instantiate(config.data, _convert_="all")
        data.setup("fit")
        add_facts(config, data)

        def trunk() -> None:
            train_run(config, Run.create(Path(folder) / "run"), GracefulStop(), [], data)

        def bare() -> None:
            bare_loop(config, data, instantiate(config.module, _convert_="all"))

        for round_ in range(-1, ROUNDS):  # the first round warms up
            pair = [("trunk", trunk), ("bare loop", bare)]
            for name, work in pair if round_ % 2 else reversed(pair):
                started = time.process_time()
                work()
                if round_ >= 0:
                    seconds[name].append(time.process_time() - started)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    batches = EPOCHS * -(-len(data.datasets["train"]) // data.batch_size)
    for name, value in median.items():
        print(f"{name:<10} {value:7.2f} CPU s   {value / batches * 1e3:6.2f} ms a step (validation included)")
    ratios = np.divide(seconds["trunk"], seconds["bare loop"])
    print(
        f"ratio      {np.median(ratios):7.3f}   ({ratios.min():.3f} … {ratios.max():.3f} over {ROUNDS} pairs; bar 1.10)"
    )


if __name__ == "__main__":
    main()
