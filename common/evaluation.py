"""Judging runs: an analysis reads run directories and writes numbers, tables, figures and a report."""

import json
import logging
from dataclasses import dataclass
from datetime import datetime
from glob import glob
from pathlib import Path
from typing import Literal, get_args

import lightning
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from common.checkpoints import load_network
from common.data import TrunkDataModule
from common.errors import ChecksFailed, UserError
from common.files import write_json
from common.module import TrunkModule
from common.rundir import Run, resolve_run
from common.training import quiet_libraries

log = logging.getLogger(__name__)

Split = Literal["train", "val", "test"]


@dataclass
class LoadedRun:
    """A run with its data and its best weights, ready to predict.

    Attributes:
        module: in evaluation mode, on the GPU if there is one.
    """

    run: Run
    config: DictConfig
    data: TrunkDataModule
    module: TrunkModule


def load_run(run: Run, data_dir: str | None = None, data: TrunkDataModule | None = None) -> LoadedRun:
    """Rebuild a run's data and module from its own config and load its best weights.

    Args:
        data_dir: where relative data paths are looked up today; None keeps the run's own.
        data: the same data if it is loaded already.

    Raises:
        UserError: if the run is unfinished, or its data is not what it was trained on.
    """
    refuse_unfinished(run)
    config = run.config
    if data_dir is not None and "data_dir" in config.data:
        config.data.data_dir = data_dir
    if data is None:
        data = instantiate(config.data, _convert_="all")
        data.setup("fit")
    if data.fingerprint != config.facts.fingerprint:
        raise UserError(
            f"{run}: trained on other data (fingerprint {config.facts.fingerprint}, this is {data.fingerprint}); "
            "point paths.data_dir to the files it was trained on."
        )
    return LoadedRun(run, config, data, load_module(run))


def load_module(run: Run) -> TrunkModule:
    """A finished run's module with its best weights, in evaluation mode, on the GPU if there is one."""
    refuse_unfinished(run)
    config = run.config
    lightning.seed_everything(config.seed, verbose=False)
    module = instantiate(config.module, _convert_="all")
    load_network(module, run.best)
    return module.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def refuse_unfinished(run: Run) -> None:
    """Raises UserError if the run is not finished, with the command that continues it."""
    if not run.finished:
        raise UserError(f"{run}: unfinished ({run.status.get('status', 'unknown')}); `python train.py resume={run}`.")


def evaluate(config: DictConfig) -> dict:
    """Run the analysis that `config` names over the runs it names; returns what it wrote to summary.json.

    An analysis is a function `(runs, split, output, data_dir) -> summary`; it writes its figures and report.md below
    `output`. One over a single run writes into that run, one over several into `outputs/<analysis>/`.

    Raises:
        UserError: for an unknown split, for runs that do not exist, are unfinished, or whose data cannot be found.
        ChecksFailed: if the analysis lists something under `failed` in its summary; all is written by then.
    """
    quiet_libraries()
    if config.split not in get_args(Split):
        raise UserError(f"split={config.split}: choose {', '.join(get_args(Split))}.")
    specs = [config.run] if isinstance(config.run, str) else list(config.run)
    runs = [run for spec in specs for run in _expand(spec, config.paths.output_dir)]
    for run in runs:
        refuse_unfinished(run)
        if config.split == "test":
            log_look(run, config.analysis_name)
    output = _output(runs, config)
    named = ", ".join(map(str, runs)) if len(runs) < 6 else f"{len(runs)} runs"
    named = named or f"study {config.get('study')}"
    log.info(f"{config.analysis_name} on the {config.split} split of {named}")
    analysis = instantiate(config.analysis, _convert_="all", _partial_=True)
    summary = analysis(runs=runs, split=config.split, output=output, data_dir=config.paths.data_dir)
    write_json(output / "summary.json", {"analysis": config.analysis_name, "split": config.split,
                                         "runs": [str(run.path) for run in runs], **summary})  # fmt: skip
    report = output / "report.md"
    if report.is_file():
        print(report.read_text(encoding="utf-8"))
    log.info(f"written to {Run(output)}")
    if summary.get("failed"):
        raise ChecksFailed(f"{', '.join(summary['failed'])}; see {Run(output)}")
    return summary


def log_look(run: Run, analysis: str) -> None:
    """Record in the run that its test split was looked at."""
    looks = run.path / "test_looks.jsonl"
    with open(looks, "a", encoding="utf-8") as file:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        file.write(json.dumps({"time": now, "analysis": analysis}) + "\n")


def _expand(spec: str, output_dir: str) -> list[Run]:
    """The run that `spec` names, or all finished runs of a sweep directory; of all of them, where `*` stands in it."""
    if "*" in spec and (folders := sorted(glob(spec))):
        return [run for folder in folders for run in _expand(folder, output_dir)]
    folder = Path(spec)
    if folder.is_dir() and not (folder / "config.yaml").exists():
        runs = [Run(path.parent) for path in sorted(folder.glob("*/summary.json"))]
        if runs:
            return runs
    return [resolve_run(spec, output_dir)]


def _output(runs: list[Run], config: DictConfig) -> Path:
    name = config.analysis_name.replace("/", "_")
    if len(runs) != 1:
        return Run.create(Path(config.paths.output_dir) / name).path
    stem = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder = runs[0].path / "evaluations"
    number = len(list(folder.glob(f"{stem}*_{name}")))
    path = folder / (f"{stem}_{number}_{name}" if number else f"{stem}_{name}")
    path.mkdir(parents=True)
    return path
