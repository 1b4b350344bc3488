"""Training of the attribute encoder: alone (stage 1), then towards the frozen image vectors (stage 2)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from common.errors import UserError
from common.module import TrunkModule
from kfashion.augment import RecordAugmentation, drop_fields, emptied, is_empty, mix_vectors
from kfashion.losses import ContrastiveLoss
from kfashion.networks import FieldHeads
from kfashion.records import FIELDS, MULTI, PAD, UNKNOWN, Codes, RecordBatch, code_keys
from kfashion.retrieval import Items, rank, similarities

MIXABLE = ("supcon_out", "infonce")


class EncoderModule(TrunkModule):
    """What both stages share: the loss above chance beside the loss, and the vocabulary in every checkpoint.

    Args:
        vocabulary: hash of the vocabulary that the codes belong to; a checkpoint of another one is refused.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: ContrastiveLoss,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[[float, int], float],
        trainable: Sequence[str],
        vocabulary: str,
    ):
        super().__init__(network, optimizer, schedule, trainable)
        self.loss, self.vocabulary = loss, vocabulary
        self.register_buffer("train_chance_sum", torch.zeros((), dtype=torch.float64))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["vocabulary"] = self.vocabulary

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises UserError if the checkpoint's codes mean other words."""
        theirs = checkpoint["vocabulary"]
        if theirs != self.vocabulary:
            raise UserError(f"checkpoint of vocabulary {theirs[:12]}, this is {self.vocabulary[:12]}; use its data.")

    def record_train_loss(self, loss: Tensor, num_samples: int, batch_idx: int) -> Tensor:
        self.train_chance_sum.add_(num_samples * math.log(num_samples * self.trainer.world_size))
        return super().record_train_loss(loss, num_samples, batch_idx)

    def on_train_epoch_end(self) -> None:
        chance = self.train_chance_sum / self.train_samples
        self.log("train/loss_above_chance", self.train_loss_sum / self.train_samples - chance, sync_dist=True)
        super().on_train_epoch_end()
        self.train_chance_sum.zero_()

    def contrast(self, one: Tensor, other: Tensor, keys: Tensor, mixing: Tensor | None = None) -> Tensor:
        """The contrastive loss over the batches of all processes together, with gradient into each."""
        if self.trainer.world_size > 1:
            one, other = (self.all_gather(each, sync_grads=True).flatten(0, 1) for each in (one, other))
            keys = self.all_gather(keys).flatten()
            mixing = None if mixing is None else torch.block_diag(*self.all_gather(mixing))
        return self.loss(one, other, keys, mixing)


