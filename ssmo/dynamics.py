"""How the gradients of supervision and imitation get along, measured on the live graph of a training step.

Source: ssmo specification, section 6, "Dynamics".
"""

import math
import statistics
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

Probe = tuple[float, float, float]
FIGURES = ("conflict_rate", "cos_mean", "cos_std", "gnorm_ratio", "gnorm_ratio_median")


def probe(supervised: Tensor, imitation: Tensor, parameters: Iterable[nn.Parameter]) -> Probe:
    """(⟨g_sup, g_im⟩, ‖g_sup‖, ‖g_im‖) of two scalar losses; the graph, the gradients and the random state stay.

    A parameter that a loss does not reach has gradient zero. Complex parameters count as pairs of real ones.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    ours, theirs = (gradients(loss, parameters) for loss in (supervised, imitation))
    product = sum((a * b).sum().item() for a, b in zip(ours, theirs, strict=True))
    return product, *(sum((a * a).sum().item() for a in each) ** 0.5 for each in (ours, theirs))


def gradients(loss: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """float64 gradients, complex ones as real pairs; a scalar zero where the loss does not reach."""
    if not loss.requires_grad:
        return [torch.zeros(()) for _ in parameters]
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    zero = torch.zeros((), dtype=torch.float64, device=loss.device)
    return [zero if each is None else (torch.view_as_real(each) if each.is_complex() else each).double()
            for each in found]  # fmt: skip


def summarise(probes: Sequence[Probe]) -> dict[str, float]:
    """Figures of an epoch's probes of one model; NaN where they have no meaning.

    Probes where a gradient vanishes (an empty mask) are counted in `probes_empty` and left out of the rest.
    """
    valid = [each for each in probes if each[1] > 0 and each[2] > 0]
    empty = {"probes_empty": float(len(probes) - len(valid))}
    if not valid:
        return empty | dict.fromkeys(FIGURES, math.nan)
    cosines = [product / (ours * theirs) for product, ours, theirs in valid]
    ratios = [theirs / ours for _, ours, theirs in valid]
    return empty | {
        "conflict_rate": sum(product < 0 for product, _, _ in valid) / len(valid),
        "cos_mean": statistics.fmean(cosines),
        "cos_std": statistics.pstdev(cosines),
        "gnorm_ratio": statistics.fmean(ratios),
        "gnorm_ratio_median": statistics.median(ratios),
    }
