"""Factorised evaluation: what each unit says of a split, computed once for every source of what it depends on.

A combination of units is then a mean of kept answers, without a forward pass (redheart specification, section 8).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import getsource
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.cache import cached_arrays
from common.collect import config_hash
from common.errors import UserError
from common.evaluation import Split, load_run
from common.files import hash_record
from common.rundir import Run
from common.unit_files import read_manifest, saved_epochs
from redheart import networks, tasks
from redheart.combine import Checkpoint, Recipe, Source, blend, soup
from redheart.module import Branch, MultiTaskModule
from redheart.rows import TASKS, Task
from redheart.tasks import Answer, Targets, TaskBatch, answer, task_metrics

Outputs = list[dict[Task, Tensor]]  # of each batch, over all of its vectors


class Units:
    """A module whose units take their parameters from any source.

    Args:
        module: its parameters are overwritten.
        folder: the collected units.

    Attributes:
        saved: folder of each saved epoch, ascending.
    """

    def __init__(self, module: MultiTaskModule, folder: Path):
        self.module, self.folder, self.saved = module.eval(), folder, saved_epochs(folder)
        self.graph, self.groups = module.network.graph, module.groups
        self._loaded: dict[str, Source] = {}

    def load(self, unit: str, source: Source) -> None:
        """Put a unit's parameters into the module, unless they are there."""
        if self._loaded.get(unit) != source:
            self.module.units[unit].load_state_dict(blend(self.folder, unit, source))
            self._loaded[unit] = source

    def upstream(self, unit: str) -> list[str]:
        """The unit and all that its outputs depend on."""
        found = [unit]
        for name in found:
            found += [each for each in self.graph[name].inputs if each not in found]
        return found

    def of_groups(self, sources: Mapping[str, Source]) -> dict[str, Source]:
        """The recipe that gives all units of a dependency group one source."""
        return {unit: sources[group] for group, units in self.groups.items() for unit in units}

    def everywhere(self, *checkpoints: Checkpoint) -> dict[str, Source]:
        """The recipe that takes all units from one checkpoint, or from the mean of several."""
        return soup(self.graph, checkpoints)


@dataclass
class Kept:
    """What a unit gave: its answers, and what it hands to the units that read it."""

    answers: dict[Task, Answer]
    outputs: Outputs


