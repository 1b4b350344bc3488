"""One model made of units from different epochs, or from averages of epochs.

Source: redheart specification, section 7. Recompute batch-norm statistics after averaging if a unit has any; no unit of
this programme does.
"""

import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from common.errors import UserError, nearest
from common.files import read_json, write_text
from common.report import format_table
from common.rundir import Run, display, git_state
from common.unit_files import MANIFEST, read_manifest, read_unit, saved_epochs, unit_file, write_units

Checkpoint = int | Path
MODEL = "model"  # subfolder of a combined model where the files of its units lie
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
STATISTICS = ("running_mean", "running_var")
EPOCH = re.compile(r"\d+")
BETWEEN = re.compile(r"(\d+):(\d+)@([0-9.]+)")
WEIGHTED = re.compile(r"(\d+)(?:\*([0-9.]+(?:e-?\d+)?))?")


@dataclass(frozen=True)
class Source:
    """Where a unit's weights come from: the weighted mean of one or more checkpoints.

    Attributes:
        weights: checkpoints in ascending order with their positive weights, which add up to 1. A checkpoint is an epoch
            of the run at hand, or the folder of any other checkpoint of units.
    """

    weights: tuple[tuple[Checkpoint, float], ...]

    @classmethod
    def mean(cls, checkpoints: Iterable[Checkpoint], weights: Sequence[float] | None = None) -> "Source":
        """The mean of checkpoints, weighted if `weights` are given; their order does not matter.

        Raises:
            UserError: if there is none, one is named twice, or the weights do not fit or are no positive numbers.
        """
        checkpoints = list(checkpoints)
        weights = [1.0] * len(checkpoints) if weights is None else list(weights)
        named = ", ".join(map(str, checkpoints))
        if not checkpoints or len(set(checkpoints)) < len(checkpoints):
            raise UserError(f"mean of epochs {named or '(none)'}: need one epoch or more, each named once.")
        if len(weights) != len(checkpoints) or not all(0 < weight < math.inf for weight in weights):
            raise UserError(f"mean of epochs {named}: need a weight above 0 for each; got {weights}.")
        pairs = sorted(zip(checkpoints, weights), key=lambda pair: (isinstance(pair[0], Path), pair[0]))
        total = math.fsum(weights)
        return cls(tuple((checkpoint, weight / total) for checkpoint, weight in pairs))

    @classmethod
    def between(cls, start: Checkpoint, end: Checkpoint, alpha: float) -> "Source":
        """(1 − alpha) × start + alpha × end, for alpha in [0, 1]."""
        if not 0 <= alpha <= 1:
            raise UserError(f"{start}:{end}@{alpha}: the last number must lie between 0 and 1.")
        if alpha in (0, 1) or start == end:
            return cls.mean([end if alpha == 1 else start])
        return cls.mean([start, end], [1 - alpha, alpha])

    @classmethod
    def parse(cls, text: str | int, unit: str) -> "Source":
        """What `44`, `30,32,34`, `30*2,32*1` (weights), `20:40@0.3` or the path of a checkpoint's folder or of the
        unit's file in it name.

        Raises:
            UserError: if it is none of these, the file is another unit's, or a pickle.
        """
        text = str(text).replace(" ", "")
        if match := BETWEEN.fullmatch(text):
            return cls.between(int(match[1]), int(match[2]), _number(match[3], text))
        parts = [WEIGHTED.fullmatch(part) for part in text.split(",")]
        if all(parts):
            weights = [_number(match[2] or "1", text) for match in parts]
            return cls.mean([int(match[1]) for match in parts], weights)
        return cls.mean([_checkpoint_of(Path(text), unit)])

    @property
    def checkpoints(self) -> list[Checkpoint]:
        return [checkpoint for checkpoint, _ in self.weights]

    def __str__(self) -> str:
        """The text that `parse` understands, where all checkpoints are epochs."""
        if len({weight for _, weight in self.weights}) == 1:
            return ",".join(map(str, self.checkpoints))
        return ",".join(f"{checkpoint}*{weight:.12g}" for checkpoint, weight in self.weights)


Recipe = Mapping[str, Source]


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{where}: {text} is no number.") from None


