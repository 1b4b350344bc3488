"""How the gradients of supervision and imitation get along, measured on the live graph of a training step.

Source: ssmo specification, section 6, "Dynamics".
"""

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

Probe = tuple[float, float, float]
FIGURES = ("conflict_rate", "cos_mean", "cos_std", "gnorm_ratio", "gnorm_ratio_median")


def gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Of a scalar, zero where it does not reach; the graph, the `grad` of parameters and the random state stay."""
    if not loss.requires_grad:
        return [torch.zeros_like(parameter) for parameter in parameters]
    return list(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True))


def probe(total: Sequence[Tensor], imitation: Sequence[Tensor]) -> list[Probe]:
    """(⟨g_sup, g_im⟩, ‖g_sup‖, ‖g_im‖) of S models, from their gradients of supervision + imitation and of imitation.

    A step has the gradient of the sum anyway, so a probe costs one backward pass more, not two. g_sup, the difference,
    is as exact as the sum is; where it is no more than rounding, 1e-6 of g_im, it is zero. Complex parameters count as
    pairs of real ones.

    Args:
        total, imitation: (S, …) of every parameter.
    """
    figures = total[0].new_zeros(3, len(total[0]), dtype=torch.float64)
    for both, theirs in zip(total, imitation, strict=True):
        both, theirs = (torch.view_as_real(each) if each.is_complex() else each for each in (both, theirs))
        both, theirs = both.double().flatten(1), theirs.double().flatten(1)
        ours = both - theirs
        figures += torch.stack([(a * b).sum(1) for a, b in ((ours, theirs), (ours, ours), (theirs, theirs))])
    product, ours, theirs = figures[0], figures[1].sqrt(), figures[2].sqrt()
    rounding = ours <= 1e-6 * theirs
    product, ours = product.masked_fill(rounding, 0.0), ours.masked_fill(rounding, 0.0)
    return list(zip(product.tolist(), ours.tolist(), theirs.tolist(), strict=True))


def summarise(probes: Sequence[Probe]) -> dict[str, float]:
    """Figures of an epoch's probes of one model; NaN where they have no meaning.

    Probes where a gradient vanishes (an empty mask), or overflows in half precision, are counted in `probes_empty` and
    left out of the rest.
    """
    valid = [each for each in probes if each[1] > 0 and each[2] > 0 and math.isfinite(math.fsum(each))]
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