class Contributions:
    """Answers of every unit for a split, by the recipe of its parameters and of those of the units it reads.

    Args:
        batches: the split, in order.
        cache: names and hashes of all that the answers depend on besides the files; None keeps nothing on disk.

    Attributes:
        targets: of the split's rows.
        passes: how often a unit has run over the split.
    """

    def __init__(self, units: Units, batches: Sequence[TaskBatch], cache: dict[str, str] | None = None):
        self.units, self.batches, self.cache = units, list(batches), cache
        self.module = units.module
        self.targets = Targets.join([batch.targets for batch in self.batches])
        self.passes = 0
        self._kept: dict[tuple[str | Source, ...], Kept] = {}
        self._at_epoch = {Source.mean([epoch]): at for at, epoch in enumerate(units.saved)}
        self._on_disk: dict[str, dict[str, np.ndarray]] = {}

    def tasks(self, unit: str) -> list[Task]:
        """What a unit answers."""
        return [task for name, task in self.module.branches if name == unit]

    def answers(self, unit: str, recipe: Recipe) -> dict[Task, Answer]:
        """What one unit says."""
        sources = self._sources(unit, recipe)
        if sources not in self._kept:
            first, *others = set(sources[1:])
            if self.cache is not None and not others and first in self._at_epoch:
                return self._of_epoch(unit, self._at_epoch[first])
            self._kept[sources] = self.run(unit, recipe)
        return self._kept[sources].answers

    @torch.no_grad()
    def run(self, unit: str, recipe: Recipe) -> Kept:
        """What one unit gives, by a pass over the split; for what is asked for once, as it is not kept."""
        read = {name: self._outputs(name, recipe) for name in self.units.graph[unit].inputs}
        self.units.load(unit, recipe[unit])
        self.passes += 1
        outputs, device = [], self.module.device
        for number, batch in enumerate(self.batches):
            said = {
                name: {task: each.to(device) for task, each in parts[number].items()} for name, parts in read.items()
            }
            given = self.module.network.run_unit(unit, batch.x.to(device), said)
            outputs.append({task: each.float().cpu() for task, each in given.items()})
        answers = {}
        for task in self.tasks(unit):
            answers[task] = Answer.join([answer(each[task], batch) for each, batch in zip(outputs, self.batches)])
        is_read = any(unit in other.inputs for other in self.units.graph.values())
        return Kept(answers, outputs if is_read else [])

    def branches(self, recipe: Recipe) -> dict[Branch, Answer]:
        """What every branch says."""
        return {(unit, task): self.answers(unit, recipe)[task] for unit, task in self.module.branches}

    def fused(self, recipe: Recipe) -> dict[Task, Answer]:
        """The prediction of the whole model."""
        said = self.branches(recipe)
        return {task: Answer.fuse([each for branch, each in said.items() if branch[1] == task]) for task in TASKS}

    def losses(self, said: dict[Task, Answer]) -> np.ndarray:
        """(n,) float64 losses of an answer to some tasks, see `MultiTaskModule.row_losses`."""
        return self.module.row_losses(said, self.targets).numpy()

    def own_loss(self, group: str, recipe: Recipe) -> float:
        """Mean loss of a group's units, each by itself."""
        units = [unit for unit in self.units.groups[group] if self.tasks(unit)]
        return float(np.mean([self.losses(self.answers(unit, recipe)).mean() for unit in units]))

    def metrics(self, said: dict[Task, Answer]) -> dict[str, float]:
        """Task metrics, named as `emotion/macro_f1`."""
        scored = {task: task_metrics(task, each, self.targets) for task, each in said.items()}
        return {f"{task}/{name}": value for task, metrics in scored.items() for name, value in metrics.items()}

    def _sources(self, unit: str, recipe: Recipe) -> tuple[str | Source, ...]:
        """The unit, and the sources of all that its outputs depend on."""
        return unit, *(recipe[name] for name in self.units.upstream(unit))

    def _outputs(self, unit: str, recipe: Recipe) -> Outputs:
        sources = self._sources(unit, recipe)
        if sources not in self._kept:
            self._kept[sources] = self.run(unit, recipe)
        return self._kept[sources].outputs

    def _of_epoch(self, unit: str, at: int) -> dict[Task, Answer]:
        """What a unit says with all that it reads at saved epoch number `at`; the disk keeps that of all epochs."""
        if unit not in self._on_disk:
            files = {
                str(each): [read_manifest(path)["units"][name]["sha256"] for name in self.units.upstream(unit)]
                for each, path in self.units.saved.items()
            }
            key = self.cache | {"unit": unit, "files": hash_record(files)}
            folder = self.units.folder / "contributions"
            self._on_disk[unit] = cached_arrays(folder, key, lambda: self._all_epochs(unit))
        arrays = self._on_disk[unit]
        return {
            task: Answer(torch.from_numpy(arrays[f"{task}_logits"][at]), torch.from_numpy(arrays[f"{task}_margin"][at]))
            for task in self.tasks(unit)
        }

    def _all_epochs(self, unit: str) -> dict[str, np.ndarray]:
        """Logits (E, n, C) and margins (E, n) by task, at every saved epoch."""
        said = [self.run(unit, self.units.everywhere(epoch)).answers for epoch in self.units.saved]
        parts = [(task, name) for task in self.tasks(unit) for name in ("logits", "margin")]
        return {
            f"{task}_{name}": np.stack([getattr(each[task], name).numpy() for each in said]) for task, name in parts
        }


def run_of(folder: Path) -> Run:
    """The run that `folder` is, or lies in.

    Raises:
        UserError: if there is none.
    """
    folder = folder.absolute()
    for path in (folder, *folder.parents):
        if (path / "config.yaml").is_file():
            return Run(path)
    raise UserError(f"{folder}: neither a run directory nor inside of one (no config.yaml); name a collected run.")


def open_contributions(run: Run, splits: Iterable[Split], data_dir: str | None = None) -> dict[Split, Contributions]:
    """The contributions of a finished run to some splits.

    Those of single epochs are kept in `units/contributions/`, but for the training split, of which few are asked for.

    Raises:
        UserError: if the run is of another programme, unfinished, or collected no units, if a checkpoint lacks a unit
            or is of another config, or if the data are not what it was trained on.
    """
    if not run.config.module._target_.startswith("redheart."):
        raise UserError(f"{run}: {run.config.name} is no run of redheart.")
    loaded = load_run(run, data_dir)
    units = Units(loaded.module, run.path / "units")
    config = config_hash(run.config)
    check_checkpoints(run, units, config)
    found = {}
    for split in splits:
        name = "select" if split == "val" else split
        cache = {
            "split": name, "fingerprint": loaded.data.fingerprint, "config": config, "torch": torch.__version__,
            "device": loaded.module.device.type, "code": hash_record([getsource(networks), getsource(tasks)]),
        }  # fmt: skip
        found[split] = Contributions(units, list(loaded.data.whole(name)), None if split == "train" else cache)
    return found


def check_checkpoints(run: Run, units: Units, config: str) -> None:
    """Raises UserError unless the run has checkpoints, each of which holds all units and is of this run's config."""
    if not units.saved:
        raise UserError(f"{units.folder}: no checkpoint of units; train with the callback that collects them.")
    for path in units.saved.values():
        manifest = read_manifest(path)
        missing = sorted(units.graph.keys() - manifest["units"].keys())
        if missing:
            raise UserError(f"{path}: lacks unit {', '.join(missing)}; restore the checkpoint or remove its folder.")
        if manifest["config_hash"] != config:
            raise UserError(
                f"{path}: of another config (hash {manifest['config_hash']}, that of {run} is {config}); "
                "a run's units/ holds its own checkpoints only."
            )
