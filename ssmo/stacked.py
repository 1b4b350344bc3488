"""Several seeds of one pair trained at once: their parameters are stacked and each operation is done for all of them.

Every seed keeps its initial weights, its batches and its optimiser's history, so its run directory is that of an
ordinary run, its figures equal but for rounding. It pays for small pairs, whose steps cost more in calls than in sums.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from common.checkpoints import NETWORK, AtomicCheckpointIO
from common.data import EpochOrder
from common.errors import UserError
from common.matrix import Cell
from common.recorder import Diverged, GracefulStop, Recorder, Stopped
from common.rundir import Run, first_line
from common.schema import validate
from common.training import add_facts, write_summary
from ssmo.curves import Curves
from ssmo.data.base import SPLITS, PairBatch, PairData
from ssmo.dynamics import Probe, gradients, probe
from ssmo.methods import PairLoss
from ssmo.module import SUMS, PairModule

log = logging.getLogger(__name__)

SPECTRAL = ("FNO", "TFNO", "UNO")
UNPROFITABLE = ("LatentAttention",)  # its cost is in sums, not in calls: measured 0.93 times as fast at once
ELEMENTWISE = ("torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD", "torch.optim.RMSprop")


def obstacle(config: DictConfig) -> str | None:
    """Why seeds of this run cannot be trained at once, or None."""
    for slot in ("first", "second"):
        network = config.model[slot]
        if network._target_.rpartition(".")[2] in SPECTRAL:
            return f"model.{slot}: neuraloperator's {network._target_.rpartition('.')[2]} cannot be stacked"
        if network.get("dropout"):
            return f"model.{slot}.dropout={network.dropout:g}: random numbers of an ordinary run cannot be reproduced"
    if config.loss.weighting == "random":
        return "loss.weighting=random: random numbers of an ordinary run cannot be reproduced"
    if config.loss.teacher == "ema":
        return "loss.teacher=ema: moving averages are not stacked"
    if config.optim._target_ not in ELEMENTWISE:
        return f"optim: {config.optim._target_} would mix the seeds; {', '.join(ELEMENTWISE)} do not"
    if config.init_from is not None:
        return "init_from: stacked runs begin with random weights"
    if str(config.trainer.precision) not in ("32", "32-true"):
        return f"trainer.precision={config.trainer.precision}: stacked runs use 32-true"
    return None


def _pays(config: DictConfig) -> bool:
    return not any(config.model[slot]._target_.rpartition(".")[2] in UNPROFITABLE for slot in ("first", "second"))


def by_seed(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that differ by their seed only, together where that is possible and pays; each of the others by itself."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        rest = tuple((key, str(value)) for key, value in cell.settings.items() if key != "seed")
        apart = obstacle(cell.config) or not _pays(cell.config)
        groups.setdefault(cell.name if apart else rest, []).append(cell)
    return list(groups.values())


class Seeds:
    """For `matrix.stack`: which cells are trained at once, and how."""

    groups = staticmethod(lambda cells: by_seed(cells))
    train = staticmethod(lambda configs, runs, stop: train_seeds(configs, runs, stop))


def train_seeds(configs: Sequence[DictConfig], runs: Sequence[Run], stop: GracefulStop) -> None:
    """Train runs that differ by their seed only, at once; each directory tells how its run ended.

    There is no checkpoint to continue from: interrupted runs begin anew, stacked or not. `wall_time` of a run is its
    share of the time that all took.

    Raises:
        UserError: if they cannot be stacked.
        SystemExit: with code 143 after SIGTERM and 130 after Ctrl-C.
    """
    reasons = [reason for config in configs if (reason := obstacle(config))]
    if reasons:
        raise UserError(f"{reasons[0]}; train its seeds one after another.")
    with ExitStack() as held:
        for run in runs:
            held.enter_context(run.held())
        seats = [Seat.of(config, run) for config, run in zip(configs, runs, strict=True) if not run.finished]
        for seat in seats:
            seat.curves.num_runs = len(seats)
            seat.run.write_config(seat.config, typed=[])
            seat.run.write_status("running")
        try:
            _fit(seats, stop)
        except Stopped:
            _end(seats, "interrupted", signal=stop.signal.name)
            raise SystemExit(128 + stop.signal) from None
        except Exception as error:
            _end(seats, "failed", error=first_line(error))
            raise
        _end(seats, "done")


@dataclass
class Seat:
    """One run of a stack; to the recorder and the curves it is the trainer, of which they need no more than this."""

    run: Run
    config: DictConfig
    recorder: Recorder
    curves: Curves
    max_epochs: int
    current_epoch: int = 0
    global_step: int = 0
    callback_metrics: dict[str, Tensor] = field(default_factory=dict)
    should_stop: bool = False
    is_global_zero: bool = True
    world_size: int = 1
    diverged: bool = False
    weights: Callable[[], dict[str, Tensor]] = dict

    @classmethod
    def of(cls, config: DictConfig, run: Run) -> "Seat":
        config = config.copy()
        config.run_dir, config.resume = str(run.path), None
        recorder, curves = (instantiate(config.callbacks[name], _convert_="all") for name in ("recorder", "curves"))
        return cls(run, config, recorder, curves, config.phase.epochs)

    @property
    def callbacks(self) -> list:
        return [self.recorder, self.curves]

    def save_checkpoint(self, path: Path) -> None:
        if path == self.run.best:
            AtomicCheckpointIO().save_checkpoint({"state_dict": self.weights(), "epoch": self.current_epoch}, path)

    def end_epoch(self, figures: dict[str, float], steps: int, module: PairModule) -> None:
        """Record an epoch as its run would; a run whose loss is not finite leaves the stack."""
        self.callback_metrics = {name: torch.tensor(value, dtype=torch.float64) for name, value in figures.items()}
        self.global_step += 2 * steps  # Lightning counts one for each optimiser
        try:
            self.curves.on_validation_end(self, module)
            for callback in self.callbacks:
                callback.on_train_epoch_end(self, module)
        except Diverged as error:
            self.run.write_status("diverged", error=first_line(error))
            self.should_stop = self.diverged = True
        self.current_epoch += 1


def _end(seats: list[Seat], status: str, **details: Any) -> None:
    for seat in seats:
        if not seat.diverged and not (status != "done" and seat.run.finished):
            seat.run.write_status(status, **details)


def _fit(seats: list[Seat], stop: GracefulStop) -> None:
    data: PairData = instantiate(seats[0].config.data, _convert_="all")
    data.setup("fit")
    modules = []
    for seat in seats:
        add_facts(seat.config, data)
        validate(seat.config)
        lightning.seed_everything(seat.config.seed, verbose=False)
        modules.append(instantiate(seat.config.module, _convert_="all"))
        modules[-1].freeze()
    modules[0].check_outputs(data.example())
    cuda = torch.cuda.is_available() and seats[0].config.trainer.accelerator != "cpu"
    stack = Stack(modules, data, torch.device("cuda:0" if cuda else "cpu"), seats[0].max_epochs)
    for number, seat in enumerate(seats):
        seat.weights = lambda number=number: stack.weights(number)
        seat.run.write_config(seat.config, typed=[])
        seat.run.write_environment(
            device=str(stack.device), seed=seat.config.seed, num_threads=torch.get_num_threads(), parent=None,
            data_source=data.data_source, fingerprint=data.fingerprint, stacked_seeds=len(seats),
        )  # fmt: skip
    started = time.monotonic()
    stop.fitting = True
    try:
        _train(stack, seats, stop)
    finally:
        stop.fitting = False
    share = (time.monotonic() - started) / len(seats)
    for seat, module in zip(seats, modules, strict=True):
        if not seat.diverged:
            write_summary(seat.config, seat.run, data, module, seat.recorder, share)


def _train(stack: "Stack", seats: list[Seat], stop: GracefulStop) -> None:
    for epoch in range(stack.num_epochs):
        for _ in stack.train_epoch(epoch):
            stop.check()
        for seat, module, figures in zip(seats, stack.modules, stack.epoch_figures(epoch), strict=True):
            if not seat.should_stop:
                seat.end_epoch(figures, stack.num_batches, module)
        stop.check()
        if all(seat.should_stop for seat in seats):
            return


class Stack:
    """Modules of equal shape as one whose parameters and buffers have the seeds as first axis.

    Args:
        modules: of the seeds, frozen as their phase wants.
        data: of all of them, set up.
    """

    def __init__(self, modules: list[PairModule], data: PairData, device: torch.device, num_epochs: int):
        self.modules, self.device, self.num_epochs = modules, device, num_epochs
        self.module = modules[0].to(device)
        slots = zip(*(module.network.slots for module in modules), strict=True)
        self.states = [_on_device(stack_module_state([slot.to(device) for slot in each]), device) for each in slots]
        self.views = [_of_seed(data, module.seed) for module in modules]
        self.data, self.train_set = data, data.dataset_of("train")
        self.orders = [EpochOrder(len(self.train_set), data.batch_size, module.seed) for module in modules]
        self.num_batches = len(self.orders[0])
        self.optimizers = [self.module.optimizer_factory(trainable(parameters)) for parameters, _ in self.states]
        self.schedulers = [torch.optim.lr_scheduler.LambdaLR(each, self._rate_factor) for each in self.optimizers]

    def _rate_factor(self, step: int) -> float:
        return self.module.schedule(step / self.num_batches, self.num_epochs)

    def weights(self, seed: int) -> dict[str, Tensor]:
        """One seed's part of a checkpoint, by its names in the module."""
        return {
            f"{NETWORK}slots.{slot}.{name}": value[seed].detach().clone()
            for slot, state in enumerate(self.states)
            for values in state
            for name, value in values.items()
        }

    def train_epoch(self, epoch: int) -> Iterator[None]:
        """Train an epoch, step by step; what it measured is left for `epoch_figures`."""
        self.module.train()
        self.sums = torch.zeros(len(self.modules), 2, len(SUMS), dtype=torch.float64, device=self.device)
        self.probes: list[tuple[list[Probe], list[Probe]]] = [([], []) for _ in self.modules]
        for order in self.orders:
            order.set_epoch(epoch)
        for number, rows in enumerate(zip(*self.orders, strict=True)):
            self._step(self._batch(rows, epoch), epoch, number)
            yield

    def _batch(self, rows: Sequence, epoch: int) -> tuple[Tensor, ...]:
        """(S, B, …) index, x, both targets and both `taught` of all seeds."""
        batches = [self.train_set[each].to(self.device) for each in rows]
        batches = [
            view.augment(batch, view.draws(epoch)[batch.index.cpu()].to(self.device))
            for view, batch in zip(self.views, batches, strict=True)
        ]
        parts = [(batch.index, batch.x, *batch.targets, *batch.taught) for batch in batches]
        return tuple(torch.stack(each) for each in zip(*parts, strict=True))

    def _step(self, batch: tuple[Tensor, ...], epoch: int, number: int) -> None:
        method = self.module.method
        with sdpa_kernel(SDPBackend.MATH):  # the others have no rule for stacks
            losses, figures = vmap(self._losses, (0, 0, None))(self.states, batch, method.strength_at(epoch))
        self.sums += figures * batch[0].shape[1]
        probing = method.probe_every and number % method.probe_every == 0
        slots = [trainable(parameters) for parameters, _ in self.states]
        imitation = [gradients(loss.imitation.sum(), own) for loss, own in zip(losses, slots)] if probing else []
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        sum(loss.total.sum() for loss in losses).backward()  # the seeds share nothing: to each its own gradient
        if probing:
            self._probe(slots, imitation)
        for parameters, optimizer, scheduler in zip(slots, self.optimizers, self.schedulers, strict=True):
            if self.module.gradient_clip is not None:
                clip_each(parameters, self.module.gradient_clip)
            optimizer.step()
            scheduler.step()

    def _losses(self, states: list, parts: tuple[Tensor, ...], strength: float) -> tuple[list[PairLoss], Tensor]:
        """What `PairModule.training_step` computes, for one seed."""
        index, x, *rest = parts
        batch = PairBatch(index, x, tuple(rest[:2]), tuple(rest[2:]))
        outputs = self._outputs(states, x)
        views = self.module.elements(batch, outputs)
        losses = [self.module.method.loss(each, strength) for each in views]
        return losses, self.module.figures(batch, outputs, views, losses)

    def _outputs(self, states: list, x: Tensor) -> list[Tensor]:
        return [functional_call(slot, state, (x,)) for slot, state in zip(self.module.network.slots, states)]

    def _probe(self, slots: list[list[Tensor]], imitation: list[list[Tensor]]) -> None:
        for slot, (parameters, theirs) in enumerate(zip(slots, imitation, strict=True)):
            total = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
            for own, found in zip(self.probes, probe(total, theirs), strict=True):
                own[slot].append(found)

    def epoch_figures(self, epoch: int) -> list[dict[str, float]]:
        """Every seed's figures of the epoch just trained, validation and test included."""
        rate, means = self.optimizers[0].param_groups[0]["lr"], self.sums / len(self.train_set)
        statistics = self._evaluate()
        return [
            {
                "train/loss": means[number, :, 0].sum().item(),
                **self.module.epoch_figures(means[number], self.probes[number], rate, epoch),
                **self.module.score_figures({split: each[number] for split, each in statistics.items()}),
            }
            for number in range(len(self.modules))
        ]

    @torch.no_grad()
    def _evaluate(self) -> dict[str, Tensor]:
        """Split → (S, 2, …) statistics."""
        self.module.eval()
        found = {}
        for split, loader in zip(SPLITS[1:], self.data.val_dataloader(), strict=True):
            for batch in loader:
                batch = batch.to(self.device)
                with sdpa_kernel(SDPBackend.MATH):
                    outputs = vmap(self._outputs, (0, None))(self.states, batch.x)
                each = torch.stack([self.module.statistics_of(own, batch) for own in zip(*outputs, strict=True)])
                found[split] = found.get(split, 0) + each
        return found


def trainable(parameters: dict[str, Tensor]) -> list[Tensor]:
    return [parameter for parameter in parameters.values() if parameter.requires_grad]


def clip_each(parameters: Sequence[Tensor], limit: float) -> None:
    """Limit the norm of each seed's gradient; parameters are (S, …)."""
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = sum(gradient.flatten(1).square().sum(1) for gradient in found).sqrt()
    factor = (limit / (norm + 1e-6)).clamp_max(1)
    for gradient in found:
        gradient *= factor.view(-1, *[1] * (gradient.dim() - 1))


def _of_seed(data: PairData, seed: int) -> PairData:
    view = copy(data)
    view.seed = seed
    return view


def _on_device(state: tuple[dict, dict], device: torch.device) -> list[dict]:
    return [{name: value.to(device) for name, value in values.items()} for values in state]