def _checkpoint_of(path: Path, unit: str) -> Path:
    """The folder of the checkpoint that `path` or the unit's file at `path` belongs to."""
    if path.suffix in PICKLES:
        raise UserError(f"{path}: refused, it may hold pickled code; convert it with "
                        "`python -m redheart.convert_checkpoint` and name the folder that it writes.")  # fmt: skip
    if path.is_dir():
        return path
    if path.suffix != ".safetensors" or not path.is_file():
        raise UserError(f"{path}: source of {unit}: no such epoch, folder or .safetensors file. Write 44, 30,32,34, "
                        "20:40@0.3 or a path.")  # fmt: skip
    if path.stem != unit:
        raise UserError(f"{path}: holds unit {path.stem}, but is given as {unit}.")
    return path.parent.parent if path.parent.name == MODEL else path.parent


def soup(units: Iterable[str], checkpoints: Iterable[Checkpoint]) -> dict[str, Source]:
    """The recipe that takes every unit from the uniform mean of the same checkpoints."""
    return dict.fromkeys(units, Source.mean(checkpoints))


def locate(folder: Path | None, checkpoint: Checkpoint) -> Path:
    """The folder of a checkpoint.

    Args:
        folder: the collection that epochs are looked up in; None if there is none.

    Raises:
        UserError: if that epoch was not saved, naming those that were.
    """
    if isinstance(checkpoint, Path):
        return checkpoint
    if folder is None:
        raise UserError(f"epoch {checkpoint}: of which run? Name the folder that holds its epochs (--checkpoint-dir).")
    path = folder / f"epoch_{checkpoint:04d}"
    if not (path / MANIFEST).is_file():
        saved = ", ".join(map(str, saved_epochs(folder))) or "none"
        raise UserError(f"{folder}: no complete checkpoint of epoch {checkpoint}. Saved: {saved}.")
    return path


def blend(folder: Path | None, unit: str, source: Source) -> dict[str, Tensor]:
    """The state of one unit: a single checkpoint's bit by bit, else the weighted mean.

    Floating-point tensors are averaged in float32 and keep their type; of all others the last checkpoint's are taken.
    One tensor more than the result is held at a time.

    Raises:
        UserError: as `locate` and `common.unit_files.unit_file`; if batch-norm statistics would be averaged.
    """
    paths = [locate(folder, checkpoint) for checkpoint in source.checkpoints]
    if len(paths) == 1:
        return read_unit(paths[0], unit)
    with ExitStack() as stack:
        opened = [safe_open(unit_file(path, unit), "pt", backend="pread") for path in paths]
        files = [stack.enter_context(file) for file in opened]
        keys = list(files[0].keys())
        normed = next((key for key in keys if key.endswith(STATISTICS)), None)
        if normed is not None:
            raise UserError(f"unit {unit}: {normed} cannot be averaged: batch-norm statistics must be recomputed.")
        weights = [weight for _, weight in source.weights]
        return {key: _mean((file.get_tensor(key) for file in files), weights) for key in keys}


