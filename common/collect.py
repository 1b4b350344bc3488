"""Saves the units of a model apart, every few epochs, with the records by which an epoch of each can be chosen."""

import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from pydantic import Field
from torch import Tensor, nn

from common.config import plain_node
from common.files import hash_record, plain, write_atomic, write_text
from common.rundir import Run, git_state
from common.unit_files import saved_epochs, write_units

SAMPLED_STEPS = 4  # every so many steps the update is measured, which takes a copy of all weights
SUMS = ("steps", "clipped", "grad_norm", "grad_norm_ratio", "lr", "nan_count", "updates", "update_ratio")
DEAD_ACTIVATION = 1e-6  # largest absolute value of a dead ReLU
DEAD_SPREAD = 1e-4  # standard deviation of a dead unit of any other nonlinearity
NONLINEARITIES = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid)


@dataclass
class UnitScore:
    """How well a unit does on a split.

    Attributes:
        n: rows that count for it.
        loss: of its own branch; None where nothing was measured.
        loss_source: units whose loss that is, for a unit without a branch.
        row_losses: (n,) on the select split, with `loss` as their mean.
        target_spread: smallest range of a target of the unit; 0 says that one is constant.
    """

    split: Literal["train", "select"]
    n: int
    loss: float | None
    task_metrics: dict[str, float | None] = field(default_factory=dict)
    loss_source: str | None = None
    row_losses: np.ndarray | None = None
    target_spread: float | None = None


class NamesUnits(Protocol):
    """What a LightningModule offers to be collected.

    Attributes:
        units: modules by name, which share no parameter.
        groups: names of units that depend on one another, by group.
    """

    units: Mapping[str, nn.Module]
    groups: Mapping[str, list[str]]

    def unit_scores(self) -> dict[str, list[UnitScore]]:
        """The scores of every unit in the epoch that ends, after its validation."""

    def probe(self) -> None:
        """A forward pass over a fixed batch, the same at every epoch."""


