import os
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from common.errors import UserError
from ssmo.data.operator import Burgers, Darcy, FieldFile, NavierStokes
from ssmo.solvers import solve_burgers, solve_darcy, solve_navier_stokes
from ssmo.tasks import Operator

COMMON = {"seed": 0, "batch_size": 4, "num_workers": 0, "data_seed": 0}
COUNTS = {"num_train": 6, "num_val": 3, "num_test": 4}
BURGERS = {"points": 16, "solver_points": 64, "exponent": 2.0, "viscosity": 0.02, "dt": 0.02}
DARCY = {"points": 9, "solver_points": 33, "exponent": 2.0, "tau": 3.0, "coefficient": "binary"}
NAVIER_STOKES = {
    "points": 8, "solver_points": 32, "exponent": 2.5, "viscosity": 1e-3, "t_end": 0.1, "variance": 18.5,
    "forcing": 0.1, "dt": 0.02,
}  # fmt: skip
EQUATIONS = [(Burgers, BURGERS), (Darcy, DARCY), (NavierStokes, NAVIER_STOKES)]


def build(kind, settings, cache, condition="clean", strength=None, **changed):
    arguments = COMMON | COUNTS | settings | changed
    data = kind(condition=condition, strength=strength, cache_dir=str(cache), **arguments)
    data.setup()
    return data


def own_units(data, split):
    """Inputs and targets of a split before they were standardised."""
    return data.fields()[split]


def read(path, condition="clean", strength=None, **changed):
    arguments = COMMON | {
        "num_train": 5, "num_val": 2, "num_test": 3, "test_path": None, "num_dims": 1, "periodic": True, "stride": 1,
        "test_stride": None, "data_dir": None,
    }  # fmt: skip
    data = FieldFile(condition=condition, strength=strength, path=str(path), **(arguments | changed))
    data.setup()
    return data


@pytest.mark.parametrize(("kind", "settings"), EQUATIONS)
def test_fields_are_standardised_over_training_samples(tmp_path, kind, settings):
    data = build(kind, settings, tmp_path)
    for values in (data.splits["train"].x, data.splits["train"].y):
        assert values.dtype == np.float32
        assert values.mean() == pytest.approx(0, abs=1e-4)
        assert values.std() == pytest.approx(1, abs=1e-4)
    task = Operator(data.facts["task"]["mean"], data.facts["task"]["std"])
    restored = task.fields(torch.from_numpy(data.splits["test"].y))
    np.testing.assert_allclose(restored, own_units(data, "test")[1], rtol=1e-4, atol=1e-6)
    assert data.facts["grid"] == list(data.splits["val"].x.shape[2:]) == [settings["points"]] * data.num_dims


def test_targets_solve_the_equation_of_their_inputs(tmp_path):
    u0, u = own_units(build(Burgers, BURGERS, tmp_path, points=64), "val")
    np.testing.assert_allclose(u[:, 0], solve_burgers(torch.from_numpy(u0[:, 0]), 0.02, 1.0, dt=0.02), atol=1e-6)
    a, p = own_units(build(Darcy, DARCY, tmp_path, points=33), "val")
    np.testing.assert_allclose(p[:, 0], solve_darcy(torch.from_numpy(a[:, 0])), atol=1e-7)
    assert set(np.unique(a)) == {3.0, 12.0}
    assert not p[:, 0, 0].any()
    assert not p[:, 0, :, -1].any()
    w0, w = own_units(build(NavierStokes, NAVIER_STOKES, tmp_path, points=32, forcing=0.0), "val")
    np.testing.assert_allclose(
        w[:, 0], solve_navier_stokes(torch.from_numpy(w0[:, 0]), 1e-3, 0.1, None, 0.02), atol=1e-6
    )


@pytest.mark.parametrize(("kind", "settings"), EQUATIONS)
def test_fields_are_generated_once_and_read_again(tmp_path, kind, settings, monkeypatch):
    first = build(kind, settings, tmp_path)
    monkeypatch.setattr(kind, "solve", None)
    assert build(kind, settings, tmp_path).fingerprint == first.fingerprint
    with pytest.raises(TypeError):
        build(kind, settings, tmp_path, exponent=settings["exponent"] + 1)


