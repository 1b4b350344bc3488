"""W&B's logger as a run here needs it."""

from lightning.pytorch.loggers import WandbLogger


class RunWandbLogger(WandbLogger):
    """Ends with the run: Lightning's own leaves that to the end of the process, and the next run of a sweep in the same
    process is then written into the first one's log.

    Args:
        save_dir: folder that gets `wandb/`.
        project: of W&B.
        offline: keep everything here, for `wandb sync`.
    """

    def __init__(self, save_dir: str, project: str, offline: bool = True):
        super().__init__(save_dir=save_dir, project=project, offline=offline)

    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self._experiment is not None:  # only the first of several processes has one
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None
