"""Phase 2 through the trunk gives the heads of the founding loop, and keeps per sector what validates best."""

import copy

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from benchmarks.reference_phase2 import train_one_by_one
from common.checkpoints import read_checkpoint
from common.config import compose
from common.recorder import GracefulStop
from common.rundir import Run
from common.stats import date_blocks
from common.training import add_facts, train_run
from lasps.phase2 import KEPT, SKIPPED

pytestmark = pytest.mark.slow

EPOCHS, BATCH = 3, 16
TINY = [
    "init_from=null", f"phase.epochs={EPOCHS}", f"module.batch_size={BATCH}", "data.stocks_per_sector=2",
    "data.start=2022-01-03", "data.end=2024-06-28", "data.split.val_start=2023-08-01",
    "data.split.test_start=2024-01-02", "data.view.charts.size=60", "model.hidden_dim=8", "model.num_heads=2",
    "model.feedforward_dim=8", "model.cnn_channels=[2,2]", "model.dropout=0.2", "phase.schedule.every_epochs=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run, data, network before training) of a phase 2 in which the small sectors are skipped."""
    folder = tmp_path_factory.mktemp("phase2")
    config = compose("lasps_phase2", [*TINY, f"paths.output_dir={folder}", "module.min_samples=40"])
    data = instantiate(config.data, _convert_="all")
    data.setup("fit")
    run = train_run(config, Run.create(folder / "run"), GracefulStop(), [], data)
    add_facts(config, data)
    torch.manual_seed(0)
    import lightning

    lightning.seed_everything(config.seed, verbose=False)
    module = instantiate(config.module, _convert_="all")
    module.network.heads_from_common()
    return run, data, module


def test_heads_equal_those_of_the_per_sector_loop_with_the_backbone(trained):
    run, data, module = trained
    dataset, network = data.datasets["train"], module.network.eval()
    counts = np.bincount(dataset.sector_ids, minlength=13)
    chosen = [sector for sector in range(13) if counts[sector] >= 40]
    assert 0 < len(chosen) < 13, "the fixture should have trained and skipped sectors"

    def backbone(rows):
        batch = data.view(dataset[rows.numpy()], draw=True)
        return network.features(batch.series, batch.chart)

    expected = copy.deepcopy(network.sector_heads)
    train_one_by_one(
        expected, torch.arange(len(dataset)), torch.as_tensor(dataset.labels), torch.as_tensor(dataset.sector_ids),
        chosen, module.loss, EPOCHS, BATCH, lr=5e-4, weight_decay=1e-2, max_norm=1.0, seed=0, backbone=backbone,
        halve_every=2,
    )  # fmt: skip
    state = read_checkpoint(run.last)["state_dict"]
    for name, value in expected.state_dict().items():
        assert torch.allclose(state[f"heads.{name}"], value, atol=1e-5), name
        skipped = [sector for sector in range(13) if sector not in chosen]
        assert torch.equal(state[f"heads.{name}"][skipped], network.sector_heads.state_dict()[name][skipped])


def test_a_skipped_sector_keeps_its_head_and_says_so(trained):
    run, data, module = trained
    counts = np.bincount(data.datasets["train"].sector_ids, minlength=13)
    state = read_checkpoint(run.best)["state_dict"]
    small = np.flatnonzero(counts < 40)
    assert (state["head_epoch"][small] == SKIPPED).all()
    before = module.network.sector_heads.weight1
    assert torch.equal(state["network.sector_heads.weight1"][small], before[small])
    assert "samples, fewer than 40: skipped" in (run.path / "run.log").read_text()


def standard_error(gains, blocks):
    """Of the mean of `gains`, which are independent between blocks of unequal size only."""
    means = gains.mean()
    sums = [float((gains[blocks == block] - means).sum()) for block in np.unique(blocks)]
    return np.sqrt(np.sum(np.square(sums)) * len(sums) / (len(sums) - 1)) / len(gains)


def test_a_sector_deploys_a_head_only_if_it_beats_the_one_it_came_with_by_more_than_noise(trained):
    run, data, module = trained
    state = read_checkpoint(run.best)["state_dict"]
    dataset = data.datasets["val"]
    batch = data.view(dataset[np.arange(len(dataset))], draw=True)
    network = module.network.eval()
    with torch.inference_mode():
        features = network.features(batch.series, batch.chart)
        losses = []
        for heads in (network.sector_heads.state_dict(), state):
            loaded = copy.deepcopy(network.sector_heads)
            prefix = "network.sector_heads." if "head_epoch" in heads else ""
            loaded.load_state_dict({name: heads[prefix + name] for name in loaded.state_dict()})
            losses.append(module.loss.per_sample(loaded(features, batch.sector), batch.label))
    for sector in range(13):
        rows = batch.sector == sector
        before, after = (each[rows].mean() for each in losses)
        kept = state["head_epoch"][sector] in (KEPT, SKIPPED)
        gains, blocks = (losses[0] - losses[1])[rows].numpy(), date_blocks(dataset.date)[rows.numpy()]
        assert torch.isclose(before, after) if kept else before - after > 0.99 * standard_error(gains, blocks)
    assert 0 < (state["head_epoch"] > 0).sum() < 13


def test_every_epoch_of_the_record_is_at_least_as_good(trained):
    run, _, _ = trained
    rows = (run.path / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val/loss")
    losses = [float(row.split(",")[column]) for row in rows[1:]]
    assert losses == sorted(losses, reverse=True)
