"""Garments with the frozen vectors of their pictures, in three splits: drawn, of K-Fashion folders, or of a table."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.cache import cached_arrays
from common.data import InOrder, TrunkDataModule
from common.errors import UserError
from common.files import hash_arrays, hash_record, locate_data
from kfashion.catalogue import Catalogue, Reading, read_catalogue
from kfashion.encoders import OUTPUT_DIM, ImageEncoder, Projection, fit_projection
from kfashion.fields import FIELDS, MULTI, SINGLE
from kfashion.garments import CategorySource
from kfashion.images import image_prints
from kfashion.records import RecordBatch, Records, Vocabulary
from kfashion.split import SPLITS, assign_splits, check_splits, group_images, load_splits, save_splits
from kfashion.synthetic import synthetic_root
from kfashion.tables import read_table
from kfashion.vectors import embed, vector_keys
from kfashion.views import View, changed, view_keys

log = logging.getLogger(__name__)

EVALUATION_BATCH = 512
PROJECTED_VERSION = "1"
NO_CATEGORY = "(none)"  # in tables by category
VIEW_STREAM = 11  # of random numbers
Count = Annotated[int, Field(ge=1)]
Number = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class GarmentSet(Dataset):
    """The garments of one split; an array of indices gives a batch.

    Attributes:
        records, vectors: of all splits.
        index: (n,) int64 rows of this split in them.
    """

    def __init__(self, records: Records, vectors: Tensor, index: np.ndarray):
        self.records, self.vectors, self.index = records, vectors, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: np.ndarray) -> RecordBatch:
        rows = self.index[index]
        return self.records.batch(rows, self.vectors[torch.from_numpy(rows)])


class GarmentData(TrunkDataModule):
    """Base of the data of kfashion: subclasses say where the garments come from.

    Args:
        cache_dir: where tables, image vectors and drawn pictures are kept.
        encoder: of the pictures; frozen.
        projection: of the vectors of encoders that have more than 512 dimensions, see `fit_projection`.
        shares: of the garments in train, val and test, nearly: groups stay whole. Test may be 0.
        splits: a splits.json to be followed instead of the shares.
        balanced: whether training draws every category equally often; garments without one count as one.
        n_views: changed pictures of every training garment, see `kfashion.views`; every epoch takes one of them or the
            picture as it is, at random.
        view: how pictures are changed, see `kfashion.views.changed`.
        embed_batch: pictures per batch of the image encoder.
        data_seed: of the split and the projection; the run's seed leaves them as they are.

    Attributes:
        catalogue: the garments, their pictures and what was left out.
        records: the garments as tensors.
        vectors: (N, 512) float32 of length 1, of their pictures.
        vocabulary: of the training split.
        views: (n_views, n, 512) of the n training garments; None without.
        projection: that was fitted; None where the encoder has 512 dimensions.
        split: (N,) int8, see `kfashion.split.SPLITS`.
        datasets: by name of the split.
    """

    def __init__(
        self, seed: int, batch_size: int, num_workers: int, cache_dir: str, encoder: ImageEncoder, projection: str,
        shares: list[float], splits: str | None, balanced: bool, n_views: int, view: View, embed_batch: int,
        data_seed: int,
    ):  # fmt: skip
        super().__init__(seed, batch_size, num_workers)
        if len(shares) != 3 or abs(sum(shares) - 1) > 1e-6 or min(shares[:2]) <= 0:
            raise UserError(
                f"data.shares={shares}: need shares of train, val and test that add up to 1; test may be 0."
            )
        self.cache, self.encoder, self.projection_kind = Path(cache_dir), encoder, projection
        self.shares, self.splits_path, self.balanced = shares, splits, balanced
        self.n_views, self.view_kind, self.embed_batch, self.data_seed = n_views, view, embed_batch, data_seed
        self.datasets: dict[str, GarmentSet] = {}

    @abstractmethod
    def read(self) -> tuple[Catalogue, list[str | None] | None]:
        """The garments, and for each a name that garments of one group share beyond image and look, if there is any."""

    def setup(self, stage: str | None = None) -> None:
        if not self.datasets:
            self._load()
        if self.trainer is not None and self.trainer.is_global_zero and stage == "fit":
            self.save(Path(self.trainer.default_root_dir))

    def save(self, folder: Path) -> None:
        """Write vocab.json and splits.json."""
        self.vocabulary.save(folder / "vocab.json")
        settings = {"seed": self.data_seed, "shares": self.shares, "fingerprint": self.fingerprint}
        save_splits(folder / "splits.json", self.records.item_id, self.split, settings)

    def _load(self) -> None:
        catalogue, owners = self.read()
        group, keys, readable = self._look_at(catalogue, owners)
        tried, usable = np.flatnonzero(readable), readable.copy()
        vectors, row = self._embed(lambda number: catalogue.crop(int(tried[number])), keys[tried])
        usable[tried] = row >= 0
        self.catalogue = catalogue.select(usable, "bad_image")
        if not len(self.catalogue):
            raise UserError(f"{catalogue.root}: none of {len(catalogue)} pictures can be decoded.")
        group = np.unique(group[usable], return_inverse=True)[1]
        self.split = self._assign(group)
        self.vectors = self._project(vectors, row[row >= 0], keys[usable])
        self.views = self._project_views(keys[usable]) if self.n_views else None
        train = self.catalogue.items.filter(pa.array(self.split == 0))
        self.vocabulary = Vocabulary.from_items(train)
        self.records = Records.from_items(self.catalogue.items, self.vocabulary, group)
        self.datasets = {
            name: GarmentSet(self.records, self.vectors, np.flatnonzero(self.split == number))
            for number, name in enumerate(SPLITS)
        }
        self._describe(keys[usable])

    def _look_at(
        self, catalogue: Catalogue, owners: list[str | None] | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Group and vector key of every garment, and whether its image can be decoded."""
        names, first, image = np.unique(catalogue.items["image"].to_pylist(), return_index=True, return_inverse=True)
        prints = image_prints(catalogue.root, names.tolist(), self.cache / "images", self.num_workers)
        labels = [catalogue.items["look"].to_pylist(), *([] if owners is None else [owners])]
        group = group_images(prints.perceptual, [[column[row] for row in first] for column in labels])[image]
        crops = catalogue.items["crop"].combine_chunks().flatten().to_numpy().reshape(-1, 4)
        keys = vector_keys(catalogue.items["item_id"].to_pylist(), prints.sha256[image], crops)
        return group, keys, prints.readable[image]

    def _assign(self, group: np.ndarray) -> np.ndarray:
        items = self.catalogue.items
        if self.splits_path is not None:
            split = load_splits(Path(self.splits_path), np.array(items["item_id"].to_pylist()))
        else:
            category = pc.fill_null(items["category"], "").to_pylist()
            split = assign_splits(group, category, self.shares, self.data_seed)
        check_splits(group, split)
        for number, name in enumerate(SPLITS):
            if not (split == number).any() and (number < 2 or self.shares[number]):
                raise UserError(f"data: no garment in {name}; {len(np.unique(group))} groups are too few, add images.")
        return split

    def _embed(self, picture: Callable[[int], Image.Image], keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return embed(picture, keys, self.encoder, self.cache / "vectors", self.embed_batch, self.num_workers)

    def _project(self, vectors: np.ndarray, row: np.ndarray, keys: np.ndarray) -> Tensor:
        """(N, 512), memory-mapped; sets `projection`."""

        def compute() -> dict[str, np.ndarray]:
            projection = fit_projection(self.projection_kind, vectors[row[self.split == 0]], self.data_seed)
            if projection is None:
                return {"vectors": vectors[row]}
            return {"vectors": projection.apply(vectors[row]), "mean": projection.mean, "matrix": projection.matrix}

        arrays = cached_arrays(self.cache / "projected", self._projected_key(keys, keys), compute)
        self.projection = Projection(arrays["mean"], arrays["matrix"]) if "mean" in arrays else None
        return torch.from_numpy(arrays["vectors"])

    def _project_views(self, keys: np.ndarray) -> Tensor:
        """(n_views, n, 512), memory-mapped, of the n garments of the training split."""
        train = np.flatnonzero(self.split == 0)
        stacked = np.concatenate([view_keys(keys[train], view, self.view_kind) for view in range(self.n_views)])

        def picture(number: int) -> Image.Image:
            return changed(self.catalogue.crop(int(train[number % len(train)])), stacked[number], self.view_kind)

        vectors, row = self._embed(picture, stacked)

        def compute() -> dict[str, np.ndarray]:
            return {"vectors": vectors[row] if self.projection is None else self.projection.apply(vectors[row])}

        arrays = cached_arrays(self.cache / "projected", self._projected_key(stacked, keys), compute)
        return torch.from_numpy(arrays["vectors"]).view(self.n_views, len(train), OUTPUT_DIM)

    def _projected_key(self, keys: np.ndarray, fitted_on: np.ndarray) -> dict[str, str]:
        return {
            "version": PROJECTED_VERSION, "encoder": self.encoder.id, "preprocess": self.encoder.preprocess_hash,
            "keys": hash_arrays(keys), "fitted_on": hash_arrays(fitted_on, self.split),
            "projection": f"{self.projection_kind} {self.data_seed}",
        }  # fmt: skip

    def _describe(self, keys: np.ndarray) -> None:
        items = self.catalogue.items
        codes = [self.records.codes[field].numpy() for field in FIELDS]
        groups = [self.records.group.numpy(), self.records.attr_key.numpy()]
        # the keys stand for the vectors, whose last bits depend on the machine
        vectors = [self._projected_key(keys, keys), self.n_views, *[self.view_kind] * (self.view_kind != "basic")]
        self.fingerprint = hash_record([vectors, self.vocabulary.hash, hash_arrays(*codes, *groups)])
        categories = pc.value_counts(pc.fill_null(items["category"], NO_CATEGORY)).to_pylist()
        self.facts = {
            "vocab_sizes": self.vocabulary.sizes,
            "vocabulary": self.vocabulary.hash,
            "tokens": {field: list(self.vocabulary.tokens[field]) for field in FIELDS},
            "dim": OUTPUT_DIM,
            "encoder": self.encoder.id,
            "preprocess": self.encoder.preprocess_hash,
            "num_samples": {name: len(data) for name, data in self.datasets.items()},
            "num_groups": len(np.unique(groups[0])),
            "num_keys": len(np.unique(groups[1])),
            "categories": {each["values"]: each["counts"] for each in categories},
            "excluded": self.catalogue.reasons,
        }
        log.info(f"{len(items):,} garments: {_listed(self.facts['num_samples'])}; {_listed(self.facts['categories'])}")
        log.info(f"left out: {_listed(self.facts['excluded'])}")

    def train_dataloader(self) -> DataLoader:
        data = self.datasets["train"]
        return self.shuffled(data, _balanced(data) if self.balanced else None)

    def val_dataloader(self) -> DataLoader:
        return self.whole("val")

    def on_after_batch_transfer(self, batch: RecordBatch, dataloader_idx: int) -> RecordBatch:
        if self.views is None or self.trainer is None or not self.trainer.training:
            return batch
        rows = batch.item_index.cpu()
        vectors = self.viewed(rows, self.trainer.current_epoch)
        return replace(batch, image_embedding=vectors.to(batch.image_embedding.device))

    def viewed(self, rows: Tensor, epoch: int) -> Tensor:
        """(B, 512) vectors of training garments as an epoch sees them: of a view, or of the picture as it is."""
        index = self.datasets["train"].index
        drawn = np.random.default_rng([self.seed, epoch, VIEW_STREAM]).integers(0, self.n_views + 1, len(index))
        place = np.searchsorted(index, rows.numpy())
        view = torch.from_numpy(drawn[place])
        changed_vectors = self.views[view.clamp(max=self.n_views - 1), torch.from_numpy(place)]
        return torch.where((view < self.n_views)[:, None], changed_vectors, self.vectors[rows])

    def whole(self, split: Literal["train", "val", "test"]) -> DataLoader:
        """All garments of a split in order, in batches as large as is fast."""
        data = self.datasets[split]
        if not len(data):
            raise UserError(f"split={split}: has no garments; give it a share in data.shares, or take split=val.")
        return self._loader(data, InOrder(len(data), EVALUATION_BATCH))


class SyntheticData(GarmentData):
    """The drawn catalogue of `kfashion.synthetic`, read from its files as a real one.

    Args:
        num_images: of which one in a hundred is flawed.
        num_designs: different garments; each is in several images.
    """

    data_source = "synthetic"

    def __init__(
        self,
        seed: int,
        batch_size: Count,
        num_workers: Number,
        cache_dir: str,
        encoder: ImageEncoder,
        projection: Literal["pca", "orthonormal"],
        shares: list[Share],
        splits: str | None,
        balanced: bool,
        n_views: Number,
        embed_batch: Count,
        data_seed: Number,
        num_images: Annotated[int, Field(ge=50)],
        num_designs: Annotated[int, Field(ge=10)],
        view: View = "basic",
    ):
        super().__init__(
            seed, batch_size, num_workers, cache_dir, encoder, projection, shares, splits, balanced, n_views, view,
            embed_batch, data_seed,
        )  # fmt: skip
        self.num_images, self.num_designs = num_images, num_designs

    def read(self) -> tuple[Catalogue, None]:
        root = synthetic_root(self.cache / "synthetic", self.num_images, self.num_designs, self.data_seed)
        return read_catalogue(root, self.cache / "catalogues", Reading()), None


class FolderData(GarmentData):
    """K-Fashion folders, or others with such label files: `<path>/…/<category>/<number>.json`.

    Args:
        path: the folder; relative to the data directory or the current one.
        folders, include_other, category_source, crop_padding, extra_fields: see `kfashion.catalogue.Reading`.
    """

    data_source = "real"

    def __init__(
        self,
        seed: int,
        batch_size: Count,
        num_workers: Number,
        cache_dir: str,
        encoder: ImageEncoder,
        projection: Literal["pca", "orthonormal"],
        shares: list[Share],
        splits: str | None,
        balanced: bool,
        n_views: Number,
        embed_batch: Count,
        data_seed: Number,
        path: str,
        data_dir: str | None,
        folders: list[str] | None,
        include_other: bool,
        category_source: CategorySource,
        crop_padding: Share,
        extra_fields: list[str],
        view: View = "basic",
    ):
        super().__init__(
            seed, batch_size, num_workers, cache_dir, encoder, projection, shares, splits, balanced, n_views, view,
            embed_batch, data_seed,
        )  # fmt: skip
        self.path, self.data_dir = path, data_dir
        wanted = None if folders is None else tuple(folders)
        self.reading = Reading(category_source, crop_padding, wanted, include_other, tuple(extra_fields))

    def read(self) -> tuple[Catalogue, None]:
        return read_catalogue(locate_data(self.path, self.data_dir), self.cache / "catalogues", self.reading), None


class TableData(GarmentData):
    """Images with a table of their attributes, CSV or Parquet; every image shows one garment.

    Args:
        path: folder of the table and the images; relative to the data directory or the current one.
        table: name of the table in it.
        columns: of the table, by field: a name or null for single fields, a list of names for multi fields.
        id_column, image_column: of the garment's name and the path of its image.
        group_column: garments with the same value stay in one split; null for none.
        values: tokens to be renamed, by column: `{kids: {"True": kids, "False": adult}}`; null leaves one out.
        separator: of several tokens in one cell; null for none.
    """

    data_source = "real"

    def __init__(
        self,
        seed: int,
        batch_size: Count,
        num_workers: Number,
        cache_dir: str,
        encoder: ImageEncoder,
        projection: Literal["pca", "orthonormal"],
        shares: list[Share],
        splits: str | None,
        balanced: bool,
        n_views: Number,
        embed_batch: Count,
        data_seed: Number,
        path: str,
        data_dir: str | None,
        table: str,
        columns: dict[str, str | list[str] | None],
        id_column: str,
        image_column: str,
        group_column: str | None,
        values: dict[str, dict[str, str | None]],
        separator: str | None,
        view: View = "basic",
    ):
        super().__init__(
            seed, batch_size, num_workers, cache_dir, encoder, projection, shares, splits, balanced, n_views, view,
            embed_batch, data_seed,
        )  # fmt: skip
        for field in FIELDS:
            if field not in columns or isinstance(columns[field], list) != (field in MULTI):
                kind = "one column or null" if field in SINGLE else "a list of columns, which may be empty"
                raise UserError(f"data.columns.{field}={columns.get(field)}: need {kind}.")
        self.path, self.data_dir, self.table = path, data_dir, table
        self.settings: dict[str, Any] = {
            "columns": columns, "id_column": id_column, "image_column": image_column, "group_column": group_column,
            "values": values, "separator": separator,
        }  # fmt: skip

    def read(self) -> tuple[Catalogue, list[str | None] | None]:
        return read_table(locate_data(self.path, self.data_dir), self.table, **self.settings)


def _balanced(data: GarmentSet) -> np.ndarray:
    """(n,) chance of every garment of a split, the same in all for every category."""
    category = data.records.codes["category"].numpy()[data.index]
    weight = 1 / np.bincount(category)[category]
    return weight / weight.sum()


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
