import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import compose
from common.errors import ChecksFailed, UserError
from kfashion.data import FolderData, SyntheticData, TableData
from kfashion.encoders import EfficientNetLite0, PixelProjection, fit_projection
from kfashion.records import RecordBatch, Vocabulary
from kfashion.split import SPLITS, load_splits
from tests.kfashion.label_files import example, write


def common(tmp_path, **changes):
    return {
        "seed": 0, "batch_size": 16, "num_workers": 0, "cache_dir": str(tmp_path / "cache"), "projection": "pca",
        "encoder": PixelProjection(), "shares": [0.8, 0.1, 0.1], "splits": None, "balanced": False, "n_views": 0,
        "view": "basic",
        "embed_batch": 64, "data_seed": 0, **changes,
    }  # fmt: skip


def synthetic(tmp_path, **changes):
    data = SyntheticData(**common(tmp_path, **changes), num_images=100, num_designs=20)
    data.setup()
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kfashion")


@pytest.fixture(scope="module")
def data(folder):
    return synthetic(folder)


def test_batches_hold_the_records_and_vectors_of_their_rows(data):
    batch = next(iter(data.whole("val")))
    assert isinstance(batch, RecordBatch)
    assert torch.equal(batch.image_embedding, data.vectors[batch.item_index])
    torch.testing.assert_close(batch.image_embedding.norm(dim=1), torch.ones(len(batch)))
    assert (batch.item_index.numpy() == np.flatnonzero(data.split == 1)).all()


def test_the_vocabulary_is_that_of_training_only(data):
    train = [row for row, split in zip(data.catalogue.items.to_pylist(), data.split) if split == 0]
    assert data.vocabulary == Vocabulary.from_items(train)
    assert data.facts["vocabulary"] == data.vocabulary.hash
    assert data.facts["vocab_sizes"] == data.vocabulary.sizes


class Wide(PixelProjection):
    """600 dimensions, so that a projection is fitted."""

    def __init__(self):
        super().__init__()
        self.name = "wide"

    def build(self):
        weight = np.random.default_rng(0).standard_normal((600, 3 * self.size**2), np.float32)
        linear = torch.nn.Linear(*weight.shape[::-1], bias=False)
        linear.weight = torch.nn.Parameter(torch.from_numpy(weight))
        return torch.nn.Sequential(torch.nn.Flatten(), linear)


def test_the_projection_is_fitted_on_training_only(folder):
    data = synthetic(folder, encoder=Wide())
    raw = data.encoder.encode(
        torch.stack([data.encoder.prepare(data.catalogue.crop(n)) for n in range(len(data.split))])
    )
    np.testing.assert_allclose(data.projection.mean, raw[data.split == 0].mean(0), atol=1e-5)
    expected = fit_projection("pca", raw[data.split == 0].numpy(), 0).apply(raw.numpy())
    held = data.split > 0
    assert (np.einsum("nd,nd->n", expected, data.vectors.numpy())[~held] > 0.999).all()
    assert abs(data.projection.mean - raw.mean(0).numpy()).max() > 1e-4


def test_no_group_is_in_two_splits_and_no_image_in_two_groups(data):
    group, image = data.records.group.numpy(), np.array(data.catalogue.items["image"].to_pylist())
    for names in (
        image,
        np.array([look or f"-{n}" for n, look in enumerate(data.catalogue.items["look"].to_pylist())]),
    ):
        assert all(len(set(group[names == name])) == 1 for name in np.unique(names))
    assert all(len(set(data.split[group == each])) == 1 for each in np.unique(group))
    assert sum(data.facts["num_samples"].values()) == len(data.records)


def test_the_same_data_has_the_same_fingerprint_and_another_split_another(data, folder):
    assert synthetic(folder).fingerprint == data.fingerprint
    assert synthetic(folder, seed=5).fingerprint == data.fingerprint
    assert synthetic(folder, shares=[0.7, 0.2, 0.1]).fingerprint != data.fingerprint
    assert synthetic(folder, encoder=PixelProjection(seed=1)).fingerprint != data.fingerprint