def test_splits_differ_and_none_depends_on_the_size_of_another(tmp_path):
    small, large = build(Burgers, BURGERS, tmp_path), build(Burgers, BURGERS, tmp_path, num_train=40)
    assert np.array_equal(own_units(small, "test")[0], own_units(large, "test")[0])
    assert not np.array_equal(own_units(small, "train")[0][:3], own_units(small, "val")[0])
    assert not np.array_equal(own_units(large, "train")[0][:6], own_units(large, "train")[0][32:38])
    other = build(Burgers, BURGERS, tmp_path, data_seed=1)
    assert not np.array_equal(own_units(small, "test")[0], own_units(other, "test")[0])


@pytest.mark.parametrize(("kind", "settings"), EQUATIONS)
def test_resolution_shift_tests_on_a_finer_grid_of_the_same_solutions(tmp_path, kind, settings):
    clean, shifted = build(kind, settings, tmp_path), build(kind, settings, tmp_path, "resolution_shift", 4)
    points = settings["points"] * 4 if kind is not Darcy else 33
    assert shifted.facts["test_grid"] == [points] * clean.num_dims
    assert shifted.facts["grid"] == clean.facts["grid"]
    for fine, coarse in zip(own_units(shifted, "test"), own_units(clean, "test"), strict=True):
        assert np.array_equal(fine[(..., *[slice(None, None, 4)] * clean.num_dims)], coarse)
    assert shifted.facts["task"] == clean.facts["task"]


SHIFTS = [(*equation, condition) for equation in EQUATIONS for condition in ("parameter_shift", "ic_shift")]
SHIFTS += [(Darcy, DARCY, "source_shift"), (Darcy, DARCY, "coefficient_shift")]
SHIFTS += [(NavierStokes, NAVIER_STOKES, "forcing_shift")]


@pytest.mark.parametrize(("kind", "settings", "condition"), SHIFTS)
def test_shifts_change_the_test_and_keep_training(tmp_path, kind, settings, condition):
    clean, shifted = build(kind, settings, tmp_path), build(kind, settings, tmp_path, condition)
    assert not np.array_equal(own_units(clean, "test")[1], own_units(shifted, "test")[1])
    if (kind, condition) != (Burgers, "parameter_shift"):  # where training varies the viscosity
        assert np.array_equal(own_units(clean, "train")[1], own_units(shifted, "train")[1])


def test_burgers_under_parameter_shift_tells_the_viscosity(tmp_path):
    data = build(Burgers, BURGERS, tmp_path, "parameter_shift", 2)
    train, test = own_units(data, "train")[0][:, 1], own_units(data, "test")[0][:, 1]
    assert data.facts["in_channels"] == 2
    assert ((train > 0.02) & (train < 0.04)).all()
    assert len(np.unique(train)) == 6
    assert test[:, 0].tolist() == pytest.approx([0.01, 0.08, 0.01, 0.08])


def test_a_shifted_source_drives_the_same_medium(tmp_path):
    clean, shifted = (build(Darcy, DARCY, tmp_path, *each, points=33) for each in ((), ("source_shift", 0.5)))
    (a, before), (same, after) = (own_units(each, "test") for each in (clean, shifted))
    assert np.array_equal(a, same)
    x = np.arange(33) / 32
    source = torch.from_numpy(np.repeat(1 + 0.5 * np.sin(np.pi * x)[:, None], 33, 1))
    np.testing.assert_allclose(after[:, 0], solve_darcy(torch.from_numpy(a[:, 0]), source), atol=1e-7)
    middle = (after / np.maximum(before, 1e-12))[:, 0, 16, 16]
    assert ((middle > 1.3) & (middle < 1.5)).all()


def test_a_shifted_coefficient_is_lognormal_where_the_other_was_binary(tmp_path):
    clean, shifted = (build(Darcy, DARCY, tmp_path, *each) for each in ((), ("coefficient_shift", 2.0)))
    (binary, _), (smooth, _) = (own_units(each, "test") for each in (clean, shifted))
    field = np.log(smooth) / 2.0
    assert np.array_equal(field >= 0, binary == 12)
    assert len(np.unique(smooth)) == smooth.size
    assert shifted.facts["task"] == clean.facts["task"]
    with pytest.raises(UserError, match="coefficient=lognormal: coefficient_shift trains on binary"):
        build(Darcy, DARCY, tmp_path, "coefficient_shift", coefficient="lognormal")


