"""`analysis=kfashion/augmentation`: records and pictures beside what augmentation makes of them."""

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import torch
from pydantic import Field

from common.evaluation import Split
from common.files import plain, write_json, write_text
from common.report import format_table
from common.rundir import Run
from kfashion.augment import RecordAugmentation, mix_vectors
from kfashion.figures import save_grid
from kfashion.judging import Judged, judge, one_run, point_latest, results, stamped
from kfashion.records import code_keys
from kfashion.views import PICTURES, View
from kfashion.views import changed as changed_picture

RATES = {"field_dropout": 0.2, "synonym": 1.0, "mixing": 0.5, "emphasis": 1.0}
MIXUP = 0.2
GRID = "augmented_pictures.png"
Count = Annotated[int, Field(ge=1, le=100)]


def augmentation(
    runs: list[Run], split: Split, output: Path, data_dir: str | None, num_samples: Count = 5
) -> dict[str, Any]:
    """Samples of every kind of augmentation, how many records it changed, and what MixUp does to cosines.

    Args:
        num_samples: changed records shown of each kind, and pictures.

    Raises:
        UserError: for more than one run.
    """
    judged = judge(one_run(runs, "augmentation"), split, data_dir)
    data, vocabulary = judged.data, judged.data.vocabulary
    batch = data.datasets[split][np.arange(len(judged.rows))]
    samples, changed = [], {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, rate in RATES.items():
            codes = RecordAugmentation(**{name: rate})(batch.codes, vocabulary.tokens)
            differs = (code_keys(codes) != code_keys(batch.codes)).numpy()
            changed[name] = float(differs.mean())
            samples += [
                {"kind": "json", "method": name, "item_id": judged.item_id[row],
                 "original": vocabulary.decode(batch.codes, row), "augmented": vocabulary.decode(codes, row)}
                for row in np.flatnonzero(differs)[:num_samples].tolist()
            ]  # fmt: skip
        mixed, _ = mix_vectors(batch.image_embedding, MIXUP)
    summary = plain({
        **stamped(judged, split), "changed": changed,
        "mixup_cosine": (mixed * batch.image_embedding).sum(1).mean().item(),
        "augmented_samples": samples + _pictures(judged, num_samples, results(output) / PICTURES),
    })  # fmt: skip
    write_json(results(output) / "augmented_samples.json", summary)
    rows = [[each["method"], each["item_id"], _words(each["original"]), _words(each["augmented"])] for each in samples]
    write_text(output / "report.md", "\n".join([
        f"# Augmentation on the {split} split\n",
        *(f"- {name} at rate {RATES[name]}: changes {share:.1%} of the records" for name, share in changed.items()),
        f"- MixUp at alpha {MIXUP}: mean cosine of a mixed vector with its image {summary['mixup_cosine']:.3f}\n",
        format_table(rows, ["method", "garment", "record", "augmented"]),
        f"\n![pictures](results/{GRID})\n",
    ]))  # fmt: skip
    point_latest(output)
    return summary


def _pictures(judged: Judged, num_samples: int, folder: Path) -> list[dict[str, Any]]:
    """Writes pictures of garments, each beside a changed view of it, and a grid; returns the names of the files."""
    folder.mkdir(parents=True)
    samples, grid = [], []
    for row, name in zip(judged.rows[:num_samples].tolist(), judged.item_id):
        picture, key = judged.data.catalogue.crop(row), np.frombuffer(sha256(name.encode()).digest(), np.uint8)
        grid.append([(picture, name[:20], None)])
        for kind in get_args(View):
            original, augmented = f"{len(samples)}.jpg", f"{len(samples)}_view.jpg"
            view, method = changed_picture(picture, key, kind), "view" if kind == "basic" else kind
            picture.save(folder / original)
            view.save(folder / augmented)
            grid[-1].append((view, method, None))
            samples.append(
                {"kind": "image", "method": method, "item_id": name, "original": original, "augmented": augmented}
            )
    save_grid(grid, folder.with_name(GRID), "Pictures and what augmentation makes of them")
    return samples


def _words(record: dict[str, Any]) -> str:
    return " / ".join(", ".join(each) if isinstance(each, list) else each or "" for each in record.values())
