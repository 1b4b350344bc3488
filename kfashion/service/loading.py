"""From a run directory to a recommender: the first start makes its files, later ones read them.

Source: kfashion specification, sections 6 and 7.
"""

import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from hydra.utils import instantiate
from PIL import Image

from common.errors import UserError
from common.files import hash_arrays, hash_record
from common.rundir import Run
from kfashion.catalogue import Catalogue, Reading, read_catalogue
from kfashion.encoders import ImageEncoder
from kfashion.export import Encoder, load_encoder, save_encoder
from kfashion.fields import FIELDS
from kfashion.images import image_prints
from kfashion.search import Backend, Identity
from kfashion.service.catalogue import Product, ProductStore, Stored
from kfashion.service.embedding import jpeg
from kfashion.service.recommend import Recommender
from kfashion.vectors import embed, vector_keys

if TYPE_CHECKING:
    from kfashion.judging import Judged

log = logging.getLogger(__name__)

TOP_SELLERS = 20  # training garments that a demonstration can ask with, the most central ones


def load_recommender(run: Run, catalog: Path | None, data_dir: str | None, backend: Backend) -> Recommender:
    """The models of a stage-2 run with a catalogue, kept below `<run>/service/`.

    Args:
        catalog: folder of label files and images; None for the garments of the run that it was not trained on.

    Raises:
        UserError: if the run is unfinished or no stage 2, its encoder or data cannot be loaded, or the catalogue is in
            use or belongs to other weights.
    """
    if not run.finished:
        raise UserError(f"{run}: unfinished ({run.status.get('status', 'unknown')}); `python train.py resume={run}`.")
    config = run.config
    if config.module._target_ != "kfashion.module.AlignmentModule":
        raise UserError(f"{run}: aligns no attributes with images; take a run of kfashion_stage2.")
    folder = run.path / "service"
    trained = cache(lambda: _trained(run, data_dir))
    if not (folder / "encoder.pt").is_file():
        save_encoder(folder / "encoder.pt", trained(), {})
    encoder = load_encoder(folder / "encoder.pt", config.facts.vocabulary, config.facts.encoder)
    images: ImageEncoder = instantiate(config.data.encoder, _convert_="all")
    if images.id != encoder.encoder:
        raise UserError(f"{run}: aligned with {encoder.encoder}, this machine has {images.id}; install those weights.")
    name = "demo" if catalog is None else hash_record({"catalog": str(catalog.absolute())})
    store = ProductStore(folder / f"catalogue-{name}.db", _identity(encoder))
    if not store.filled:
        log.info(f"{store.path}: filled for the first time")
        store.fill(_demo(trained()) if catalog is None else _own(catalog, encoder, images, folder / "cache"))
    recommender = Recommender(encoder, images, store, backend)
    images.encode(images.prepare(Image.new("RGB", (64, 64)))[None])  # the first picture takes ten times as long
    log.info(f"{len(recommender.index):,} new products from {store.path}, index {backend}")
    return recommender


def _trained(run: Run, data_dir: str | None) -> "Judged":
    from kfashion.judging import judge  # Lightning and the data, which only the first start needs

    return judge(run, "train", data_dir)


def _identity(encoder: Encoder) -> Identity:
    state = encoder.network.state_dict()
    weights = hash_arrays(*(state[name].numpy() for name in sorted(state)))
    if encoder.projection is not None:
        weights = hash_record([weights, hash_arrays(encoder.projection.mean, encoder.projection.matrix)])
    return Identity(encoder.encoder, encoder.preprocess, encoder.vocabulary.hash, weights)


def _demo(trained: "Judged") -> Iterator[Stored]:
    """The garments that the run was not trained on, as new products, and the most central others as top sellers."""
    from kfashion.queries import centrality_scores, most_central

    data = trained.data
    sellers = most_central(centrality_scores(trained), trained.item_id, TOP_SELLERS / len(trained.rows))
    rows = [(int(row), True) for row in np.flatnonzero(data.split != 0)]
    rows += [(int(row), False) for row in trained.rows[sellers]]
    owners = data.records.group.numpy()
    for row, is_new in rows:
        yield _stored(data.catalogue, row, data.vectors[row].numpy(), f"group {owners[row]}", is_new)


def _own(root: Path, encoder: Encoder, images: ImageEncoder, kept: Path) -> Iterator[Stored]:
    """All garments of a folder, as new products; those of one image are never recommended for each other."""
    catalogue = read_catalogue(root, kept / "catalogues", Reading())
    items = catalogue.items
    names, place = np.unique(items["image"].to_pylist(), return_inverse=True)
    prints = image_prints(root, names.tolist(), kept / "images")
    keys = vector_keys(items["item_id"].to_pylist(), prints.sha256[place], items["crop"].to_pylist())
    vectors, found = embed(catalogue.crop, keys, images, kept / "vectors", 64, 0)
    for row in np.flatnonzero(found >= 0).tolist():
        vector = vectors[found[row]][None]
        vector = vector if encoder.projection is None else encoder.projection.apply(vector)
        yield _stored(catalogue, row, vector[0], f"image {items['image'][row].as_py()}", True)


def _stored(catalogue: Catalogue, row: int, vector: np.ndarray, owner: str, is_new: bool) -> Stored:
    item = catalogue.items.slice(row, 1).to_pylist()[0]
    record = {name: item[name] for name in FIELDS}
    return Stored(Product(item["item_id"], record, owner, is_new), vector, jpeg(catalogue.crop(row)))
