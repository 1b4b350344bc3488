"""Phase 2: all sector heads at once on cached features of the frozen backbone, each as if it were trained alone."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from common.cache import cached_arrays
from common.checkpoints import hash_weights
from common.losses import FocalLoss
from common.stats import date_blocks
from lasps.data.module import LaspsDataModule
from lasps.heads import SectorBatch, SectorBatches, dropout_masks
from lasps.module import LaspsModule
from lasps.networks import SectorHeads

log = logging.getLogger(__name__)

SKIPPED, KEPT = -1, 0  # values of `head_epoch` besides the number of the epoch that a head is from
HEADS = ("sector_heads.", "common_head.", "heads_trained")  # all other weights are the backbone


@dataclass
class FeatureBatch:
    """B windows as the frozen backbone sees them.

    Attributes:
        features: (B, hidden_dim) float32.
        sector, label: (B,) int64.
    """

    features: Tensor
    sector: Tensor
    label: Tensor


class FeatureDataset(Dataset):
    """Cached features with sectors and labels; indexed with an array of rows."""

    def __init__(self, features: Tensor, sector: Tensor, label: Tensor):
        self.features, self.sector, self.label = features, sector, label

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: np.ndarray) -> FeatureBatch:
        return FeatureBatch(self.features[index], self.sector[index], self.label[index])


class SectorHeadsModule(LaspsModule):
    """Trains `heads`, a copy of the network's sector heads, and puts into the network what validates best.

    For every sector the network holds the head of the epoch with the lowest validation loss among those that beat the
    head the sector came with by more than noise; where none does, it keeps that head. A sector with fewer than
    `min_samples` training windows is skipped and keeps it as well. Lasps specification, sections 7, 8 and 11.

    Args:
        seed: of sample orders and dropout, for every sector its own stream.
        cache_dir: where the features of frozen backbones are kept.
        batch_size: windows per sector and step.
        min_samples: training windows below which a sector is skipped.
        min_gain: how many of its standard errors, by blocks of five sessions, a head's gain in validation loss must
            exceed.

    Attributes:
        head_epoch: (S,) int64, the epoch that each deployed head is from, `KEPT` or `SKIPPED`.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: FocalLoss,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[[float, int], float],
        trainable: Sequence[str],
        seed: int,
        cache_dir: str,
        batch_size: Annotated[int, Field(ge=1)] = 64,
        min_samples: Annotated[int, Field(ge=1)] = 100,
        min_gain: Annotated[float, Field(ge=0)] = 1.0,
        head: Literal["sector"] = "sector",
    ):
        super().__init__(network, loss, optimizer, schedule, trainable, head)
        self.automatic_optimization = False
        self.seed, self.cache_dir = seed, cache_dir
        self.batch_size, self.min_samples, self.min_gain = batch_size, min_samples, min_gain
        deployed = network.sector_heads
        num_sectors, input_dim, hidden_dim = deployed.weight1.shape
        self.heads, self.first_heads = (
            SectorHeads(num_sectors, input_dim, hidden_dim, deployed.dropout) for _ in range(2)
        )
        self.register_buffer("started", torch.tensor(False))
        self.register_buffer("head_epoch", torch.full((num_sectors,), KEPT))
        self.register_buffer("sector_loss_sum", torch.zeros(num_sectors, dtype=torch.float64))
        self.register_buffer("sector_samples", torch.zeros(num_sectors, dtype=torch.float64))
        self.val_logits: list[Tensor] = []

    def on_fit_start(self) -> None:
        super().on_fit_start()
        data: LaspsDataModule = self.trainer.datamodule
        train, self.val_set = (self._features(data, split) for split in ("train", "val"))
        counts = train.sector.bincount(minlength=len(self.head_epoch))
        trained = (counts >= self.min_samples).nonzero().flatten().tolist()
        if not self.started:
            for heads in (self.heads, self.first_heads):
                heads.load_state_dict(self.network.sector_heads.state_dict())
            self._report_sectors(data, counts, trained)
            self.started.fill_(True)
        data.loaders = {
            "train": lambda: self._batches(data, train, trained),
            "val": lambda: data.in_order(self.val_set),
        }
        dates = data.datasets["val"].date
        self.val_blocks = torch.from_numpy(np.arange(len(self.val_set)) if dates is None else date_blocks(dates))
        self.best_logits = self._all_logits(self.network.sector_heads)
        self.first_logits = self._all_logits(self.first_heads)

    def on_fit_end(self) -> None:
        self.trainer.datamodule.loaders = {}

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch  # features need no view

    def training_step(self, batch: SectorBatch, batch_idx: int) -> None:
        shape = (batch.features.shape[1], self.heads.weight1.shape[2])
        masks = dropout_masks(self.seed, batch.sectors, batch.epoch, batch.step, shape, self.heads.dropout)
        logits = self.heads.stacked(batch.features, batch.sectors, masks.to(batch.features))
        losses = self.loss(logits, batch.targets, batch.mask)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(losses.sum())
        optimizer.step(active=batch.active)
        self.lr_schedulers().step()
        count = batch.mask.sum(1).double()
        self.sector_loss_sum.index_add_(0, batch.sectors, losses.detach().double() * count)
        self.sector_samples.index_add_(0, batch.sectors, count)

    def _rate_factor(self, step: int) -> float:
        # by whole epochs: how many steps an epoch has depends on the largest sector, and no head may depend on another
        return self.schedule(step // self.trainer.num_training_batches, self.trainer.max_epochs)

    def validation_step(self, batch: FeatureBatch, batch_idx: int) -> None:
        self.val_logits.append(self.heads(batch.features, batch.sector))

    def on_validation_epoch_end(self) -> None:
        logits, sector = torch.cat(self.val_logits), self.val_set.sector.to(self.device)
        self.val_logits.clear()
        new, best = (self._sector_losses(each, sector) for each in (logits, self.best_logits))
        trained = self.sector_samples > 0
        # without validation windows both are NaN and nothing is better
        better = trained & (new < best) & self._beyond_noise(logits, sector)
        for deployed, current in zip(self.network.sector_heads.parameters(), self.heads.parameters()):
            deployed.data[better] = current.data[better]
        self.head_epoch[better] = self.current_epoch + 1
        self.network.heads_trained |= better
        self.best_logits = torch.where(better[sector].unsqueeze(1), logits, self.best_logits)
        self._log_sectors(new)
        self.score(self.best_logits, self.val_set.label.to(self.device))
        super().on_validation_epoch_end()

    def on_train_epoch_end(self) -> None:
        self.train_loss_sum += self.sector_loss_sum.sum()
        self.train_samples += self.sector_samples.sum()
        self.sector_loss_sum.zero_()
        self.sector_samples.zero_()
        super().on_train_epoch_end()

    def _features(self, data: LaspsDataModule, split: Literal["train", "val"]) -> FeatureDataset:
        """The windows of a split through the frozen backbone, computed once for these weights and this data."""
        weights = self.network.state_dict()
        backbone = {name: value for name, value in weights.items() if not name.startswith(HEADS)}
        key = {"backbone": hash_weights(backbone), "data": data.fingerprint, "split": split, "type": "float32"}
        arrays = cached_arrays(Path(self.cache_dir), key, lambda: {"features": self._embed(data, split)})
        dataset = data.datasets[split]
        sector, label = torch.as_tensor(dataset.sector_ids), torch.as_tensor(dataset.labels)
        return FeatureDataset(torch.from_numpy(arrays["features"]), sector, label)

    @torch.inference_mode()
    def _embed(self, data: LaspsDataModule, split: str) -> np.ndarray:
        log.info(f"Phase2: running the frozen backbone over the {split} windows, once")
        self.network.eval()
        features = []
        for batch in data.in_order(data.datasets[split]):
            batch = data.view(batch.to(self.device), self.network.use_chart_cnn)
            features.append(self.network.features(batch.series, batch.chart).float().cpu())
        return torch.cat(features).numpy()

    @torch.inference_mode()
    def _all_logits(self, heads: SectorHeads) -> Tensor:
        """(N, 3) logits of all validation windows."""
        heads.eval()
        loader: DataLoader = self.trainer.datamodule.in_order(self.val_set)
        return torch.cat([heads(batch.features.to(self.device), batch.sector.to(self.device)) for batch in loader])

    def _sector_losses(self, logits: Tensor, sector: Tensor) -> Tensor:
        """(S,) float64 mean validation loss per sector, NaN for a sector without windows."""
        losses = self.loss.per_sample(logits, self.val_set.label.to(logits.device)).double()
        sums = torch.zeros_like(self.sector_loss_sum).index_add_(0, sector, losses)
        return sums / sector.bincount(minlength=len(sums))

    def _beyond_noise(self, logits: Tensor, sector: Tensor) -> Tensor:
        """(S,) bool, whether the heads' gain over those that the sectors came with exceeds `min_gain` standard errors.

        The standard error is that of a mean over blocks of dates of unequal size.
        """
        label, blocks = self.val_set.label.to(logits.device), self.val_blocks.to(logits.device)
        first, now = (self.loss.per_sample(each, label).double() for each in (self.first_logits, logits))
        num_sectors, num_blocks = len(self.head_epoch), int(blocks.max()) + 1
        cell = sector * num_blocks + blocks
        gains = torch.zeros(num_sectors * num_blocks, dtype=torch.float64, device=cell.device)
        gains = gains.index_add_(0, cell, first - now).view(num_sectors, num_blocks)
        counts = cell.bincount(minlength=gains.numel()).view_as(gains)
        mean = gains.sum(1) / counts.sum(1)
        scatter = ((gains - counts * mean.unsqueeze(1)) ** 2).sum(1)
        filled = (counts > 0).sum(1)
        error = (scatter * filled / (filled - 1)).sqrt() / counts.sum(1)
        return mean > self.min_gain * error

    def _batches(self, data: LaspsDataModule, train: FeatureDataset, trained: list[int]) -> SectorBatches:
        made = SectorBatches(
            train.features, train.label, train.sector, len(self.head_epoch), trained, self.batch_size, self.seed
        )
        made.start_at(*data.position(len(made)))
        return made

    def _report_sectors(self, data: LaspsDataModule, counts: Tensor, trained: list[int]) -> None:
        for sector, count in enumerate(counts.tolist()):
            name = f"Phase2 Sector {sector} ({data.sectors.english[sector]})"
            if sector in trained:
                log.info(f"{name}: {count} samples")
            else:
                self.head_epoch[sector] = SKIPPED
                log.warning(f"{name}: {count} samples, fewer than {self.min_samples}: skipped, keeps its head")

    def _log_sectors(self, val_losses: Tensor) -> None:
        epoch, epochs = self.current_epoch + 1, self.trainer.max_epochs
        for sector in (self.sector_samples > 0).nonzero().flatten().tolist():
            loss = (self.sector_loss_sum[sector] / self.sector_samples[sector]).item()
            deployed = "  deployed" if self.head_epoch[sector] == epoch else ""
            log.info(
                f"Phase2 Sector {sector} [{epoch}/{epochs}] loss={loss:.4f} val={val_losses[sector]:.4f}{deployed}"
            )