def test_a_shifted_forcing_is_stronger_by_its_factor(tmp_path):
    shifted = build(NavierStokes, NAVIER_STOKES, tmp_path, "forcing_shift", points=32)
    stronger = build(NavierStokes, NAVIER_STOKES, tmp_path, points=32, forcing=1.5 * 0.1)
    assert all(map(np.array_equal, own_units(shifted, "test"), own_units(stronger, "test")))
    assert not np.array_equal(own_units(shifted, "train")[1], own_units(stronger, "train")[1])


def test_a_smaller_exponent_is_rougher(tmp_path):
    data = build(Burgers, BURGERS, tmp_path, "ic_shift", 0.6, num_test=60, num_train=60)
    rough = [np.abs(np.diff(own_units(data, split)[0], axis=-1)).mean() for split in ("train", "test")]
    assert rough[1] > 1.3 * rough[0]


def test_weak_labels_are_noisy_for_slot_two(tmp_path):
    train = build(Burgers, BURGERS, tmp_path, "weak_labels", num_train=60).splits["train"]
    assert (train.y_weak - train.y).std() == pytest.approx(0.1, rel=0.1)
    assert train.y_weak.dtype == np.float32


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"points": 24}, "train grid of 24 points cannot be taken"),
        ({"points": 128}, "make that 128"),
        ({"condition": "resolution_shift", "strength": 8}, "test grid of 128 points"),
        ({"condition": "resolution_shift", "strength": 1.5}, "1.5 is no finer grid"),
    ],
)
def test_grids_that_the_solver_does_not_have_are_refused(tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        build(Burgers, BURGERS, tmp_path, **changed)


@pytest.fixture
def waves():
    rng = np.random.default_rng(0)
    return rng.normal(size=(12, 16)), rng.normal(size=(12, 16))


def assert_same_as(data, x, y, stride=1):
    """The splits of the file are rows 0-5, 5-7 and 7-10 of these."""
    found = data.fields()
    for split, rows in (("train", slice(0, 5)), ("val", slice(5, 7)), ("test", slice(7, 10))):
        for values, expected in zip(found[split], (x, y), strict=True):
            np.testing.assert_allclose(values[:, 0], expected[rows, ::stride], rtol=1e-6)


def test_matlab_5_file_is_read_with_its_stride(tmp_path, waves):
    scipy.io.savemat(tmp_path / "r10.mat", {"a": waves[0], "u": waves[1], "a_smooth": waves[0]})
    data = read(tmp_path / "r10.mat", stride=4)
    assert_same_as(data, *waves, stride=4)
    assert data.facts["grid"] == [4]
    assert data.dataset == "r10"
    assert data.data_source == "real"


def test_matlab_7_file_is_read_with_its_axes_turned(tmp_path, waves):
    h5py = pytest.importorskip("h5py")
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    with h5py.File(tmp_path / "r10.mat", "w", userblock_size=512) as file:
        file["a"], file["u"] = waves[0].T, waves[1].T
    with open(tmp_path / "r10.mat", "r+b") as file:
        file.write(header)
    assert_same_as(read(tmp_path / "r10.mat"), *waves)


def test_torch_dict_is_read_and_the_last_time_is_the_target(tmp_path, waves):
    x, y = (torch.from_numpy(each) for each in waves)
    torch.save({"x": x, "y": torch.stack([x, y], 1), "visc": 0.01}, tmp_path / "b.pt")
    assert_same_as(read(tmp_path / "b.pt"), *waves)


def test_a_test_file_of_its_own_may_be_finer(tmp_path):
    rng = np.random.default_rng(0)
    for name, points in (("train", 4), ("fine", 8)):
        fields = torch.from_numpy(rng.normal(size=(8, points, points)))
        torch.save({"x": fields > 0, "y": fields}, tmp_path / f"{name}.pt")
    files = {"test_path": str(tmp_path / "fine.pt"), "num_dims": 2, "periodic": False}
    data = read(tmp_path / "train.pt", "resolution_shift", test_stride=1, **files)
    assert data.facts["test_grid"] == [8, 8]
    assert data.facts["in_channels"] == 1
    assert np.array_equal(data.fields()["test"][1][:, 0], fields[:3].float().numpy())
    assert set(np.unique(data.fields()["train"][0])) == {0.0, 1.0}
    with pytest.raises(UserError, match=r"test grid is \(8, 8\), that of training \(4, 4\)"):
        read(tmp_path / "train.pt", **files)


def test_resolution_shift_of_one_file_strides_less_in_the_test(tmp_path, waves):
    scipy.io.savemat(tmp_path / "r.mat", {"a": waves[0], "u": waves[1]})
    data = read(tmp_path / "r.mat", "resolution_shift", 2, stride=4)
    np.testing.assert_allclose(data.fields()["test"][1][:, 0], waves[1][7:10, ::2], rtol=1e-6)
    with pytest.raises(UserError, match=r"data\.stride: 1 is no multiple of 2"):
        read(tmp_path / "r.mat", "resolution_shift", 2)


def test_pdebench_files_are_read(tmp_path, waves):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "burgers.hdf5", "w") as file:
        file["tensor"] = np.stack([waves[0], 0 * waves[0], waves[1]], 1)
        file["x-coordinate"], file["t-coordinate"] = np.arange(16.0), np.arange(3.0)
    assert_same_as(read(tmp_path / "burgers.hdf5"), *waves)
    nu, pressure = (np.random.default_rng(seed).normal(size=(12, 4, 4)) for seed in (1, 2))
    with h5py.File(tmp_path / "darcy.h5", "w") as file:
        file["nu"], file["tensor"] = nu, pressure[:, None]
    found = read(tmp_path / "darcy.h5", num_dims=2, periodic=False).fields()["test"]
    np.testing.assert_allclose(found, np.stack([nu[7:10, None], pressure[7:10, None]]), rtol=1e-6)


