import gzip
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from ssmo.data.augment import crop_flip
from ssmo.data.classification import (
    CIFAR10,
    Cifar10,
    Cifar100,
    Digits,
    ImageFolder,
    Mnist,
    Shapes10,
    asymmetric_noise,
    choose,
    symmetric_noise,
)
from ssmo.data.corruptions import spread
from ssmo.data.files import complete_splits, hold_out
from ssmo.data.formats import load_arrays, read_cifar_c, read_tree
from ssmo.data.pictures import channel_moments

COMMON = {"seed": 0, "batch_size": 8, "num_workers": 0, "strength": None, "data_seed": 0}
FILES = COMMON | {"data_dir": None, "num_train": None, "crop_pad": 0, "flip": False}


def make(kind, path, condition="clean", **options):
    data = kind(condition=condition, path=str(path), **FILES | options)
    data.setup()
    return data


def shapes(condition="clean", strength=None):
    options = COMMON | {"strength": strength}
    data = Shapes10(condition=condition, num_train=100, num_val=20, num_test=30, size=16, **options)
    data.setup()
    return data


@pytest.fixture(scope="module")
def mnist():
    """60 training and 20 test pictures of 28 pixels."""
    rng = np.random.default_rng(0)
    counts = {"train": 60, "test": 20}
    x = {f"x_{split}": rng.integers(0, 256, (count, 28, 28)).astype(np.uint8) for split, count in counts.items()}
    return x | {f"y_{split}": (np.arange(count) % 10).astype(np.uint8) for split, count in counts.items()}


def write_idx(path, values, magic, zipped=False):
    content = np.array([magic, *values.shape], ">i4").tobytes() + values.tobytes()
    path.write_bytes(gzip.compress(content) if zipped else content)


