"""`analysis=kfashion/sanity`: whether an encoder does what every later figure takes for granted.

Source: kfashion specification, section 9.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from common.evaluation import Split, load_run
from common.files import plain, write_json, write_text
from common.report import format_table
from common.rundir import Run
from kfashion.augment import emptied
from kfashion.judging import encode, one_run, point_latest, stamped, view
from kfashion.losses import ContrastiveLoss
from kfashion.module import AlignmentModule
from kfashion.networks import OUTPUT_DIM
from kfashion.records import FIELDS, MULTI, UNKNOWN, Codes, RecordBatch
from kfashion.retrieval import Items, rank

TOLERANCE = 1e-6
NORM_TOLERANCE = 1e-4
OVERFITTED, STEPS = 32, 300
Check = dict[str, Any]


def sanity(runs: list[Run], split: Split, output: Path, data_dir: str | None) -> dict[str, Any]:
    """Every check with what it measured; `SANITY CHECK PASS` only if all pass, else exit code 1.

    Raises:
        UserError: for more than one run.
    """
    loaded = load_run(one_run(runs, "sanity"), data_dir)
    judged = view(loaded, split, loaded.module.network)
    data = loaded.data.datasets[split]
    batch = data[np.arange(min(64, len(data)))]
    network = loaded.module.network
    checks = [
        _check("512 numbers", judged.attribute.shape[1] == OUTPUT_DIM, judged.attribute.shape[1]),
        _check("length 1", (error := _norm_error(judged.attribute)) < NORM_TOLERANCE, error),
        *(_field_changes(network, batch.codes, field) for field in FIELDS),
        _mask_invariance(network, batch.codes),
        _batch_consistency(network, batch.codes),
        _unknown_tokens(network, batch.codes),
        *_gradients(network, batch),
        *_overfitting(network, data[_distinct(loaded.data.records.attr_key[torch.from_numpy(data.index)])]),
        _image_side(loaded.module, loaded.data, loaded.config.facts.encoder),
    ]
    failed = [each["check"] for each in checks if not each["passed"]]
    line = result_line(failed)
    summary = plain({**stamped(judged, split), "result": line, "checks": checks, "failed": failed})
    write_json(output / "temp_logs" / "sanity_check_results.json", summary)
    rows = [[each["check"], "pass" if each["passed"] else "FAIL", f"{each['measured']:.3g}"] for each in checks]
    write_text(output / "report.md", f"{format_table(rows, ['check', 'result', 'measured'])}\n{line}\n")
    point_latest(output)
    return summary


def result_line(failed: list[str]) -> str:
    """`SANITY CHECK PASS` if no check failed."""
    return f"SANITY CHECK FAIL: {', '.join(failed)}" if failed else "SANITY CHECK PASS"


def _check(name: str, passed: bool, measured: float) -> Check:
    return {"check": name, "passed": bool(passed), "measured": float(measured)}


def _norm_error(vectors: np.ndarray) -> float:
    return float(np.abs(np.linalg.norm(vectors, axis=1) - 1).max())


@torch.inference_mode()
def _vectors(network: nn.Module, codes: Codes) -> Tensor:
    device = next(network.parameters()).device
    return network.eval()({field: code.to(device) for field, code in codes.items()}).cpu()


def _field_changes(network: nn.Module, codes: Codes, field: str) -> Check:
    """The least that any record moves when it gets another token of one field, or none, where it has one."""
    code = codes[field]
    everything = torch.ones(len(code), dtype=torch.bool)
    unknown = torch.full_like(code, UNKNOWN) if code.dim() == 1 else pad(code, (0, 1), value=UNKNOWN)
    before = _vectors(network, codes)
    moved = [(_vectors(network, codes | {field: each}) - before).abs().amax(1) for each in
             (unknown, emptied(code, everything))]  # fmt: skip
    least = torch.stack(moved).amax(0).min().item()
    return _check(f"{field} changes the output", least > 10 * TOLERANCE, least)


def _mask_invariance(network: nn.Module, codes: Codes) -> Check:
    changed = codes | {field: pad(codes[field].flip(1), (1, 2)) for field in MULTI}
    error = (_vectors(network, codes) - _vectors(network, changed)).abs().max().item()
    return _check("order and padding change nothing", error <= TOLERANCE, error)


def _batch_consistency(network: nn.Module, codes: Codes) -> Check:
    alone = torch.cat([_vectors(network, {field: codes[field][row : row + 1] for field in FIELDS})
                       for row in range(len(codes["category"]))])  # fmt: skip
    error = (_vectors(network, codes) - alone).abs().max().item()
    return _check("alone as in a batch", error <= TOLERANCE, error)


def _unknown_tokens(network: nn.Module, codes: Codes) -> Check:
    unknown = {field: torch.where(code > UNKNOWN, UNKNOWN, code) for field, code in codes.items()}
    vectors = _vectors(network, unknown)
    return _check("unknown tokens are accepted", bool(vectors.isfinite().all()), _norm_error(vectors.numpy()))


def _gradients(network: nn.Module, batch: RecordBatch) -> list[Check]:
    network = deepcopy(network).cpu().requires_grad_(True).train()
    image = batch.image_embedding.clone().requires_grad_(False)
    loss = ContrastiveLoss()(network(batch.codes), image, batch.attr_key)
    loss.backward()
    still = [name for name, each in network.named_parameters() if each.grad is None or not each.grad.any()]
    return [
        _check("the loss is finite", bool(loss.isfinite()), loss.item()),
        _check(f"every tensor has a gradient{'' if not still else f' ({still[0]} has none)'}", not still, len(still)),
        _check("none on the image side", image.grad is None, 0.0),
    ]


def _distinct(keys: Tensor) -> np.ndarray:
    """Rows of the first records that differ."""
    return np.sort(np.unique(keys.numpy(), return_index=True)[1])[:OVERFITTED]


def _overfitting(network: nn.Module, batch: RecordBatch) -> list[Check]:
    """Fresh weights learn a few different records by heart."""
    network = deepcopy(network).cpu().requires_grad_(True)
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    optimizer, loss, losses = torch.optim.Adam(network.parameters(), lr=3e-3), ContrastiveLoss(), []
    network.eval()  # without dropout: by heart
    for _ in range(STEPS):
        optimizer.zero_grad()
        losses.append(loss(network(batch.codes), batch.image_embedding, batch.attr_key))
        losses[-1].backward()
        optimizer.step()
    keys = batch.attr_key.numpy()
    items = Items(keys, keys, keys, keys)
    found = rank(encode(network, batch.codes), batch.image_embedding.numpy(), items, items, ["attr"])["attr"]
    hit = float(found.metrics["hit_at_1"].mean())
    return [
        _check("the loss falls", losses[-1] < losses[0], losses[-1].item() - losses[0].item()),
        _check(f"{len(keys)} records by heart: Hit@1 above 0.95", hit > 0.95, hit),
    ]


def _image_side(module: AlignmentModule, data: Any, encoder: str) -> Check:
    trainable = sum(each.numel() for each in data.encoder.network.parameters() if each.requires_grad)
    inside = {id(each) for each in module.parameters()} & {id(each) for each in data.encoder.network.parameters()}
    unchanged = data.encoder.id == encoder  # the id holds a checksum of all weights
    return _check("the image encoder is frozen and unchanged", unchanged and not trainable and not inside, trainable)
