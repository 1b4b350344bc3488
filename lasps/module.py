"""Training of the fusion network on windows: phases 1 and 3, and the scores of all phases."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassConfusionMatrix

from common.losses import FocalLoss
from common.metrics import classification_scores
from common.module import TrunkModule
from lasps.data.dataset import WindowBatch
from lasps.networks import SectorFusion


class LaspsModule(TrunkModule):
    """Trains the network's common head or its sector heads, with as much of the backbone as `trainable` names.

    Args:
        head: which head is trained and judged. Before the first training of sector heads they start as copies of the
            common head (lasps specification, section 7).
        aux_weight: weight of the smooth L1 loss on the auxiliary targets, where the data has some.
    """

    network: SectorFusion

    def __init__(
        self,
        network: nn.Module,
        loss: FocalLoss,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[[float, int], float],
        trainable: Sequence[str],
        head: Literal["common", "sector"],
        aux_weight: Annotated[float, Field(ge=0)] = 0.5,
    ):
        super().__init__(network, optimizer, schedule, trainable)
        self.loss, self.head, self.aux_weight = loss, head, aux_weight
        self.val_confusion = MulticlassConfusionMatrix(num_classes=3)
        self.val_losses: list[Tensor] = []

    def on_fit_start(self) -> None:
        if self.head == "sector" and not self.network.heads_trained.any():
            self.network.heads_from_common()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.trainer.datamodule.view(batch, self.network.use_chart_cnn)

    def training_step(self, batch: WindowBatch, batch_idx: int) -> Tensor:
        if self.head == "sector":
            self.network.heads_trained[batch.sector] = True
        output = self.network(batch.series, batch.chart, batch.sector, self.head)
        loss = self.loss(output["logits"], batch.label)
        if batch.aux is not None:
            known = ~batch.aux.isnan()
            said = self.network.aux_head(output["shared_features"])
            loss = loss + self.aux_weight * functional.smooth_l1_loss(said[known], batch.aux[known])
        return self.record_train_loss(loss, len(batch), batch_idx)

    def logits(self, batch: WindowBatch) -> Tensor:
        """(B, 3) logits of the head in use for a batch that `View` has been applied to."""
        return self.network(batch.series, batch.chart, batch.sector, self.head)["logits"]

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:
        self.score(self.logits(batch), batch.label)

    def score(self, logits: Tensor, labels: Tensor) -> None:
        """Add a validation batch to the epoch's scores."""
        self.val_losses.append(self.loss.per_sample(logits, labels))
        self.val_confusion.update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", torch.cat(self.val_losses).double().mean(), sync_dist=True)
        self.val_losses.clear()
        scores = classification_scores(self.val_confusion.compute().cpu().numpy())
        for name in ("accuracy", "balanced_accuracy", "macro_f1"):
            self.log(f"val/{name}", float(scores[name]))
        self.val_confusion.reset()