def write_cifar(folder, names, labels, classes, count=20, **more):
    """CIFAR pickles with byte keys, as python 2 left them; pixel p of plane c of picture r is (r + 50 c + p) % 251."""
    rows, columns = np.arange(count)[:, None], np.arange(3072)[None]
    data = ((rows + 50 * (columns // 1024) + columns % 1024) % 251).astype(np.uint8)
    folder.mkdir(exist_ok=True)
    for name in names:
        content = {b"data": data, labels: (np.arange(count) % classes).tolist()} | more
        (folder / name).write_bytes(pickle.dumps(content, protocol=4))
    return folder


def write_tree(folder, counts, size=8, suffix="png"):
    for place, count in counts.items():
        (folder / place).mkdir(parents=True)
        for number in range(count):
            picture = np.full((size, size, 3), 10 * number, np.uint8)
            Image.fromarray(picture).save(folder / place / f"{number}.{suffix}")
    return folder


def test_mnist_reads_the_same_from_npz_and_from_idx_files(mnist, tmp_path):
    np.savez(tmp_path / "mnist.npz", **mnist)
    folder = tmp_path / "idx"
    folder.mkdir()
    for split, stem, zipped in (("train", "train", False), ("test", "t10k", True)):
        end = ".gz" if zipped else ""
        write_idx(folder / f"{stem}-images-idx3-ubyte{end}", mnist[f"x_{split}"], 2051, zipped)
        write_idx(folder / f"{stem}-labels-idx1-ubyte{end}", mnist[f"y_{split}"], 2049, zipped)
    first, second = make(Mnist, tmp_path / "mnist.npz"), make(Mnist, folder)
    assert first.fingerprint == second.fingerprint
    assert first.data_source == "real"
    assert first.facts["num_samples"] == {"train": 50, "val": 10, "test": 20}
    assert np.array_equal(first.splits["test"].x[:, 0], mnist["x_test"])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\0\0\x08\x01" + bytes(12), "magic"), (np.array([2051, 60, 28, 28], ">i4").tobytes() + bytes(9), "9 bytes")],
)
def test_a_damaged_idx_file_is_one_line(content, message, tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(UserError, match=message):
        make(Mnist, tmp_path)


def test_an_npz_without_the_arrays_or_with_a_wrong_label_is_refused(mnist, tmp_path):
    np.savez(tmp_path / "a.npz", x_train=mnist["x_train"])
    with pytest.raises(UserError, match="y_train"):
        make(Mnist, tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **mnist | {"y_test": mnist["y_test"] + 5})
    with pytest.raises(UserError, match="label 10 of picture 5"):
        make(Mnist, tmp_path / "b.npz")


def test_digits_are_rows_of_pixels_and_a_label(tmp_path):
    rows = np.random.default_rng(0).integers(0, 17, (100, 65))
    rows[:, 64] = np.arange(100) % 10
    with gzip.open(tmp_path / "digits.csv.gz", "wt") as file:
        np.savetxt(file, rows, "%d", ",")
    data = make(Digits, tmp_path / "digits.csv.gz")
    assert data.facts["num_samples"] == {"train": 70, "val": 10, "test": 20}
    pictures = np.concatenate([data.splits[split].x for split in ("train", "val", "test")]).reshape(100, 64)
    assert sorted(map(tuple, pictures * 16)) == sorted(map(tuple, rows[:, :64].astype(np.float32)))
    rows[3, 7] = 17
    np.savetxt(tmp_path / "digits.csv", rows, "%d", ",")
    with pytest.raises(UserError, match="row 4"):
        make(Digits, tmp_path / "digits.csv")


def test_cifar10_pickles_hold_planes_of_red_green_and_blue(tmp_path):
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    write_cifar(tmp_path / "cifar-10-batches-py", names, b"labels", 10)
    data = make(Cifar10, tmp_path)
    assert data.facts["num_samples"] == {"train": 90, "val": 10, "test": 20}
    assert data.splits["test"].x[2, :, 1, 3].tolist() == [(2 + 50 * plane + 35) % 251 for plane in range(3)]
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(UserError, match="data_batch_4: is missing"):
        make(Cifar10, tmp_path)


def test_cifar100_confuses_classes_within_a_superclass(tmp_path):
    fine = np.arange(200) % 100
    write_cifar(tmp_path, ["train", "test"], b"fine_labels", 100, 200, coarse_labels=(fine % 20).tolist())
    data = make(Cifar100, tmp_path)
    assert data.confused["class_03"] == "class_23"
    assert data.confused["class_83"] == "class_03"
    (tmp_path / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"n%d" % each for each in range(100)]}, 4))
    assert make(Cifar100, tmp_path).class_names[7] == "n7"
    (tmp_path / "meta").write_bytes(pickle.dumps({b"fine_label_names": ["a", "b"]}, 4))
    with pytest.raises(UserError, match="meta: holds 2 names"):
        make(Cifar100, tmp_path)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("content", [pickle.dumps({b"data": Evil()}), pickle.dumps(os.system), b"no pickle", b""])
