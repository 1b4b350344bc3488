"""Phase 2 on cached features against the founding per-sector loop, which runs the frozen backbone on every batch.

Full-size network, charts of 224 pixels, 13 sectors, 10 epochs; CPU seconds on one thread. Bars: one run, its embedding
pass included, at least 10 times cheaper; a second run on the same cache at least 1,000 times.

The loop is measured over whole epochs of a few hundred windows and scaled to 10 epochs; the cached run is measured
whole, on `--windows` windows, and both are given per window and epoch. `python benchmarks/lasps_phase2.py`
"""

import argparse
import copy
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.reference_phase2 import train_one_by_one
from common.losses import FocalLoss
from lasps.charts import ChartRenderer
from lasps.heads import SectorBatches, StackedAdamW, dropout_masks
from lasps.networks import SectorFusion, SectorHeads

EPOCHS, BATCH, SECTORS, SEED = 10, 64, 13, 0
OPTIMISER = {"lr": 5e-4, "weight_decay": 1e-2, "max_norm": 1.0}


def cpu_seconds(work) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def train_stacked(heads: SectorHeads, features, targets, sectors, loss: FocalLoss) -> None:
    """What `lasps.phase2` does on cached features, without Trainer."""
    optimizer = StackedAdamW(heads.parameters(), **OPTIMISER)
    batches = SectorBatches(features, targets, sectors, SECTORS, range(SECTORS), BATCH, SEED)
    for epoch in range(EPOCHS):
        batches.set_epoch(epoch)
        optimizer.param_groups[0]["lr"] = OPTIMISER["lr"] * 0.5 ** (epoch // 5)
        for batch in batches:
            shape = (BATCH, heads.weight1.shape[2])
            masks = dropout_masks(SEED, batch.sectors, batch.epoch, batch.step, shape, heads.dropout)
            optimizer.zero_grad()
            loss(heads.stacked(batch.features, batch.sectors, masks), batch.targets, batch.mask).sum().backward()
            optimizer.step(active=batch.active)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=20_000, help="windows of the cached run")
    parser.add_argument("--loop-windows", type=int, default=416, help="windows of the loop with the backbone")
    parser.add_argument("--loop-epochs", type=int, default=1, help="epochs of that loop that are measured")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    network, loss, charts = SectorFusion(SECTORS).eval(), FocalLoss(), ChartRenderer(224)
    few = arguments.loop_windows
    series = torch.rand(few, 60, 28)
    prices = 100 + torch.randn(few, 60, 5).cumsum(1).abs()
    targets, sectors = torch.randint(3, (few,)), torch.arange(few) % SECTORS

    def backbone(series, prices):
        return network.features(series, charts(prices))

    def embed():
        with torch.inference_mode():
            for rows in torch.arange(few).split(BATCH):
                backbone(series[rows], prices[rows])

    def loop():
        train_one_by_one(
            copy.deepcopy(network.sector_heads), (series, prices), targets, sectors, range(SECTORS), loss,
            arguments.loop_epochs, BATCH, seed=SEED, backbone=backbone, **OPTIMISER,
        )  # fmt: skip

    many = arguments.windows
    features = torch.randn(many, 128)
    wide_targets, wide_sectors = torch.randint(3, (many,)), torch.arange(many) % SECTORS
    stacked = cpu_seconds(
        lambda: train_stacked(copy.deepcopy(network.sector_heads), features, wide_targets, wide_sectors, loss)
    )
    slow = cpu_seconds(loop) / few / arguments.loop_epochs * EPOCHS
    first, again = cpu_seconds(embed) / few + stacked / many, stacked / many
    print(f"{'CPU ms per window, 10 epochs':<34}{'':>10}   faster by")
    print(f"{'per-sector loop with the backbone':<34}{slow * 1e3:>10.3f}")
    print(f"{'cached, embedding pass included':<34}{first * 1e3:>10.3f}   {slow / first:8.1f} ×   (bar 10)")
    print(f"{'cached, second run':<34}{again * 1e3:>10.3f}   {slow / again:8.0f} ×   (bar 1,000)")


if __name__ == "__main__":
    main()
