"""The full matrix: what it lists, and that every pair in it can be built for its data. Nothing is trained or read."""

from collections import Counter
from math import prod

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from common import matrix
from common.config import compose
from ssmo.tasks import Classification, Operator, Segmentation, Series

PICTURES = {  # channels, classes, size
    "mnist": (1, 10, 28), "cifar10": (3, 10, 32), "cifar100": (3, 100, 32), "voc": (3, 21, 64), "camvid": (3, 11, 64),
}  # fmt: skip
OPERATOR_PAIRS = {"fno_fno", "fno_deeponet", "latentattention_fno", "deeponet_deeponet", "latentattention_deeponet",
                  "latentattention_latentattention"}  # fmt: skip
PAIRS = {
    "mnist": {"cnn_cnn", "cnn_mlp", "mlp_mlp"},
    "cifar10": {"cnn_cnn", "cnn_mlp", "mlp_mlp", "resnet18_vittiny"},
    "cifar100": {"cnn_cnn", "cnn_mlp", "mlp_mlp", "resnet18_vittiny"},
    "burgers": OPERATOR_PAIRS, "darcy": OPERATOR_PAIRS, "navier_stokes": OPERATOR_PAIRS,
    "etth1": {"dlinear_patchtst"}, "voc": {"unet_deeplabv3plus"}, "camvid": {"unet_deeplabv3plus"},
}  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def blocks():
    return OmegaConf.to_container(compose("ssmo_matrix_full").matrix.blocks)


@pytest.fixture(scope="module")
def cells(blocks):
    """The runs of one seed and two methods."""
    config = compose("ssmo_matrix_full")
    config.matrix.blocks = [block | {"seed": [0], "loss": block["loss"][::2]} for block in blocks]
    return matrix.plan(matrix.checked_matrix(config, []), config)


def test_the_full_matrix_lists_every_pair_condition_and_method(blocks, cells):
    assert all((len(block["seed"]), len(block["loss"])) == (5, 4) for block in blocks)
    assert sum(prod(map(len, block.values())) for block in blocks) == 1240
    runs = [cell.name.split("-") for cell in cells]
    assert Counter(method for _, _, _, method, *_ in runs) == {"ssmo_hard": 62, "independent": 62 - 12}
    for dataset, pairs in PAIRS.items():
        found = {(pair, condition) for _, data, pair, method, condition, *_ in runs
                 if (data, method) == (dataset, "ssmo_hard")}  # fmt: skip
        assert {pair for pair, condition in found if condition == "clean"} == pairs
        assert len(found) == len(pairs) + 3 + {"darcy": 2, "navier_stokes": 1}.get(dataset, 0)


def test_every_data_module_of_the_full_matrix_can_be_built(cells, tmp_path):
    for cell in cells:
        config = cell.config.copy()
        config.paths.output_dir = str(tmp_path)
        assert instantiate(config.data).condition == config.data.condition


def example(name, data):
    """Facts, input and targets of a data set, of two samples without values."""
    if name in PICTURES:
        channels, classes, size = PICTURES[name]
        labels = (2, size, size) if get_class(data._target_).task == "segmentation" else (2,)
        task = Segmentation(classes) if len(labels) > 1 else Classification(classes)
        facts = {"in_channels": channels, "num_classes": classes, "size": size}
        return facts, task, torch.empty(2, channels, size, size), torch.empty(labels)
    if name == "etth1":
        facts = {"input_length": data.input_length, "horizon": data.horizon, "num_channels": 7}
        return facts, Series(), torch.empty(2, data.input_length, 7), torch.empty(2, data.horizon, 7)
    kind = get_class(data._target_)
    facts = {"in_channels": 1, "out_channels": 1, "num_dims": kind.num_dims, "periodic": kind.periodic}
    fields = torch.empty(2, 1, *[data.points] * kind.num_dims)
    return facts | {"grid": list(fields.shape[2:])}, Operator([0.0], [1.0]), fields, fields


def test_every_pair_of_the_full_matrix_answers_for_its_data(cells):
    different = {tuple(cell.name.split("-")[1:3]): cell.config for cell in cells}
    assert len(different) == sum(map(len, PAIRS.values()))
    for (name, _), config in different.items():
        with torch.device("meta"):  # shapes only: the largest pair has a gigabyte of weights
            facts, task, x, target = example(name, config.data)
            config = config.copy()
            OmegaConf.update(config, "facts", facts, force_add=True)
            for output in instantiate(config.model)(x):
                assert output.shape == task.output_shape(target), name
