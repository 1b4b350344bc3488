import pytest
import torch
from torch import nn

from common import schedules
from common.errors import UserError
from common.module import TrunkModule


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))


def module(*patterns):
    made = TrunkModule(Network(), torch.optim.SGD, schedules.constant, patterns)
    made.freeze()
    return made


def test_only_the_named_parameters_train():
    frozen = module("network.head.*")
    trains = {name for name, parameter in frozen.named_parameters() if parameter.requires_grad}
    assert trains == {"network.head.0.weight", "network.head.0.bias"}


def test_a_pattern_with_an_exclamation_mark_takes_away():
    frozen = module("!network.head.*", "network.*")
    trains = {name.split(".")[1] for name, parameter in frozen.named_parameters() if parameter.requires_grad}
    assert trains == {"backbone"}


def test_frozen_parts_stay_in_evaluation_mode():
    frozen = module("network.head.*")
    for mode in (True, False, True):
        frozen.train(mode)
        assert not any(part.training for part in frozen.network.backbone.modules())
        assert frozen.network.head[1].training is mode


def test_a_frozen_batch_norm_keeps_its_statistics_bit_for_bit():
    frozen = module("network.head.*")
    before = {name: value.clone() for name, value in frozen.network.backbone.state_dict().items()}
    frozen.train()
    for _ in range(3):
        frozen.network.head(frozen.network.backbone(torch.randn(8, 4))).sum().backward()
    after = frozen.network.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_pattern_that_names_nothing_is_an_error():
    with pytest.raises(
        UserError, match=r"'network\.hed\.\*' names no parameter; there are network.backbone, network.h"
    ):
        module("network.hed.*")


def test_cosine_warms_up_peaks_and_ends_at_its_floor():
    values = [schedules.cosine(epoch, 10, warmup_epochs=2, floor=0.1) for epoch in (0, 1, 2, 6, 10)]
    assert values[0] < 0.01
    assert values[1] == pytest.approx(0.5, abs=0.01)
    assert values[2:] == pytest.approx([1.0, 0.55, 0.1])


def test_step_halves_after_whole_periods():
    assert [schedules.step(epoch, 20, 5, 0.5) for epoch in (0, 4.99, 5, 9.5, 10)] == [1, 1, 0.5, 0.5, 0.25]