def test_saved_splits_can_be_followed(data, folder):
    data.save(folder)
    again = synthetic(folder, splits=str(folder / "splits.json"), shares=[0.5, 0.5, 0.0])
    assert (again.split == data.split).all()
    assert (load_splits(folder / "splits.json", data.records.item_id) == data.split).all()
    assert Vocabulary.load(folder / "vocab.json", data.facts["vocabulary"]) == data.vocabulary


def test_splits_that_tear_a_group_are_refused(data, folder):
    data.save(folder / "torn")
    path = folder / "torn" / "splits.json"
    pair = np.flatnonzero(np.bincount(data.records.group)[data.records.group] > 1)[0]
    item, text = data.records.item_id[pair], path.read_text(encoding="utf-8")
    name = SPLITS[data.split[pair]]
    other = "val" if name == "train" else "train"
    text = text.replace(f'"{item}"', '"x"', 1).replace(f'"{other}": [', f'"{other}": ["{item}", ', 1)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ChecksFailed, match="more than one split"):
        synthetic(folder, splits=str(path))


def test_without_a_test_share_there_is_no_test(folder):
    data = synthetic(folder, shares=[0.8, 0.2, 0.0])
    assert data.facts["num_samples"]["test"] == 0
    with pytest.raises(UserError, match="split=test"):
        data.whole("test")


def test_an_epoch_sees_every_picture_as_it_is_or_in_a_view(folder):
    data = synthetic(folder, n_views=2)
    rows = torch.from_numpy(data.datasets["train"].index)
    choices = torch.cat([data.views, data.vectors[rows][None]])
    epochs = torch.stack([data.viewed(rows, epoch) for epoch in range(6)])
    found = (epochs[:, None] == choices[None]).all(-1)
    assert found.any(1).all()
    assert (found.float().mean((0, 2)) > 0.2).all()
    assert torch.equal(data.viewed(rows[5:9], 3), epochs[3][5:9])
    assert not torch.equal(epochs[0], epochs[1])
    assert ((choices[0] * choices[2]).sum(1) > 0.3).float().mean() > 0.9  # a view is still the same garment


@pytest.mark.parametrize("shares", [[0.8, 0.1], [0.8, 0.1, 0.2], [1.0, 0.0, 0.0]])
def test_shares_that_are_none_are_refused(tmp_path, shares):
    with pytest.raises(UserError, match=r"data\.shares"):
        SyntheticData(**common(tmp_path, shares=shares), num_images=100, num_designs=20)


def test_what_was_left_out_is_told(data):
    assert data.facts["excluded"] == data.catalogue.reasons


def test_a_picture_that_breaks_behind_its_header_is_left_out(tmp_path):
    for number in range(12):
        image = Image.fromarray(np.random.default_rng(number).integers(0, 255, (80, 60, 3), np.uint8))
        document = example()
        document["이미지 정보"]["이미지 파일명"] = f"DEMO_{number}_01.jpg"
        path = write(tmp_path / "labels/레트로", str(number), document, None)
        image.save(path.with_suffix(".png"))
    broken = path.with_suffix(".png")
    content = broken.read_bytes()
    broken.write_bytes(content[:100] + b"\0" * (len(content) - 120) + content[-20:])
    data = folders(tmp_path)
    data.setup()
    assert data.facts["excluded"] == {"bad_image": 2}
    assert len(data.records) == 22


def folders(tmp_path, **changes):
    settings = {
        "path": "labels", "data_dir": str(tmp_path), "folders": ["레트로"], "include_other": False,
        "category_source": "garment", "crop_padding": 0.1, "extra_fields": ["색상"], **changes,
    }  # fmt: skip
    return FolderData(**common(tmp_path, shares=[0.6, 0.2, 0.2]), **settings)


def test_the_three_folders_of_the_sample_are_read_unless_others_are_named():
    config = compose("kfashion_stage2", ["data=kfashion/aihub", "data.path=labels"])
    assert config.data.folders == ["레트로", "로맨틱", "리조트"]
    assert not config.data.include_other


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"labels: nothing at .*DATA_DIR"):
        folders(tmp_path).setup()


def table(tmp_path, rows, **changes):
    (tmp_path / "pictures").mkdir(exist_ok=True)
    with open(tmp_path / "pictures/table.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    settings = {
        "path": "pictures", "data_dir": str(tmp_path), "table": "table.csv", "id_column": "id", "image_column": "file",
        "columns": {"category": "kind", "style": ["kids"], "silhouette": None, "material": [], "detail": ["colours"]},
        "group_column": "owner", "values": {"kids": {"True": "kids", "False": None}}, "separator": "|", **changes,
    }  # fmt: skip
    return TableData(**common(tmp_path, shares=[0.6, 0.2, 0.2]), **settings)


