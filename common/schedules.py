"""Learning-rate schedules: the factor on the base rate as a function of training progress."""

import math


def constant(epoch: float, epochs: int) -> float:
    """1 throughout."""
    return 1.0


def cosine(epoch: float, epochs: int, warmup_epochs: float = 0.0, floor: float = 0.0) -> float:
    """Linear from near 0 to 1 over `warmup_epochs`, then half a cosine down to `floor` at the end.

    Args:
        epoch: epochs done, fractional within an epoch.
        epochs: epochs in all.
    """
    if epoch < warmup_epochs:
        return (epoch + 1e-3) / (warmup_epochs + 1e-3)
    progress = min(1.0, (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def step(epoch: float, epochs: int, every_epochs: int = 5, factor: float = 0.5) -> float:
    """Multiplied by `factor` after every `every_epochs` whole epochs."""
    return factor ** (int(epoch) // every_epochs)


def exponential(epoch: float, epochs: int, warmup_epochs: float = 0.0, floor: float = 0.01) -> float:
    """As `cosine`, but falling by the same factor in every epoch, to `floor` (above 0) at the end."""
    if epoch < warmup_epochs:
        return cosine(epoch, epochs, warmup_epochs)
    return floor ** min(1.0, (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9))


def stairs(epoch: float, epochs: int, warmup_epochs: float = 0.0, floor: float = 0.01) -> float:
    """As `exponential`, but in three equal steps, the last of them at `floor`."""
    if epoch < warmup_epochs:
        return cosine(epoch, epochs, warmup_epochs)
    progress = (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9)
    return floor ** (min(2, int(3 * progress)) / 2)