def _mean(tensors: Iterator[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean in float32 or better, in the tensors' type; the last of tensors of whole numbers.

    Updated one by one, so that the mean of equal tensors is that tensor exactly.
    """
    mean, total = next(tensors), weights[0]
    dtype = mean.dtype
    if not dtype.is_floating_point:
        return [mean, *tensors][-1]
    mean = mean.to(torch.promote_types(dtype, torch.float32))
    for tensor, weight in zip(tensors, weights[1:]):
        total += weight
        mean.lerp_(tensor.to(mean.dtype), weight / total)
    return mean.to(dtype)


def check(
    recipe: Recipe,
    manifests: Mapping[Checkpoint, Mapping[str, Any]],
    allow_dependent_mix: bool = False,
    allow_cross_run: bool = False,
) -> bool:
    """Whether the recipe mixes sources inside a dependency group; no file of a unit is opened.

    Args:
        manifests: of every checkpoint that the recipe names.
        allow_dependent_mix: a group may have several sources.
        allow_cross_run: groups may come from different runs, each of them whole from one: weights of different runs
            share no coordinates, so that their mean means nothing.

    Raises:
        UserError: if units are missing or unknown, checkpoints are of different models, or a mix is not allowed.
    """
    first = next(iter(manifests.values()))
    _check_model(manifests)
    unknown = next((unit for unit in recipe if unit not in first["units"]), None)
    if unknown is not None:
        raise UserError(f"recipe: no unit {unknown}.{nearest(unknown, first['units'])} "
                        f"There are {', '.join(first['units'])}.")  # fmt: skip
    missing = [unit for unit in first["units"] if unit not in recipe]
    if missing:
        raise UserError(f"recipe: no source for {', '.join(missing)}; name one, or an epoch to fill from (fill_from).")
    _check_runs(recipe, manifests, first["groups"], allow_cross_run)
    mixed = {name: units for name, units in first["groups"].items() if len({recipe[unit] for unit in units}) > 1}
    if mixed and not allow_dependent_mix:
        units = next(iter(mixed.values()))
        raise UserError(f"recipe: {', '.join(f'{unit} from {recipe[unit]}' for unit in units)}: they depend on one "
                        "another; take them from one source, or allow the mix (allow_dependent_mix).")  # fmt: skip
    return bool(mixed)


def _check_model(manifests: Mapping[Checkpoint, Mapping[str, Any]]) -> None:
    """Raises UserError if the checkpoints' units, or names, shapes and types of their tensors differ."""
    (name, first), *others = manifests.items()
    for other, manifest in others:
        ours, theirs = first["units"], manifest["units"]
        odd = min(ours.keys() ^ theirs.keys(), default=None)
        if odd is not None:
            raise UserError(f"{_named(name)} and {_named(other)} are of different models: only one has unit {odd}.")
        for unit, entry in ours.items():
            if entry["keys_hash"] != theirs[unit]["keys_hash"]:
                raise UserError(f"unit {unit} of {_named(name)} and of {_named(other)}: names, shapes or types of the "
                                "tensors differ; they are of different models.")  # fmt: skip


def _check_runs(
    recipe: Recipe, manifests: Mapping[Checkpoint, Mapping[str, Any]], groups: Mapping[str, list[str]], allowed: bool
) -> None:
    """Raises UserError if several runs meet where they may not."""
    run_of = {checkpoint: manifest.get("config_hash") for checkpoint, manifest in manifests.items()}
    if len(set(run_of.values())) == 1:
        return
    if not allowed:
        named = ", ".join(f"{_named(checkpoint)} (config_hash {run})" for checkpoint, run in run_of.items())
        raise UserError(f"recipe: checkpoints of different runs: {named}. Take all from one run, or allow whole groups "
                        "from each (allow_cross_run).")  # fmt: skip
    for units in groups.values():
        used = {checkpoint for unit in units for checkpoint in recipe[unit].checkpoints}
        if len({run_of[checkpoint] for checkpoint in used}) > 1:
            named = ", ".join(_named(each) for each in sorted(used, key=str))
            raise UserError(f"recipe: {', '.join(units)} from different runs ({named}): a group must come whole from "
                            "one run; runs can be neither averaged nor mixed inside a group.")  # fmt: skip


def _named(checkpoint: Checkpoint) -> str:
    return f"epoch {checkpoint}" if isinstance(checkpoint, int) else display(checkpoint)


def combine(
    folder: Path | None,
    recipe: Recipe,
    output: Path,
    fill_from: Source | None = None,
    allow_dependent_mix: bool = False,
    allow_cross_run: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write model/<unit>.safetensors and manifest.json below `output`; returns the manifest.

    Every source is hashed before anything is written, one unit at a time is held, and `output` changes only when all of
    them are on disk. What else lies there stays.

    Args:
        folder: the collection that epochs are looked up in.
        fill_from: source of the units that the recipe leaves out.
        overwrite: replace a combined model that has another recipe or other sources.

    Raises:
        UserError: as `check`, `blend` and `common.unit_files.unit_file`; if `output` holds another model.
    """
    sources = [*recipe.values(), *([] if fill_from is None else [fill_from])]
    if not sources:
        raise UserError("recipe: empty; name a source for every unit, or an epoch to fill from (fill_from).")
    manifests = {each: read_manifest(locate(folder, each)) for source in sources for each in source.checkpoints}
    first = next(iter(manifests.values()))
    if fill_from is not None:
        recipe = dict.fromkeys(first["units"], fill_from) | dict(recipe)
    mixed = check(recipe, manifests, allow_dependent_mix, allow_cross_run)
    recipe = {unit: recipe[unit] for unit in first["units"]}
    facts = {
        "recipe": {unit: str(source) for unit, source in recipe.items()}, "dependent_mix": mixed,
        "sources": {unit: _provenance(folder, unit, source, manifests) for unit, source in recipe.items()},
    }  # fmt: skip
    _refuse_other(output, facts, overwrite)
    runs = {manifest.get("config_hash") for manifest in manifests.values()}
    facts |= {"config_hash": runs.pop() if len(runs) == 1 else None, "code_version": git_state()["git_commit"],
              "torch": torch.__version__}  # fmt: skip
    states = ((unit, blend(folder, unit, source)) for unit, source in recipe.items())
    dtype = next(iter(first["units"].values()))["dtype"]
    _replace(output, lambda temporary: write_units(temporary, states, first["groups"], dtype, MODEL, **facts))
    return read_manifest(output)


def _provenance(
    folder: Path | None, unit: str, source: Source, manifests: Mapping[Checkpoint, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What a unit is made of, whose files are hashed for it."""
    return [
        {
            "file": str(unit_file(locate(folder, each), unit, rehash=True)), "weight": weight,
            "sha256": manifests[each]["units"][unit]["sha256"], "epoch": manifests[each].get("epoch"),
            "config_hash": manifests[each].get("config_hash"), "seed": manifests[each].get("seed"),
        }
        for each, weight in source.weights
    ]  # fmt: skip


def _refuse_other(output: Path, facts: Mapping[str, Any], overwrite: bool) -> None:
    if output.suffix in PICKLES or output.is_file():
        raise UserError(f"{output}: the output is a folder of safetensors files; name a folder.")
    if overwrite or not ((output / MANIFEST).exists() or (output / MODEL).exists()):
        return
    try:
        there = read_json(output / MANIFEST)
        same = all(there.get(name) == facts[name] for name in ("recipe", "sources"))
    except (OSError, ValueError, AttributeError):
        same = False
    if not same:
        raise UserError(f"{output}: holds another model, which would be lost; name another folder, or pass overwrite.")


def _replace(output: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder, and put what it wrote in the place of the model in `output`."""
    temporary = output / f".combining.{os.getpid()}"
    try:
        write(temporary)
        (output / MANIFEST).unlink(missing_ok=True)  # without it, what a kill leaves here counts as incomplete
        shutil.rmtree(output / MODEL, ignore_errors=True)
        os.replace(temporary / MODEL, output / MODEL)
        os.replace(temporary / MANIFEST, output / MANIFEST)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def combine_run(
    runs: list[Run],
    split: str,
    output: Path,
    data_dir: str | None,
    recipe: dict[str, int | str] | None,
    fill_from: int | str | None = None,
    allow_dependent_mix: bool = False,
    allow_cross_run: bool = False,
) -> dict[str, Any]:
    """The combination of a collected run's units, as an analysis of `evaluate.py`; no row of any split is read.

    Args:
        recipe: by unit, a source in the words of `Source.parse`.
        fill_from: the same, for all units that the recipe leaves out.

    Raises:
        UserError: for several runs, or as `combine`.
    """
    if len(runs) != 1:
        raise UserError(f"analysis=redheart/combine combines the epochs of one run; {len(runs)} given.")
    sources = {unit: Source.parse(text, unit) for unit, text in (recipe or {}).items()}
    filling = None if fill_from is None else Source.parse(fill_from, "fill_from")
    folder = runs[0].path / "units"
    manifest = combine(folder, sources, output, filling, allow_dependent_mix, allow_cross_run)
    write_text(output / "report.md", report(manifest))
    return {name: manifest[name] for name in ("recipe", "dependent_mix", "config_hash")}


def report(manifest: Mapping[str, Any]) -> str:
    """What a combined model is made of, as markdown."""
    units, recipe = manifest["units"], manifest["recipe"]
    group_of = {unit: name for name, members in manifest["groups"].items() for unit in members}
    rows = [[unit, group_of[unit], recipe[unit], entry["numel"]] for unit, entry in units.items()]
    mixed = "\nUnits that depend on one another come from different sources.\n" if manifest["dependent_mix"] else ""
    return "# Combined model\n\n" + format_table(rows, ["unit", "group", "from", "parameters"]) + mixed