def rows(tmp_path, count=30):
    (tmp_path / "pictures").mkdir(exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    return [
        {"id": f"g{n}", "file": f"{n}.png", "kind": "hat" if n % 3 else "", "kids": str(n % 2 == 0),
         "colours": "red| blue" if n % 2 else "red", "owner": f"o{n // 3}"}
        for n in range(count)
    ]  # fmt: skip


def test_a_table_becomes_garments(tmp_path):
    data = table(tmp_path, rows(tmp_path))
    data.setup()
    first, second = data.catalogue.items.slice(0, 2).to_pylist()
    assert (first["category"], first["style"], first["detail"]) == (None, ["kids"], ["red"])
    assert (second["category"], second["style"], second["detail"]) == ("hat", [], ["red", "blue"])
    assert second["crop"] == [0, 0, 20, 20]
    assert len(data.records.group.unique()) == 10
    assert all(len(owner.unique()) == 1 for owner in data.records.group.view(10, 3))


def test_a_missing_image_of_a_table_is_left_out(tmp_path):
    cells = rows(tmp_path)
    cells[4]["file"] = "none.png"
    data = table(tmp_path, cells)
    data.setup()
    assert data.facts["excluded"] == {"missing_image": 1}


def test_a_table_without_a_column_that_is_asked_for_is_told(tmp_path):
    columns = {"category": "kinds", "style": [], "silhouette": None, "material": [], "detail": []}
    with pytest.raises(UserError, match=r"no column kinds. Did you mean kind\?"):
        table(tmp_path, rows(tmp_path, 1), columns=columns).setup()


def test_a_garment_that_is_there_twice_is_told(tmp_path):
    cells = rows(tmp_path, 3)
    cells[2]["id"] = "g0"
    with pytest.raises(UserError, match="row 4, column id: g0 is there twice"):
        table(tmp_path, cells).setup()


@pytest.mark.parametrize("change", [{"category": ["kind"]}, {"style": "kids"}, {"detail": None}])
def test_columns_of_the_wrong_kind_are_refused(tmp_path, change):
    columns = {"category": "kind", "style": [], "silhouette": None, "material": [], "detail": []} | change
    with pytest.raises(UserError, match=f"data.columns.{next(iter(change))}"):
        table(tmp_path, rows(tmp_path, 1), columns=columns)


def test_balanced_training_draws_every_category_equally_often(tmp_path):
    from common.data import EpochOrder
    from kfashion.data import _balanced

    cells = rows(tmp_path)
    data = table(tmp_path, cells)
    data.setup()
    train = data.datasets["train"]
    order = EpochOrder(len(train), len(train), 0, weights=_balanced(train))
    seen = []
    for epoch in range(60):
        order.set_epoch(epoch)
        (index,) = order
        seen.append(data.records.codes["category"][train.index[index]])
    counts = torch.cat(seen).bincount()
    assert abs(counts[2] / counts.sum() - 0.5) < 0.05  # missing: a third of the garments
    order.set_epoch(3)
    (again,) = order
    assert torch.equal(data.records.codes["category"][train.index[again]], seen[3])


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="needs DATA_DIR/fashion")
def test_the_clothing_photos_are_read_as_they_are():
    from kfashion.tables import read_table

    columns = {
        "category": "category", "style": ["kids", "tone"], "silhouette": None, "material": ["surface"],
        "detail": ["colour_main", "colour_sub"],
    }  # fmt: skip
    values = {"kids": {"True": "kids", "False": "adult"}}
    root = Path(os.environ["DATA_DIR"]) / "fashion"
    catalogue, owners = read_table(root, "attributes.csv", columns, "image_id", "file", "group_id", values, None)
    assert len(catalogue) == len(owners) == 4218
    assert len(set(catalogue.items["category"].to_pylist())) == 17
    encoder = EfficientNetLite0()
    assert encoder.encode(encoder.prepare(catalogue.crop(0))[None]).shape == (1, 1280)
