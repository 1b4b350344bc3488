import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from ssmo.data.scenes import CITYSCAPES, SHARED, VOC, read_parts
from ssmo.data.segmentation import CamVid, Cityscapes, ShapesSeg, Voc, mislabel_objects
from ssmo.shapes import SCENE_CLASSES, draw_scenes

COMMON = {"seed": 0, "batch_size": 4, "num_workers": 0, "strength": None, "data_seed": 0, "crop_pad": 0, "flip": True}
FILES = COMMON | {"data_dir": None, "size": None}
TRAFFIC = FILES | {"size": [8, 12], "classes": "all"}


def make(kind, path, condition="clean", **options):
    data = kind(condition=condition, path=str(path), **options)
    data.setup()
    return data


def shapes(condition="clean", strength=None, crop_pad=0):
    options = COMMON | {"strength": strength, "crop_pad": crop_pad}
    data = ShapesSeg(condition=condition, num_train=12, num_val=4, num_test=11, size=32, border=True, **options)
    data.setup()
    return data


def all_labels(samples):
    return samples.y[np.arange(len(samples))]


def save(path, values, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values.astype(np.uint8))
    if palette:
        picture.putpalette([each for number in range(256) for each in (255 - number, number, 7)])
    picture.save(path)


def halves(left, right, size=(8, 12)):
    values = np.full(size, left)
    values[:, size[1] // 2 :] = right
    return values


def colour(number, size=(8, 12)):
    return np.full((*size, 3), number)


def write_camvid(folder, size=(8, 12)):
    for split, count in (("train", 10), ("val", 3)):
        for number in range(count):
            save(folder / split / "img" / f"{number:02d}.png", colour(10 * number, size))
            save(folder / split / "lab" / f"{number:02d}.png", halves(number % 11, 11, size))
    return folder


def write_voc(folder, labels):
    for split, values in labels.items():
        for number, value in enumerate(values):
            save(folder / "JPEGImages" / f"{split}_{number}.jpg", colour(100))
            save(folder / "SegmentationClass" / f"{split}_{number}.png", value, palette=True)
        names = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        names.parent.mkdir(parents=True, exist_ok=True)
        names.write_text("".join(f"{split}_{number}\n" for number in range(len(values))))
    return folder


def write_cityscapes(folder, labels):
    for split, values in labels.items():
        for number, value in enumerate(values):
            save(folder / f"leftImg8bit/{split}/bonn/bonn_{number}_leftImg8bit.png", colour(200))
            save(folder / f"gtFine/{split}/bonn/bonn_{number}_gtFine_labelIds.png", value)
    return folder


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes(40, 48, False, np.random.default_rng(0))


def test_scenes_show_every_class_and_more_ground_than_anything(scenes):
    picture, label = scenes
    shares = np.bincount(label.ravel(), minlength=len(SCENE_CLASSES)) / label.size
    assert picture.shape == (40, 3, 48, 48)
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert len(shares) == len(SCENE_CLASSES)
    assert shares.min() > 0.02
    assert 0.4 < shares[0] < 0.9


def test_shapes_have_another_colour_than_the_ground_along_their_edge(scenes):
    picture, label = scenes
    edge = (label[:, :, 2:] != label[:, :, :-2])[:, None]
    steps = np.abs(picture[:, :, :, 2:] - picture[:, :, :, :-2])
    edge = np.broadcast_to(edge, steps.shape)
    assert steps[edge].mean() > 1.5 * steps[~edge].mean()


def test_a_border_is_where_neighbours_differ_and_nowhere_else():
    _, with_border = draw_scenes(6, 32, True, np.random.default_rng(3))
    _, label = draw_scenes(6, 32, False, np.random.default_rng(3))
    padded = np.pad(label, ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = (padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:])
    expected = np.any([each != label for each in around], axis=0)
    assert np.array_equal(with_border == 255, expected)
    assert np.array_equal(with_border[~expected], label[~expected])


def test_mislabelled_objects_are_whole_and_exactly_the_share():
    label = np.zeros((10, 6, 12), np.uint8)
    for column, kind in ((0, 1), (3, 1), (6, 2), (9, 3)):  # forty objects with ground between them
        label[:, 1:5, column : column + 2] = kind
    label[:, 0] = 255
    noisy = mislabel_objects(label, 0.3, 4, 0, np.random.default_rng(0))
    objects = noisy[:, 1:5].reshape(10, 4, 4, 3)[..., :2]
    assert (objects == objects[:, :1, :, :1]).all()
    assert (objects[:, 0, :, 0] != [1, 1, 2, 3]).sum() == 12
    assert np.array_equal(noisy[(label == 0) | (label == 255)], label[(label == 0) | (label == 255)])
    assert set(np.unique(objects)) == {1, 2, 3}


def test_without_a_background_every_region_is_an_object():
    label = np.repeat(np.arange(3, dtype=np.uint8), 4)[None, None].repeat(4, 1)
    noisy = mislabel_objects(label, 1.0, 3, None, np.random.default_rng(0))
    assert (noisy != label).all()
    assert noisy.max() < 3


def test_conditions_touch_what_they_name_and_nothing_else():
    clean = shapes().splits
    changed = {
        "label_noise": "train",
        "fog": "test",
        "corrupted": "test",
        "resolution_shift": "test",
        "weak_labels": "",
    }
    for condition, split in changed.items():
        splits = shapes(condition).splits
        for name in splits:
            same_x = np.array_equal(splits[name].x, clean[name].x)
            same_y = np.array_equal(all_labels(splits[name]), all_labels(clean[name]))
            assert same_x == (name != split or split == "train"), (condition, name)
            assert same_y == (name != split or split == "test"), (condition, name)
    weak = shapes("weak_labels")
    first, second = weak.dataset_of("train")[np.arange(12)].targets
    assert torch.equal(first, torch.from_numpy(all_labels(clean["train"])))
    assert second.dtype == torch.int64
    assert torch.equal(first == 255, second == 255)
    assert not torch.equal(first, second)


def test_pictures_and_labels_move_together_and_the_edge_is_ignored():
    data = shapes(crop_pad=4)
    batch = data.dataset_of("train")[np.arange(3)]
    moved = data.augment(batch, torch.tensor([[0.99, 0.5, 0.9, 0.0], [0.5, 0.5, 0.1, 0.0], [0.5, 0.0, 0.1, 0.0]]))
    assert torch.equal(moved.targets[0][0, :-4], batch.targets[0][0, 4:])
    assert torch.allclose(moved.x[0, :, :-4], batch.x[0, :, 4:])
    assert (moved.targets[0][0, -4:] == 255).all()
    assert torch.equal(moved.targets[0][1], batch.targets[0][1].flip(1))
    assert torch.allclose(moved.x[1], batch.x[1].flip(2))
    assert moved.targets[1].dtype == torch.int64


def test_camvid_reads_the_same_from_folders_and_from_archives_and_void_is_ignored(tmp_path):
    folder = write_camvid(tmp_path / "folder")
    archives = tmp_path / "archives"
    archives.mkdir()
    for split in ("train", "val"):
        with zipfile.ZipFile(archives / f"{split}.zip", "w") as file:
            for path in sorted((folder / split).rglob("*.png")):
                file.write(path, path.relative_to(folder))
    first, second = make(CamVid, folder, **FILES), make(CamVid, archives, **FILES)
    assert first.fingerprint == second.fingerprint
    assert first.data_source == "real"
    assert first.facts["num_samples"] == {"train": 9, "val": 1, "test": 3}
    assert first.facts["num_classes"] == 11
    label = all_labels(first.splits["test"])
    assert label.dtype == np.int64
    assert np.array_equal(label[2], halves(2, 255))


def test_camvid_is_also_read_as_segnet_lays_it_out(tmp_path):
    for split in ("train", "val", "test"):
        for number in range(2):
            save(tmp_path / split / f"{number}.png", colour(9))
            save(tmp_path / f"{split}annot" / f"{number}.png", halves(1, number))
    data = make(CamVid, tmp_path, **FILES)
    assert data.facts["num_samples"] == {"train": 2, "val": 2, "test": 2}
    assert np.array_equal(all_labels(data.splits["test"])[1], halves(1, 1))


def test_labels_are_resized_without_new_numbers_and_pictures_smoothly(tmp_path):
    data = make(CamVid, write_camvid(tmp_path, size=(16, 24)), **FILES | {"size": [8, 12]})
    assert np.array_equal(all_labels(data.splits["test"])[1], halves(1, 255))
    assert data.splits["test"].x.shape == (3, 3, 8, 12)


def test_voc_numbers_are_those_of_the_palette_and_val_is_the_test(tmp_path):
    labels = {"train": [halves(0, 15)] * 10, "val": [halves(20, 255), halves(7, 1)]}
    write_voc(tmp_path / "VOCdevkit" / "VOC2012", labels)
    data = make(Voc, tmp_path, **TRAFFIC)
    assert data.facts["num_samples"] == {"train": 9, "val": 1, "test": 2}
    assert np.array_equal(all_labels(data.splits["test"]), labels["val"])
    assert data.class_names[15] == "person"
    assert data.background == 0


def test_cityscapes_numbers_become_those_of_its_nineteen_classes(tmp_path):
    labels = {"train": [halves(7, 33)] * 3, "val": [halves(24, 26), halves(0, 32)]}
    data = make(Cityscapes, write_cityscapes(tmp_path, labels), **TRAFFIC)
    assert np.array_equal(all_labels(data.splits["test"]), [halves(11, 13), halves(255, 17)])
    assert np.array_equal(all_labels(data.splits["val"])[0], halves(0, 18))
    expected = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13,
                27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip
    assert {number: place for place, number in enumerate(CITYSCAPES.numbers)} == expected


def test_a_domain_shift_tests_on_the_shared_classes_of_the_other_data_set(tmp_path):
    voc = {"train": [halves(15, 7)] * 10 + [halves(0, 3)], "val": [halves(19, 255)]}
    city = {"train": [halves(24, 7)] * 3, "val": [halves(31, 23), halves(7, 8), halves(33, 32)]}
    write_voc(tmp_path / "voc", voc)
    write_cityscapes(tmp_path / "city", city)
    options = TRAFFIC | {"classes": "shared", "other_path": str(tmp_path / "city")}
    data = make(Voc, tmp_path / "voc", "domain_shift", **options)
    assert data.class_names == list(SHARED)
    assert data.facts["num_samples"] == {"train": 9, "val": 1, "test": 2}  # without one class of six, left out
    assert np.array_equal(all_labels(data.splits["test"]), [halves(3, 255), halves(5, 4)])
    assert np.array_equal(all_labels(data.splits["train"])[0], halves(0, 1))
    back = make(Cityscapes, tmp_path / "city", "domain_shift", **options | {"other_path": str(tmp_path / "voc")})
    assert np.array_equal(all_labels(back.splits["test"]), [halves(3, 255)])
    with pytest.raises(UserError, match="classes=shared"):
        make(Voc, tmp_path / "voc", "domain_shift", **TRAFFIC)


def test_every_shared_class_is_in_both_data_sets():
    assert set(SHARED) <= set(VOC.numbers.values())
    assert set(SHARED) <= set(CITYSCAPES.numbers.values())
    assert [number for number, name in VOC.numbers.items() if name in SHARED] == [2, 6, 7, 14, 15, 19]
    assert [number for number, name in CITYSCAPES.numbers.items() if name in SHARED] == [24, 26, 28, 31, 32, 33]


def test_bad_scenes_are_one_line(tmp_path):
    with pytest.raises(UserError, match="not laid out as voc"):
        read_parts(VOC, write_camvid(tmp_path / "a"), ["person"], None)
    folder = write_camvid(tmp_path / "b")
    (folder / "train/lab/03.png").unlink()
    with pytest.raises(UserError, match=r"train/lab/03\.png: is missing"):
        make(CamVid, folder, **FILES)
    save(folder / "train/lab/03.png", colour(1))
    with pytest.raises(UserError, match="3 channels"):
        make(CamVid, folder, **FILES)
    save(folder / "train/lab/03.png", halves(1, 2, (4, 6)))
    with pytest.raises(UserError, match=r"set data\.size"):
        make(CamVid, folder, **FILES)
    (folder / "train/lab/03.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        make(CamVid, folder, **FILES)


@pytest.mark.slow
def test_the_real_camvid_has_the_known_counts_and_shares():
    if "DATA_DIR" not in os.environ:
        pytest.skip("needs DATA_DIR")
    data = make(CamVid, Path(os.environ["DATA_DIR"]) / "ssmo" / "camvid_240x180", **FILES | {"size": [45, 60]})
    assert data.facts["num_samples"] == {"train": 330, "val": 37, "test": 101}
    shares = np.bincount(all_labels(data.splits["train"]).ravel(), minlength=256) / (330 * 45 * 60)
    assert shares[:11].sum() + shares[255] == pytest.approx(1)
    assert set(np.argsort(shares[:11])[-3:]) == {0, 1, 3}  # sky, building, road
