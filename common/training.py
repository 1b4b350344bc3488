"""One run: a config becomes data and module, takes its parent's weights, is fitted, and leaves a run directory."""

import logging
import os
import resource
import time
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf

from common.checkpoints import AtomicCheckpointIO, load_network
from common.data import TrunkDataModule
from common.distributed import helpers_resume, is_first_process
from common.errors import UserError
from common.files import write_json
from common.matrix import run_matrix
from common.module import TrunkModule
from common.parents import INHERITED, find_parent
from common.recorder import Diverged, GracefulStop, Recorder, Stopped
from common.rundir import Run, first_line, objectives_of
from common.schema import validate

log = logging.getLogger(__name__)

SUMMARY_VERSION = 1


def train(config: DictConfig) -> float | tuple[float, ...] | None:
    """Train the run that `config` describes, or continue the one that `resume` names; returns its best monitored value.

    Where the config names `objectives`, it returns these instead, at that epoch; None in a process that only helps. A
    config with a matrix describes many runs, see `common.matrix`.

    Raises:
        UserError: for a mistake in the config or the data; nothing that was on disk is lost.
        Diverged: if the loss stops being finite.
        SystemExit: with code 143 after SIGTERM and 130 after Ctrl-C; `resume` continues such a run.
    """
    quiet_libraries()
    _use_requested_threads()
    typed = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    with GracefulStop() as stop:
        if config.resume is not None:
            run, config = _resumed(config.resume, typed)
            if not is_first_process():
                return _help(config, run, stop)
            if run.finished:
                log.info(f"{run} is finished; nothing to resume")
                return run.summary["objective"]
        else:
            if "matrix" in config:
                return run_matrix(config, typed)
            validate(config)
            run = _new_run(config)
        summary = train_run(config, run, stop, typed).summary
        return tuple(objectives_of(summary, config.objectives)) if config.get("objectives") else summary["objective"]


def _use_requested_threads() -> None:
    """Compute with as many threads as the launcher asked cores for this job, if it says."""
    if HydraConfig.initialized():
        launcher = HydraConfig.get().launcher  # keys of submitit's and of ray's
        cores = OmegaConf.select(launcher, "cpus_per_task") or OmegaConf.select(launcher, "ray.remote.num_cpus")
        if cores:
            torch.set_num_threads(int(cores))


def train_run(
    config: DictConfig, run: Run, stop: GracefulStop, typed: list[str], data: TrunkDataModule | None = None,
    reporter: Callback | None = None,
) -> Run:  # fmt: skip
    """Train or continue one run in its directory; the directory tells how it ended, however it ends.

    Args:
        typed: words of the command line, for overrides.yaml.
        data: to be shared between runs; None makes that of the config.
        reporter: a callback that tells others of the run, beside those of the config.
    """
    config = config.copy()
    config.run_dir, config.resume = str(run.path), None
    with run.held():
        if run.finished:  # by another process, while this one was on its way here
            return run
        log.info(f"{config.name}: {run}")
        if not (run.path / "config.yaml").exists():
            run.write_config(config, typed)
        run.write_status("running")
        try:
            _fit(config, run, stop, typed, data, reporter)
        except Stopped:
            run.write_status("interrupted", signal=stop.signal.name)
            log.warning(f"interrupted; continue with `python train.py resume={run}`")
            raise SystemExit(128 + stop.signal) from None
        except Diverged as error:
            run.write_status("diverged", error=first_line(error))
            raise
        except Exception as error:
            run.write_status("failed", error=first_line(error))
            raise
        run.write_status("pruned" if run.summary.get("pruned") else "done")
        log.info(f"{config.name}: {config.monitor} {run.summary['objective']:.4f}  → {run}")
    return run


def _fit(
    config: DictConfig, run: Run, stop: GracefulStop, typed: list[str], data: TrunkDataModule | None,
    reporter: Callback | None,
) -> None:  # fmt: skip
    data = data or instantiate(config.data, _convert_="all")
    data.setup("fit")
    _check_unchanged(data, run)
    add_facts(config, data)
    validate(config)
    parent = None
    if not run.last.is_file():
        inherited = [word for word in typed if word.lstrip("+~").split("=")[0].split(".")[0] in INHERITED]
        parent = find_parent(config, partial(_train_parent, stop=stop, typed=inherited, data=data))
    lightning.seed_everything(config.seed, verbose=False)  # here, so that it matters not whether a parent was trained
    module: TrunkModule = instantiate(config.module, _convert_="all")
    if parent is not None:
        parent.weights = load_network(module, parent.checkpoint)
    module.freeze()
    trainer, recorder = _trainer(config, reporter)
    recorder.stop = stop
    run.write_config(config, typed)
    before = run.environment if run.last.is_file() else {"parent": parent and parent.as_dict()}
    run.write_environment(
        device=str(trainer.strategy.root_device), seed=config.seed, num_threads=torch.get_num_threads(),
        data_source=data.data_source, fingerprint=data.fingerprint, parent=before["parent"],
    )  # fmt: skip
    started = time.monotonic()
    stop.fitting = True
    try:
        with helpers_resume(trainer, run):
            trainer.fit(module, datamodule=data, ckpt_path=run.last if run.last.is_file() else None)
    finally:
        stop.fitting = False
    write_summary(config, run, data, module, recorder, time.monotonic() - started)