class Collect(Callback):
    """Fills `<run>/units/` with epoch_0002/<unit>.safetensors, …, metrics.jsonl and row_losses.npz.

    metrics.jsonl has a line for every collected epoch, unit and split. Training quantities are means over the epoch's
    steps, before clipping. A resumed run leaves what an uninterrupted one would. Source: redheart specification,
    section 4.

    Args:
        every_n_epochs: epochs between two collections.
        dtype: of the stored weights; `bfloat16` halves the files.
        keep_last: how many epochs keep their weights, the latest; None keeps all. Records are always kept.
        ema_decay: of an exponential moving average over steps, which lies in `ema/` when training ends; None makes
            none. It is updated with the update's sample of steps, by a decay to match.
    """

    def __init__(
        self,
        run_dir: str,
        every_n_epochs: Annotated[int, Field(ge=1)] = 2,
        dtype: Literal["float32", "bfloat16"] = "float32",
        keep_last: Annotated[int, Field(ge=1)] | None = None,
        ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None,
    ):
        self.run, self.folder = Run(run_dir), Run(run_dir).path / "units"
        self.every_n_epochs, self.dtype, self.keep_last, self.ema_decay = every_n_epochs, dtype, keep_last, ema_decay
        self.records: list[dict[str, Any]] = []
        self.row_losses: dict[str, list[Tensor]] = {}
        self.sums: dict[str, Tensor] = {}
        self.ema: list[Tensor] = []
        self.before: list[Tensor] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"records": self.records, "row_losses": self.row_losses, "sums": self.sums, "ema": self.ema}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.began = time.monotonic()  # an epoch that a resumed run is in the middle of has no start
        self.names = list(pl_module.units)
        members = [[each for each in unit.parameters() if each.requires_grad] for unit in pl_module.units.values()]
        self.parameters = [parameter for own in members for parameter in own]
        device = pl_module.device
        self.unit_of = torch.tensor([k for k, own in enumerate(members) for _ in own], device=device)
        if not self.sums:
            self.sums = {name: torch.zeros(len(self.names), dtype=torch.float64) for name in SUMS}
        self.sums = {name: value.to(device) for name, value in self.sums.items()}
        self.ema = [each.to(device) for each in self.ema]
        if self.ema_decay and not self.ema:
            self.ema = [parameter.detach().clone() for parameter in self.parameters]
        self.provenance = {
            "config_hash": config_hash(self.run.config), "code_version": git_state()["git_commit"],
            "torch": torch.__version__, "seed": self.run.config.seed,
        }  # fmt: skip

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.began = time.monotonic()

    def due(self, trainer: lightning.Trainer) -> bool:
        return (trainer.current_epoch + 1) % self.every_n_epochs == 0

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        sampled = trainer.global_step % SAMPLED_STEPS == 0
        if self.due(trainer):
            self._add_gradients(trainer, optimizer)
            if sampled:
                self.before = [parameter.clone() for parameter in self.parameters]

    def _add_gradients(self, trainer: lightning.Trainer, optimizer: torch.optim.Optimizer) -> None:
        gradients = [each.new_zeros(1) if each.grad is None else each.grad for each in self.parameters]
        norms = self._norms(gradients)
        total = norms.square().sum().sqrt()
        rate = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
        rates = torch.tensor([rate[id(each)] for each in self.parameters], dtype=torch.float64, device=norms.device)
        added = {
            "steps": 1, "clipped": total > (trainer.gradient_clip_val or math.inf), "grad_norm": norms,
            "grad_norm_ratio": norms / total.clamp(min=1e-30), "nan_count": ~norms.isfinite(),
            "lr": torch.zeros_like(norms).index_put((self.unit_of,), rates),
        }  # fmt: skip
        for name, value in added.items():
            self.sums[name] += value

    @torch.no_grad()
    def _norms(self, tensors: list[Tensor]) -> Tensor:
        """(units,) float64 norms of tensors that are in the order of the parameters."""
        squares = torch.stack(torch._foreach_norm(tensors)).double().square()
        return squares.new_zeros(len(self.names)).index_add(0, self.unit_of, squares).sqrt()

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.before is not None:
            weights = self._norms(self.before)
            torch._foreach_sub_(self.before, self.parameters)
            self.sums["update_ratio"] += self._norms(self.before) / weights.clamp(min=1e-30)
            self.sums["updates"] += 1
            self.before = None
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.ema and stepped and trainer.global_step % SAMPLED_STEPS == 0:
            torch._foreach_lerp_(self.ema, self.parameters, 1 - self.ema_decay**SAMPLED_STEPS)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        # before the recorder, whose checkpoint holds what is collected here
        if self.due(trainer):
            self._record(trainer, pl_module)
            for value in self.sums.values():
                value.zero_()
            if trainer.is_global_zero:
                self._write(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if self.ema and trainer.is_global_zero:
            facts = {"epoch": trainer.current_epoch, "global_step": trainer.global_step, **self.provenance}
            write_units(self.folder / "ema", self._averaged(pl_module).items(), pl_module.groups, self.dtype, **facts)

    def _record(self, trainer: lightning.Trainer, module: Any) -> None:
        means = self._means(module)
        dead = dead_fractions(module)
        seconds = round(time.monotonic() - self.began, 3)
        for unit, scores in module.unit_scores().items():
            for score in scores:
                row = {"epoch": trainer.current_epoch + 1, "unit": unit, "split": score.split, "n": score.n,
                       "loss": score.loss, "loss_source": score.loss_source, "task_metrics": score.task_metrics,
                       "target_spread": score.target_spread, **means[unit], "dead_fraction": dead[unit],
                       "seconds": seconds}  # fmt: skip
                self.records.append(plain(row))
                if score.row_losses is not None:
                    self.row_losses.setdefault(unit, []).append(torch.from_numpy(score.row_losses.astype(np.float16)))

    def _means(self, module: Any) -> dict[str, dict[str, float]]:
        """Means of the epoch's training quantities, by unit."""
        sums = {name: value.cpu().numpy() for name, value in self.sums.items()}
        steps, updates = np.maximum(sums["steps"], 1), np.maximum(sums["updates"], 1)
        columns = {name: sums[name] / steps for name in ("grad_norm", "grad_norm_ratio", "lr")}
        columns |= {"clipped_share": sums["clipped"] / steps, "update_ratio": sums["update_ratio"] / updates}
        weights = self._norms(self.parameters).cpu().numpy()
        columns |= {"weight_norm": weights, "nan_count": (sums["nan_count"] + ~np.isfinite(weights)).astype(int)}
        return {unit: {name: values[k] for name, values in columns.items()} for k, unit in enumerate(self.names)}

    def _write(self, trainer: lightning.Trainer, module: Any) -> None:
        epoch = trainer.current_epoch + 1
        facts = {"epoch": epoch, "global_step": trainer.global_step, **self.provenance}
        states = ((name, unit.state_dict()) for name, unit in module.units.items())
        write_units(self.folder / f"epoch_{epoch:04d}", states, module.groups, self.dtype, **facts)
        if self.keep_last:
            for path in list(saved_epochs(self.folder).values())[: -self.keep_last]:
                shutil.rmtree(path)
        epochs = np.array(sorted({row["epoch"] for row in self.records}))
        arrays = {unit: torch.stack(losses).numpy() for unit, losses in self.row_losses.items()}
        write_atomic(self.folder / "row_losses.npz", lambda file: np.savez(file, epochs=epochs, **arrays))
        lines = (json.dumps(row, allow_nan=False) for row in self.records)
        write_text(self.folder / "metrics.jsonl", "\n".join(lines) + "\n")

    def _averaged(self, module: Any) -> dict[str, dict[str, Tensor]]:
        """The units' states with the moving average in place of what trains."""
        average = {id(parameter): value for parameter, value in zip(self.parameters, self.ema)}
        return {
            name: {key: average.get(id(value), value) for key, value in unit.state_dict(keep_vars=True).items()}
            for name, unit in module.units.items()
        }


@torch.no_grad()
def dead_fractions(module: Any) -> dict[str, float | None]:
    """Share of each unit's hidden activations that never act on the probe; None for a unit without a nonlinearity.

    Dead is a ReLU whose activation stays within 1e-6 of zero, and any other nonlinearity whose standard deviation over
    the probe is below 1e-4.
    """
    dead: dict[str, list[Tensor]] = {name: [] for name in module.units}

    def hook(name: str) -> Any:
        def see(part: nn.Module, _: Any, output: Tensor) -> None:
            rows = output.detach().float().flatten(0, -2)
            if isinstance(part, nn.ReLU):
                dead[name].append(rows.abs().amax(0) <= DEAD_ACTIVATION)
            else:
                dead[name].append(rows.std(0) < DEAD_SPREAD)

        return see

    parts = [(name, part) for name, unit in module.units.items() for part in unit.modules()]
    hooks = [part.register_forward_hook(hook(name)) for name, part in parts if isinstance(part, NONLINEARITIES)]
    training = module.training
    module.eval()
    try:
        module.probe()
    finally:
        module.train(training)
        for each in hooks:
            each.remove()
    return {name: torch.cat(found).float().mean().item() if found else None for name, found in dead.items()}


def config_hash(config: DictConfig) -> str:
    """16 hexadecimal digits that depend on all of a run's config that its weights depend on."""
    elsewhere = ("run_dir", "paths", "callbacks", "logger", "resume", "parents", "analysis")
    record = {key: plain_node(config, key) for key in config if key not in elsewhere}
    record["data"] = {key: value for key, value in record["data"].items() if key != "data_dir"}
    return hash_record(record)