def test_a_pickle_cannot_run_code(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(UserError, match="not a pickle of numpy arrays"):
        load_arrays(tmp_path / "data_batch_1")
    assert not Path("owned").exists()


def test_pickles_of_old_and_new_numpy_are_read(tmp_path):
    new = pickle.dumps({b"data": np.arange(6, dtype=np.uint8).reshape(2, 3)}, protocol=4)
    old = new.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    assert old != new
    for name, content in (("new", new), ("old", old.replace(b"\x95", b"\x95", 1))):
        unframed = content[:2] + content[11:]  # the frame tells a length that no longer holds
        (tmp_path / name).write_bytes(unframed)
        assert load_arrays(tmp_path / name)[b"data"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_class_folders_read_the_same_from_a_folder_and_from_archives(tmp_path):
    tree = write_tree(tmp_path / "tree", {"train/cat": 20, "train/dog": 10, "test/cat": 3, "test/dog": 2})
    archives = tmp_path / "archives"
    archives.mkdir()
    for split in ("train", "test"):
        with zipfile.ZipFile(archives / f"{split}.zip", "w") as file:
            for path in sorted((tree / split).rglob("*.png")):
                file.write(path, path.relative_to(tree))
    options = {"size": 8, "channels": 3}
    first, second = make(ImageFolder, tree, **options), make(ImageFolder, archives, **options)
    assert first.fingerprint == second.fingerprint
    assert first.class_names == ["cat", "dog"]
    assert first.facts["num_samples"] == {"train": 27, "val": 3, "test": 5}
    assert first.splits["test"].x[:, 0, 0, 0].tolist() == [0, 10, 20, 0, 10]
    assert first.splits["test"].y.tolist() == [0, 0, 0, 1, 1]
    assert make(ImageFolder, archives, size=4, channels=1).splits["test"].x.shape == (5, 1, 4, 4)


def test_jpeg_class_folders_stand_for_cifar10(tmp_path):
    places = {f"{split}/{name}": count for name in CIFAR10 for split, count in (("train", 2), ("test", 1))}
    data = make(Cifar10, write_tree(tmp_path / "tree", places, size=32, suffix="jpg"))
    assert data.splits["test"].y.tolist() == list(range(10))
    with pytest.raises(UserError, match="airplane"):
        make(Cifar10, write_tree(tmp_path / "other", {"train/a": 2, "train/b": 2}))


def test_class_folders_without_splits_lose_a_fifth_and_a_tenth(tmp_path):
    parts, _ = read_tree(write_tree(tmp_path, {"a": 10, "b": 20}), 8, 3)
    splits = complete_splits(parts, lambda y: y)
    assert [np.bincount(y).tolist() for _, y in splits.values()] == [[7, 14], [1, 2], [2, 4]]


def test_bad_class_folders_are_one_line(tmp_path):
    tree = write_tree(tmp_path / "a", {"train/cat": 2, "test/cow": 1})
    with pytest.raises(UserError, match="no training pictures of class cow"):
        read_tree(tree, 8, 3)
    (tree / "test/cow/0.png").unlink()
    (tree / "train/cat/0.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"train/cat/0\.png: cannot be read"):
        read_tree(tree, 8, 3)
    with pytest.raises(UserError, match="lies in no class folder"):
        read_tree(tree / "train/cat", 8, 3)
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="no zip archive"):
        read_tree(tmp_path / "broken.zip", 8, 3)
    with pytest.raises(UserError, match="nothing at"):
        make(ImageFolder, "nowhere", size=8, channels=3)


def test_cifar_c_is_read_by_severity_and_mixed_over_its_files(tmp_path):
    places = {f"{split}/{name}": 2 for name in CIFAR10 for split in ("train", "test")}
    tree, folder = write_tree(tmp_path / "tree", places, size=32), tmp_path / "c"
    folder.mkdir()
    for number, name in enumerate(("frost", "jpeg_compression")):
        values = np.repeat(np.arange(5, dtype=np.uint8) + 10 * number, 20)[:, None, None, None]
        np.save(folder / f"{name}.npy", np.broadcast_to(values, (100, 32, 32, 3)))
    np.save(folder / "labels.npy", np.tile(np.arange(20) % 10, 5))
    options = {"cifar_c": str(folder), "strength": 2.0}
    assert (make(Cifar10, tree, "frost", **options).splits["test"].x == 1).all()
    assert (make(Cifar10, tree, "jpeg", **options).splits["test"].x == 11).all()
    mixed = make(Cifar10, tree, "corrupted", **options).splits["test"]
    kinds = spread(20, ["jpeg_compression", "frost"], seed=0)
    assert mixed.x[:, 0, 0, 0].tolist() == [1 if kind == "frost" else 11 for kind in kinds]
    with pytest.raises(UserError, match="CIFAR-10-C only"):
        make(Cifar10, tree, "frost")
    with pytest.raises(UserError, match=r"fog\.npy"):
        read_cifar_c(folder, "fog", 1)


def test_a_stratified_part_is_the_same_share_of_every_class_and_always_the_same():
    label = np.repeat([0, 1, 2], [50, 30, 3])
    held = hold_out(label, 0.1)
    assert np.bincount(label[held]).tolist() == [5, 3, 1]
    assert np.array_equal(held, hold_out(label, 0.1))


def test_symmetric_noise_changes_exactly_its_share_to_all_other_classes_alike():
    label = np.arange(9000) % 5
    noisy = symmetric_noise(label, 0.4, 5, np.random.default_rng(0))
    shift = (noisy - label) % 5
    assert (shift != 0).sum() == 3600
    assert np.bincount(shift, minlength=5)[1:] == pytest.approx(900, abs=100)


def test_asymmetric_noise_changes_its_share_of_the_named_classes_only():
    label = np.arange(1000) % 10
    noisy = asymmetric_noise(label, 0.3, {3: 5, 5: 3, 9: 1}, np.random.default_rng(0))
    assert [(noisy[label == each] != each).sum() for each in range(10)] == [0, 0, 0, 30, 0, 30, 0, 0, 0, 30]
    assert set(noisy[label == 9]) == {9, 1}


def test_conditions_touch_what_they_name_and_nothing_else():
    clean = shapes().splits
    changed = {
        "label_noise": ("train", "y", 40), "asymmetric_noise": ("train", "y", 20), "fog": ("test", "x", 30),
        "corrupted": ("test", "x", 30), "weak_labels": ("train", "y_weak", 0), "weak_data": ("train", "taught_weak", 0),
    }  # fmt: skip
    for condition, (split, field, count) in changed.items():
        splits = shapes(condition).splits
        assert splits[split].__dict__[field] is not None
        for name, samples in splits.items():
            for each in ("x", "y"):
                differs = (getattr(samples, each) != getattr(clean[name], each)).reshape(len(samples), -1).any(1).sum()
                assert differs == (count if (name, each) == (split, field) else 0), (condition, name, each)


def test_asymmetric_noise_needs_to_know_the_classes(tmp_path):
    tree = write_tree(tmp_path, {"train/cat": 20, "train/dog": 20, "test/cat": 1})
    options = {"size": 8, "channels": 3}
    with pytest.raises(UserError, match="confused"):
        make(ImageFolder, tree, "asymmetric_noise", **options)
    with pytest.raises(UserError, match="Did you mean dog"):
        make(ImageFolder, tree, "asymmetric_noise", confused={"cat": "dgo"}, **options)
    noisy = make(ImageFolder, tree, "asymmetric_noise", confused={"cat": "dog"}, **options).splits["train"]
    assert np.bincount(noisy.y).tolist() == [11, 25]  # of 18 cats 7 are called dogs


def test_the_chosen_training_pictures_are_the_same_every_time(mnist):
    part = mnist["x_train"], mnist["y_train"]
    first, second = choose(part, 20), choose(part, 20)
    assert np.array_equal(first[0], second[0])
    assert len(first[1]) == 20
    with pytest.raises(UserError, match="only 60"):
        choose(part, 61)


def test_prepared_pictures_have_mean_0_and_deviation_1():
    data = shapes()
    x = data.prepare(data.splits["train"].x)
    assert x.dtype == np.float32
    assert abs(x.mean()) < 1e-5
    assert x.std() == pytest.approx(1, abs=1e-4)


def test_channel_moments_of_many_bytes_are_those_of_one_pass():
    x = np.random.default_rng(0).integers(0, 256, (600, 3, 2, 2)).astype(np.uint8)
    mean, std = channel_moments(x)
    assert mean.ravel() == pytest.approx(x.mean((0, 2, 3)), rel=1e-6)
    assert std.ravel() == pytest.approx(x.std((0, 2, 3)), rel=1e-6)


def test_crop_flip_moves_and_mirrors_as_the_draws_say():
    picture = torch.arange(1.0, 10.0).view(1, 1, 3, 3).repeat(4, 1, 1, 1)
    same, down, right = [0.5, 0.5, 0.9, 0.0], [0.99, 0.5, 0.9, 0.0], [0.5, 0.99, 0.9, 0.0]
    mirror = [0.5, 0.5, 0.1, 0.0]
    moved = crop_flip(picture, torch.tensor([same, down, right, mirror]), pad=1, flip=True, fill=0.0)[:, 0].tolist()
    assert moved[0] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert moved[1] == [[4, 5, 6], [7, 8, 9], [0, 0, 0]]
    assert moved[2] == [[2, 3, 0], [5, 6, 0], [8, 9, 0]]
    assert moved[3] == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]


def test_what_comes_in_at_the_edge_of_a_crop_is_black(mnist, tmp_path):
    np.savez(tmp_path / "mnist.npz", **mnist)
    data = make(Mnist, tmp_path / "mnist.npz", crop_pad=4)
    batch = data.dataset_of("train")[np.arange(2)]
    moved = data.augment(batch, torch.tensor([[0.99, 0.5, 0.5, 0.5]] * 2))
    assert torch.allclose(moved.x[:, :, :-4], batch.x[:, :, 4:])
    assert torch.allclose(moved.x[:, :, -4:] * torch.from_numpy(data.std), -torch.from_numpy(data.mean), atol=1e-4)
    assert torch.equal(moved.targets[0], batch.targets[0])


@pytest.mark.slow
def test_a_small_cnn_learns_the_glyphs_and_a_perceptron_learns_them_less():
    from ssmo.networks.vision import CNN, MLP

    data = Shapes10(condition="clean", num_train=2000, num_val=500, num_test=1000, size=16, **COMMON)
    data.setup()
    train, test = (data.dataset_of(split)[np.arange(len(data.splits[split]))] for split in ("train", "test"))
    accuracy = []
    for make_network in (CNN, MLP):
        torch.manual_seed(0)
        network = make_network(1, 10, 16)
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        for _ in range(30):
            for rows in torch.randperm(2000).split(64):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(network(train.x[rows]), train.targets[0][rows]).backward()
                optimizer.step()
        accuracy.append((network(test.x).argmax(1) == test.targets[0]).float().mean().item())
    assert accuracy[0] > 0.95
    assert accuracy[1] < accuracy[0] - 0.02


@pytest.fixture
def real():
    if "DATA_DIR" not in os.environ:
        pytest.skip("needs DATA_DIR")
    return Path(os.environ["DATA_DIR"]) / "ssmo"


def test_the_real_digits_and_mnist_have_the_known_counts(real):
    assert make(Digits, real / "digits.csv.gz").facts["num_samples"] == {"train": 1295, "val": 143, "test": 359}
    data = make(Mnist, real / "mnist_10k.npz", num_train=5000)
    assert data.facts["num_samples"]["train"] == 5000
    assert data.facts["num_samples"]["test"] == 2500
    assert data.mean.item() / 255 == pytest.approx(0.1307, abs=0.003)
    assert data.std.item() / 255 == pytest.approx(0.3081, abs=0.005)


@pytest.mark.slow
def test_the_real_cifar10_has_two_hundred_test_pictures_of_every_class(real):
    with zipfile.ZipFile(real / "cifar10_jpg" / "cifar10_test2k.zip") as archive:
        first = np.asarray(Image.open(io.BytesIO(archive.read("test/cat/" + min(
            name.split("/")[-1] for name in archive.namelist() if name.startswith("test/cat/"))))))  # fmt: skip
    data = make(Cifar10, real / "cifar10_jpg")
    assert data.facts["num_samples"] == {"train": 9000, "val": 1000, "test": 2000}
    assert np.bincount(data.splits["test"].y).tolist() == [200] * 10
    assert np.array_equal(data.splits["test"].x[600], first.transpose(2, 0, 1))
    assert data.mean.ravel() / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.006)
