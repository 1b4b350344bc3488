"""Steps per second of stage 2 through the trunk against a bare PyTorch loop on the same tensors, in the same process.

Batches of 64, cached image vectors, the default encoder; the bare loop has EmbeddingBag, a fused AdamW and nothing that
a loop can do without. Bar: 0.75 of its speed. Validation and checkpoints are not timed. Set the number of threads by
OMP_NUM_THREADS. Run with `python benchmarks/kfashion_train.py`.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from common.config import compose
from common.recorder import GracefulStop
from common.rundir import Run
from common.training import add_facts, quiet_libraries, train_run
from kfashion.records import FIELDS, MULTI

EPOCHS, ROUNDS = 6, 5
TIMED: list[tuple[float, float]] = []


class Clock(Callback):
    """Wall and CPU seconds of the steps of every epoch, from the first batch asked for to the last one done."""

    def on_train_epoch_start(self, *_) -> None:
        self.begin = time.perf_counter(), time.process_time()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if batch_idx + 1 == trainer.num_training_batches:
            TIMED.append((time.perf_counter() - self.begin[0], time.process_time() - self.begin[1]))


class Bare(nn.Module):
    """The same encoder, written down as a loop's author would."""

    def __init__(self, sizes: dict[str, int]):
        super().__init__()
        self.tables = nn.ModuleList([
            nn.EmbeddingBag(sizes[field], 128, mode="mean", padding_idx=0) if field in MULTI
            else nn.Embedding(sizes[field], 128, padding_idx=0) for field in FIELDS
        ])  # fmt: skip
        self.mlp = nn.Sequential(nn.Linear(640, 256), nn.ReLU(), nn.Dropout(0.1), nn.Linear(256, 512))

    def forward(self, codes: list[torch.Tensor]) -> torch.Tensor:
        return normalize(self.mlp(torch.cat([table(code) for table, code in zip(self.tables, codes)], 1)))


def bare_epochs(data, epochs: int) -> list[tuple[float, float]]:
    """Wall and CPU seconds of each epoch."""
    torch.manual_seed(0)
    rows = data.datasets["train"]
    batch = rows[np.arange(len(rows))]
    codes, image, keys = [batch.codes[field] for field in FIELDS], batch.image_embedding, batch.attr_key
    network = Bare(data.facts["vocab_sizes"])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=1e-5, fused=True)
    total = epochs * -(-len(keys) // data.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total, 1e-6)
    seconds = []
    for _ in range(epochs):
        begin = time.perf_counter(), time.process_time()
        for chosen in torch.randperm(len(keys)).split(data.batch_size):
            vectors = network([code[chosen] for code in codes])
            logits = vectors @ image[chosen].T / 0.07
            same = (keys[chosen][:, None] == keys[chosen]).float()
            targets = same / same.sum(1, keepdim=True)
            loss = (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        seconds.append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    return seconds


def main() -> None:
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        words = [f"phase.epochs={EPOCHS}", "init_from=null", *sys.argv[1:]]
        config = compose("kfashion_stage2", words)
        OmegaConf.update(config, "callbacks.clock", {"_target_": "__main__.Clock"}, force_add=True)
        data = instantiate(config.data, _convert_="all")
        data.setup("fit")
        add_facts(config, data)
        batches = -(-len(data.datasets["train"]) // data.batch_size)
        bare: list[tuple[float, float]] = []
        for round_ in range(ROUNDS):  # turn by turn: other programs on the machine slow both
            bare += bare_epochs(data, EPOCHS)[1:]
            before = len(TIMED)
            train_run(config.copy(), Run.create(Path(folder) / f"round{round_}"), GracefulStop(), [], data)
            del TIMED[before]  # the first epoch warms up
    print(f"{torch.get_num_threads()} threads, {batches} steps an epoch, {len(bare)} epochs each; medians")
    for k, what in enumerate(("wall", "CPU")):
        trunk, loop = (batches / np.median([each[k] for each in times]) for times in (TIMED, bare))
        print(f"{what:<5} trunk {trunk:7.1f} steps/s   bare loop {loop:7.1f}   ratio {trunk / loop:.2f} (bar 0.75)")


if __name__ == "__main__":
    main()