def test_hdf5_without_its_package_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "x.hdf5").touch()
    with pytest.raises(UserError, match="h5py is not installed"):
        read(tmp_path / "x.hdf5")


def bad_torch(content):
    return lambda path: torch.save(content, path)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("x.csv", lambda path: path.touch(), "is of no known format"),
        ("x.mat", lambda path: path.write_bytes(b"nothing" * 50), "is no MATLAB file"),
        ("x.mat", lambda path: scipy.io.savemat(path, {"a": np.zeros((9, 4))}), "has no u, only a"),
        ("x.pt", lambda path: path.write_bytes(b"nothing"), "is no torch file of plain tensors"),
        ("x.pt", bad_torch([1]), "holds a list"),
        ("x.pt", bad_torch({"x": torch.zeros(9, 4), "y": torch.zeros(9, 4)}), "holds 9 samples, 7 to 10 are asked for"),
        ("x.pt", bad_torch({"x": torch.zeros(12), "y": torch.zeros(12)}), "do not fit data.num_dims=1"),
        ("x.pt", bad_torch({"x": torch.zeros(12, 4), "y": torch.zeros(12, 5)}), "they must be equal"),
        ("x.pt", bad_torch({"x": torch.zeros(12, 4), "y": torch.full((12, 4), torch.nan)}), "sample 0 is not finite"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="DATA_DIR is not set")
def test_the_small_files_of_neuraloperator_are_read():
    folder = Path(os.environ["DATA_DIR"]) / "ssmo" / "neuralop_small"
    if not folder.exists():
        pytest.skip("neuralop_small is not there")
    counts = {"num_train": 700, "num_val": 100, "num_test": 50}
    burgers = read(folder / "burgers_train_16.pt", test_path=str(folder / "burgers_test_16.pt"), **counts)
    assert burgers.facts["grid"] == [16]
    assert burgers.fields()["train"][1].shape == (700, 1, 16)
    darcy = read(
        folder / "darcy_train_16.pt", "resolution_shift", test_path=str(folder / "darcy_test_32.pt"), test_stride=1,
        num_dims=2, periodic=False, **counts,
    )  # fmt: skip
    assert darcy.facts["test_grid"] == [32, 32]
