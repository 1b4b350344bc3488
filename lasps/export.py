"""Writes any lasps data in the array format that `data=lasps/arrays` reads.

python -m lasps.export FOLDER [--charts none|npy|png] [data=lasps/krx data.path=bars.parquet …]
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from hydra.utils import instantiate
from PIL import Image

from common.cli import fail
from common.config import compose
from common.errors import UserError
from common.files import write_atomic, write_json, write_text
from lasps.data.arrays import IMAGE_SHAPE, sha256
from lasps.data.dataset import StockDataset
from lasps.data.sectors import SectorScheme
from lasps.data.view import View
from lasps.data.windows import WINDOW


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lasps.export", description="Write lasps data as arrays.")
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--charts", choices=("none", "npy", "png"), default="none", help="also write chart images")
    parser.add_argument("overrides", nargs="*", help="as for train.py, for example data=lasps/krx data.path=FILE")
    arguments = parser.parse_intermixed_args(words)
    try:
        config = compose("lasps_phase1", ["data.view.charts.size=224", *arguments.overrides])
        data = instantiate(config.data, _convert_="all")
        data.setup()
        source = {"data_source": data.data_source, "fingerprint": data.fingerprint, "counts": data.facts["counts"]}
        write_arrays(arguments.folder, data.datasets, data.sectors, data.view, arguments.charts, source)
    except UserError as error:
        fail(str(error))
    rows = ", ".join(f"{name} {len(dataset)}" for name, dataset in data.datasets.items())
    print(f"{arguments.folder}: {rows} windows")


def write_arrays(
    folder: Path, datasets: dict[str, StockDataset], scheme: SectorScheme, view: View, charts: str, source: dict
) -> None:
    """Write data sets in the array format, version 2.

    Args:
        folder: must not exist yet, so that nothing is overwritten.
        charts: `none`, `npy` or `png`.
        source: what the manifest says of where the data come from.
    """
    if folder.exists():
        raise UserError(f"{folder}: exists already; name a new folder.")
    folder.mkdir(parents=True)
    scheme.save(folder / "sectors.json")
    hashes = {}
    for name, data in datasets.items():
        for stem, chunks, shape, dtype in _columns_of(data, view, charts):
            path = folder / name / f"{stem}.npy"
            _write_chunks(path, chunks, shape, dtype)
            hashes[f"{name}/{stem}.npy"] = sha256(path)
        if charts == "png":
            _write_pngs(folder / name / "charts", data, view)
        if data.date is not None:
            meta = pd.DataFrame({"stock_code": data.codes, "date": data.date, "chart_idx": np.arange(len(data)),
                                 "label_end_date": data.label_end})  # fmt: skip
            write_text(folder / name / "metadata.csv", meta.to_csv(index=False))
    rows = {name: len(data) for name, data in datasets.items()}
    write_json(folder / "manifest.json", {"feature_version": "v2", "rows": rows, "sha256": hashes, **source})


def _columns_of(
    data: StockDataset, view: View, charts: str
) -> Iterator[tuple[str, Iterator[np.ndarray], tuple[int, ...], type]]:
    """(file stem, chunks, shape, type) of each array that a data set is written as."""
    count, whole = len(data), [np.arange(len(data))]
    chunks = np.array_split(np.arange(count), max(1, count // 512))
    yield "time_series", (data.series(rows) for rows in chunks), (count, WINDOW, 28), np.float32
    yield "sector_ids", (data.sector_ids[rows] for rows in whole), (count,), np.int64
    yield "labels", (data.labels[rows] for rows in whole), (count,), np.int64
    if data.forward_return is not None:
        yield "returns", (data.forward_return[rows] for rows in whole), (count,), np.float32
    if charts == "npy":
        drawn = (view(data[rows], draw=True).chart.numpy() for rows in chunks)
        yield "chart_images", drawn, (count, *IMAGE_SHAPE), np.float32


def _write_chunks(path: Path, chunks: Iterator[np.ndarray], shape: tuple[int, ...], dtype: type) -> None:
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}

    def write(file: BinaryIO) -> None:
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, dtype).tobytes())

    write_atomic(path, write)


def _write_pngs(folder: Path, data: StockDataset, view: View) -> None:
    folder.mkdir(parents=True)
    for rows in np.array_split(np.arange(len(data)), max(1, len(data) // 64)):
        pixels = (view(data[rows], draw=True).chart.numpy() * 255).round().astype(np.uint8)
        for number, image in zip(rows, pixels.transpose(0, 2, 3, 1), strict=True):
            Image.fromarray(image).save(folder / f"{number:06d}.png", optimize=False)


if __name__ == "__main__":
    main()