class AlignmentModule(EncoderModule):
    """Stage 2: the vector of a record towards the vector of its image, away from those of other records.

    On validation it logs the loss in batches of the training size, and how the records find their images in the whole
    gallery of the split, equal records counting as equally right.

    Args:
        augmentation: of the training records.
        tokens: of every field, as `Vocabulary.tokens`.
        mixup: alpha of MixUp on the image vectors; 0 for none.
        num_val_queries: at most so many records, drawn once, search the gallery; the gallery is always whole.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: ContrastiveLoss,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[[float, int], float],
        trainable: Sequence[str],
        vocabulary: str,
        augmentation: RecordAugmentation,
        tokens: Mapping[str, Sequence[str]],
        mixup: Annotated[float, Field(ge=0)] = 0.0,
        num_val_queries: Annotated[int, Field(ge=1)] = 2000,
    ):
        super().__init__(network, loss, optimizer, schedule, trainable, vocabulary)
        if mixup and loss.form not in MIXABLE:
            raise UserError(f"module.mixup={mixup}: {loss.form} has no mixed targets; use loss.form={MIXABLE[0]}.")
        self.augmentation, self.tokens, self.mixup = augmentation, tokens, mixup
        self.num_val_queries = num_val_queries
        self.seen: list[tuple[Tensor, ...]] = []

    def training_step(self, batch: RecordBatch, batch_idx: int) -> Tensor:
        codes, keys, image, mixing = batch.codes, batch.attr_key, batch.image_embedding, None
        if self.augmentation.active:
            codes = self.augmentation(codes, self.tokens)
            keys = code_keys(codes)
        if self.mixup:
            image, mixing = mix_vectors(image, self.mixup)
        loss = self.contrast(self.network(codes), image, keys, mixing)
        return self.record_train_loss(loss, len(batch), batch_idx)

    def validation_step(self, batch: RecordBatch, batch_idx: int) -> None:
        category = batch.codes["category"]
        vectors = self.network(batch.codes).float()
        self.seen.append((vectors, batch.image_embedding.float(), batch.attr_key, category, batch.group_index))

    def on_validation_epoch_end(self) -> None:
        columns = [torch.cat(each) for each in zip(*self.seen, strict=True)]
        self.seen.clear()
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(columns[0])))
        self._log_losses(*(each[order.to(self.device)] for each in columns[:3]))
        attribute, image, keys, category, group = (each.cpu().numpy() for each in columns)
        items, asked = Items(np.arange(len(keys)), keys, category, group), order[: self.num_val_queries].numpy()
        found = rank(attribute[asked], image, items[asked], items, ["instance", "attr"])
        for name in ("hit_at_1", "hit_at_5", "hit_at_10", "mrr"):
            self._log(f"val/{name}", np.nanmean(found["attr"].metrics[name]))
        self._log("val/chance_hit_at_5", np.nanmean(found["attr"].chance["hit_at_5"]))
        self._log("val/instance_hit_at_5", found["instance"].metrics["hit_at_5"].mean())
        positive, negative = similarities(attribute, image, keys)
        self._log("val/positive_similarity", positive.mean())
        self._log("val/negative_similarity", negative.mean() if len(negative) else math.nan)
        norms = np.linalg.norm(attribute, axis=1)
        for name, value in (("mean", norms.mean()), ("std", norms.std()), ("error", np.abs(norms - 1).max())):
            self._log(f"val/norm_{name}", value)

    def _log_losses(self, attribute: Tensor, image: Tensor, keys: Tensor) -> None:
        """The mean loss and its distance from chance, in batches of the size of training."""
        losses = chance = 0.0
        size = self.trainer.datamodule.batch_size * self.trainer.world_size
        for rows in torch.arange(len(keys), device=keys.device).split(size):
            losses += self.loss(attribute[rows], image[rows], keys[rows]).double() * len(rows)
            chance += math.log(len(rows)) * len(rows)
        self.log("val/loss", losses / len(keys))
        self.log("val/loss_above_chance", (losses - chance) / len(keys))

    def _log(self, name: str, value: float) -> None:
        self.log(name, torch.tensor(value, dtype=torch.float64))  # of a plain number Lightning keeps seven digits


class PretrainingModule(EncoderModule):
    """Stage 1: the encoder without images. Two views of a record attract each other and give away what was taken.

    A view is the record with fields left out at random; heads on the encoder's output predict those that were. The
    heads are no part of the network, so stage 2 starts without them.

    On validation every field is left out of all records in turn: `val/loss` is the mean over the fields of contrast and
    prediction, `val/accuracy_<field>` how often the likeliest token is one of the record's, `val/majority_<field>` how
    often the one token is that most of these records have.

    Args:
        vocab_sizes: rows of each field's table, by field.
        field_dropout: how often a view lacks a field; never all that a record has.
        head_weight: of the prediction in the loss.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: ContrastiveLoss,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[[float, int], float],
        trainable: Sequence[str],
        vocabulary: str,
        vocab_sizes: Mapping[str, int],
        field_dropout: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        head_weight: Annotated[float, Field(ge=0)] = 1.0,
    ):
        super().__init__(network, loss, optimizer, schedule, trainable, vocabulary)
        self.heads = FieldHeads(vocab_sizes)
        self.field_dropout, self.head_weight = field_dropout, head_weight
        self.seen: list[dict[str, Any]] = []

    def training_step(self, batch: RecordBatch, batch_idx: int) -> Tensor:
        views = [drop_fields(batch.codes, self.field_dropout, drop_category=True) for _ in range(2)]
        vectors = [self.network(codes) for codes, _ in views]
        loss = self.contrast(*vectors, batch.attr_key)
        if self.head_weight:
            taken = zip(vectors, views, strict=True)
            told = [prediction_loss(self.heads(each), batch.codes, dropped) for each, (_, dropped) in taken]
            loss = loss + self.head_weight * sum(told) / len(told)
        return self.record_train_loss(loss, len(batch), batch_idx)

    def validation_step(self, batch: RecordBatch, batch_idx: int) -> None:
        whole, size = self.network(batch.codes), len(batch)
        row = {"loss": 0.0, "chance": math.log(size) * size, "count": size}
        for field in FIELDS:
            code = batch.codes[field]
            given = ~is_empty(code)
            left = self.network(batch.codes | {field: emptied(code, given)})
            logits = self.heads(left)
            told = prediction_loss(logits, batch.codes, {each: given & (each == field) for each in FIELDS})
            contrast = self.loss(whole, left, batch.attr_key)
            row["loss"] += (contrast + self.head_weight * told).double() * size / len(FIELDS)
            row[f"right_{field}"] = _is_among(logits[field].argmax(1), code)[given].sum()
            row[f"tokens_{field}"] = code[given].flatten().bincount(minlength=logits[field].shape[1])
            row[f"given_{field}"] = given.sum()
        self.seen.append(row)

    def on_validation_epoch_end(self) -> None:
        total = {name: sum(row[name] for row in self.seen) for name in self.seen[0]}
        self.seen.clear()
        self.log("val/loss", total["loss"] / total["count"])
        self.log("val/loss_above_chance", (total["loss"] - total["chance"]) / total["count"])
        for field in FIELDS:
            given = total[f"given_{field}"].clamp(min=1).double()
            self.log(f"val/accuracy_{field}", total[f"right_{field}"] / given)
            self.log(f"val/majority_{field}", total[f"tokens_{field}"][UNKNOWN:].max() / given)


def prediction_loss(logits: Mapping[str, Tensor], codes: Codes, dropped: Mapping[str, Tensor]) -> Tensor:
    """Mean over the fields of the loss of predicting those that were left out, in nats.

    Cross-entropy for single fields; for multi fields binary cross-entropy summed over the tokens.

    Args:
        logits: (B, V) by field.
        codes: of the whole records.
        dropped: (B,) bool by field; a field that no record lost counts as 0.
    """
    total = next(iter(logits.values())).new_zeros(())
    for field in FIELDS:
        if field in MULTI:
            target = torch.zeros_like(logits[field]).scatter_(1, codes[field], 1.0)
            target[:, PAD] = 0
            losses = binary_cross_entropy_with_logits(logits[field], target, reduction="none").sum(1)
        else:
            losses = cross_entropy(logits[field], codes[field], reduction="none")
        rows = dropped[field]
        total = total + (losses * rows).sum() / rows.sum().clamp(min=1)
    return total / len(FIELDS)


def _is_among(token: Tensor, codes: Tensor) -> Tensor:
    """(B,) whether a token is one of the record's."""
    return (codes.view(len(codes), -1) == token[:, None]).any(1)