def _help(config: DictConfig, run: Run, stop: GracefulStop) -> None:
    """Fit beside the process that keeps the run directory; the weights to start from come from there."""
    logging.getLogger().setLevel(logging.WARNING)
    data = instantiate(config.data, _convert_="all")
    data.setup("fit")
    lightning.seed_everything(config.seed, verbose=False)
    module: TrunkModule = instantiate(config.module, _convert_="all")
    module.freeze()
    trainer, recorder = _trainer(config)
    recorder.stop, stop.fitting = stop, True
    with suppress(Stopped):
        trainer.fit(module, datamodule=data, ckpt_path=run.last if run.last.is_file() else None)


def _train_parent(config: DictConfig, unfinished: Run | None, **context: Any) -> Run:
    validate(config)
    context["typed"] = [f"experiment={config.name}", *context["typed"]]
    return train_run(config, unfinished or Run.create(Path(config.paths.output_dir) / config.name), **context)


def _new_run(config: DictConfig) -> Run:
    hydra_config = HydraConfig.get() if HydraConfig.initialized() else None
    if hydra_config is not None and hydra_config.mode is RunMode.MULTIRUN:
        return Run(Path(hydra_config.runtime.output_dir))
    # a trial that another engine starts lies with the others of its study
    folder = config.name if config.get("study") is None else f"studies/{config.study}"
    return Run.create(Path(config.paths.output_dir) / folder)


def _resumed(directory: str, typed: list[str]) -> tuple[Run, DictConfig]:
    extra = [word for word in typed if not word.startswith("resume=")]
    if extra:
        raise UserError(f"resume={directory}: a run continues as it was begun; leave out {', '.join(extra)}.")
    run = Run(directory)
    config = run.config
    if "run_dir" not in config:
        raise UserError(f"resume={directory}: its config.yaml was not written by train.py.")
    if is_first_process():
        config.pop("trial", None)  # the study gave it up when it was interrupted
    return run, config


def add_facts(config: DictConfig, data: TrunkDataModule) -> None:
    """Put what only the data knows into the config, so that all of it can be resolved."""
    facts = {**data.facts, "fingerprint": data.fingerprint, "data_source": data.data_source}
    OmegaConf.update(config, "facts", facts, merge=False, force_add=True)


def _check_unchanged(data: TrunkDataModule, run: Run) -> None:
    begun = run.config.get("facts", {}).get("fingerprint", data.fingerprint)
    if begun != data.fingerprint:
        raise UserError(
            f"{run}: the data has changed since the run began (fingerprint {begun} then, "
            f"{data.fingerprint} now); start a new run."
        )


def _trainer(config: DictConfig, reporter: Callback | None = None) -> tuple[lightning.Trainer, Recorder]:
    callbacks = [instantiate(node, _convert_="all") for node in config.callbacks.values()]
    callbacks += [reporter] if reporter is not None else []
    loggers = [instantiate(node, _convert_="all") for node in config.logger.values()]
    recorder = next(callback for callback in callbacks if isinstance(callback, Recorder))
    if config.get("trial") is not None:
        from common.trials import trial_reporter  # imports optuna, which other runs do not need

        callbacks += trial_reporter(config, recorder)
    trainer = instantiate(
        config.trainer, callbacks=callbacks, logger=loggers or False, plugins=[AtomicCheckpointIO()],
        default_root_dir=config.run_dir, _convert_="all",
    )  # fmt: skip
    if not torch.cuda.is_available():
        # Lightning asks for a check that survives forks; with it, every step of an optimiser looks for a driver on disk
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    return trainer, recorder


def write_summary(
    config: DictConfig, run: Run, data: TrunkDataModule, module: TrunkModule, recorder: Recorder, fit_time_s: float
) -> None:
    """Write summary.json, which makes the run a finished one."""
    row, sizes = recorder.best_row, data.facts.get("num_samples", {})
    metrics = {
        name: {"value": value, "split": name.partition("/")[0], "n": sizes.get(name.partition("/")[0])}
        for name, value in row.items()
        if "/" in name
    }
    write_json(
        run.path / "summary.json",
        {
            "schema_version": SUMMARY_VERSION,
            "experiment": config.name,
            "seed": config.seed,
            "data_source": data.data_source,
            "fingerprint": data.fingerprint,
            "monitor": config.monitor,
            "objective": row[config.monitor],
            "best_epoch": row["epoch"] + 1,
            "epochs": len(recorder.rows),
            **({"pruned": True} if recorder.pruned else {}),
            "metrics": metrics,
            "num_parameters": sum(parameter.numel() for parameter in module.network.parameters()),
            "fit_time_s": round(fit_time_s, 2),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        },
    )


def quiet_libraries() -> None:
    """Silence advice of the libraries that is not for our users; warnings of their own mistakes stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*LeafSpec.*is deprecated.*",
        ".*does not have many workers.*",
        ".*Found .* module.* in eval mode.*",
        ".*in eval mode at the start of training.*",
        ".*ended before the epoch ended and your dataloader is not resumable.*",  # ours are, see common.data
        ".*number of training batches .* is smaller than the logging interval.*",
        ".*trying to infer the `batch_size`.*",
        ".*lr_scheduler.step.*before.*optimizer.step.*",
        ".*overridden `on_after_batch_transfer` in `LightningModule`.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*recommended to use .*sync_dist=True.*",  # every process validates on all samples
    ):
        warnings.filterwarnings("ignore", message=message)
