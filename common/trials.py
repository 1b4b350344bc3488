"""A run that is a trial of a study: it reports every epoch, and ends early where the study's pruner says so."""

import lightning
import optuna
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from optuna.samplers import RandomSampler
from optuna.trial import Trial

from common.recorder import Recorder
from common.studies import open_storage


class TrialReporter(Checkpoint):
    """Tells the study the monitored value after every epoch; ends the run early where the pruner says so.

    It is a Lightning `Checkpoint`, placed behind the recorder, because that puts an epoch's values together.

    Args:
        trial: None in processes that do not report.
        recorder: of the run; `recorder.pruned` says afterwards whether the run was ended early.
    """

    def __init__(self, trial: Trial | None, recorder: Recorder):
        self.trial, self.recorder = trial, recorder

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.trial is not None:  # the epochs of a run that this one continues were told of another trial
            for epoch, row in enumerate(self.recorder.rows, start=1):
                self.trial.report(row[self.recorder.monitor], step=epoch)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        prune = False
        if self.trial is not None:
            epochs = len(self.recorder.rows)
            self.trial.report(self.recorder.rows[-1][self.recorder.monitor], step=epochs)
            prune = epochs < trainer.max_epochs and not trainer.should_stop and self.trial.should_prune()
        if trainer.strategy.broadcast(prune):
            self.recorder.pruned = trainer.should_stop = True


def trial_reporter(config: DictConfig, recorder: Recorder) -> list[TrialReporter]:
    """The callback of a run that is a trial; none where there are several objectives, which Optuna does not prune."""
    if config.get("objectives"):
        return []
    return [TrialReporter(running_trial(config) if rank_zero_only.rank == 0 else None, recorder)]


def running_trial(config: DictConfig) -> Trial:
    """The trial that `config.trial` names, as the pruner of the config judges it."""
    pruner = instantiate(config.pruner) or optuna.pruners.NopPruner()
    # the sampler has drawn already; optuna would draw again with the study's own
    study = optuna.load_study(
        study_name=config.study, storage=open_storage(config.trial.storage), sampler=RandomSampler(), pruner=pruner
    )
    number = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, config.trial.number)
    return Trial(study, number)
