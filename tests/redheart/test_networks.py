"""What the units count, read and learn from is what they declare."""

from functools import cache

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from common.config import compose
from redheart.groups import dependency_groups
from redheart.networks import DspKalman
from redheart.rows import NUM_OUTPUTS, TASKS

VARIANTS = [
    {}, {"detach_analyzers": True}, {"dsp_source": "backbone"}, {"dsp_prior": "heads"}, {"split_heads": True},
    {"split_heads": True, "dsp_source": "backbone", "dsp_prior": "heads", "detach_analyzers": True},
]  # fmt: skip
TINY = {
    "backbone": 625_920, "heads": 990_038, "neural_analyzers": 2_323_222, "dsp_kalman": 95_085, "adv_emotion": 275_975,
    "adv_bentham": 27_242, "adv_regret": 274_625, "adv_surd": 176_164,
}  # fmt: skip
FULL = {
    "backbone": 90_710_144, "heads": 153_221_798, "neural_analyzers": 368_160_342, "dsp_kalman": 16_309_693,
    "adv_emotion": 28_048_927, "adv_bentham": 28_063_690, "adv_regret": 28_019_401, "adv_surd": 28_034_164,
}  # fmt: skip


composed = cache(lambda option: compose("redheart_smoke", [f"model=redheart/{option}"]))


def build(option, dim, **changes):
    config = composed(option).copy()
    OmegaConf.update(config, "facts", {"dim": dim}, force_add=True)
    config.model.update(changes)
    torch.manual_seed(0)
    return instantiate(config.model, _convert_="all")


def sizes(network):
    return {name: sum(each.numel() for each in unit.parameters()) for name, unit in network.units.items()}


def test_tiny_has_exactly_the_parameters_of_its_specification():
    network = build("tiny", 384)
    assert sizes(network) == TINY
    assert sum(each.numel() for each in network.parameters()) == 4_788_271


def test_full_has_the_sizes_it_states_and_takes_no_memory_to_count():
    with torch.device("meta"):
        network = build("full", 768)
    assert sizes(network) == FULL
    assert sum(FULL.values()) == sum(each.numel() for each in network.parameters())
    outputs = network(torch.empty(2, 8, 768, device="meta"))
    assert outputs["heads", "emotion"].shape == (2, 7)


@pytest.mark.parametrize("changes", VARIANTS)
def test_units_hold_every_parameter_once(changes):
    network = build("smoke", 64, **changes)
    assert sum(sizes(network).values()) == sum(each.numel() for each in network.parameters())


@pytest.mark.parametrize("changes", VARIANTS)
def test_declared_inputs_are_what_outputs_depend_on(changes):
    network, x = build("smoke", 64, **changes).eval(), torch.randn(3, 64)
    before = network(x)
    for name, unit in network.units.items():
        saved = {key: value.clone() for key, value in unit.state_dict().items()}
        for parameter in unit.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        changed = {branch[0] for branch, logits in network(x).items() if not torch.equal(logits, before[branch])}
        unit.load_state_dict(saved)
        readers = {name}
        for other in network.graph.values():  # declared in forward order
            if readers & set(other.inputs):
                readers.add(other.name)
        assert changed == readers - {"backbone"}


@pytest.mark.parametrize("changes", VARIANTS)
def test_declared_sources_of_gradients_are_those_that_reach_a_unit(changes):
    network, x = build("smoke", 64, **changes).train(), torch.randn(3, 64)
    for name, unit in network.units.items():
        outputs = network(x)
        reached = set()
        for branch, logits in outputs.items():
            grads = torch.autograd.grad(
                logits.square().sum(), list(unit.parameters()), retain_graph=True, allow_unused=True
            )
            if any(each is not None and each.abs().sum() > 0 for each in grads):
                reached.add(branch[0])
        assert reached == set(network.graph[name].grad_from)


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, ["backbone", "heads", "neural_analyzers"]),
        ({"detach_analyzers": True}, ["backbone", "heads", "neural_analyzers"]),
        ({"dsp_source": "backbone"}, ["backbone", "heads", "neural_analyzers", "dsp_kalman"]),
        ({"dsp_prior": "heads"}, ["backbone", "heads", "neural_analyzers", "dsp_kalman"]),
        ({"split_heads": True}, ["backbone", *(f"head.{task}" for task in TASKS), "neural_analyzers"]),
    ],
)
def test_groups_follow_from_what_is_read(changes, first):
    groups = dependency_groups(build("smoke", 64, **changes).graph.values())
    assert groups["backbone"] == first
    assert [names for name, names in groups.items() if name.startswith("adv_")] == [[f"adv_{task}"] for task in TASKS]


def test_every_task_is_answered_in_its_shape_by_the_units_that_should():
    network = build("smoke", 64)
    outputs = network(torch.randn(5, 64))
    assert list(outputs) == network.branches
    assert all(logits.shape == (5, NUM_OUTPUTS[task]) for (_, task), logits in outputs.items())
    answering = {task: [unit for unit, its in outputs if its == task] for task in TASKS}
    assert answering["emotion"] == ["heads", "neural_analyzers", "dsp_kalman", "adv_emotion"]
    assert answering["surd"] == ["heads", "neural_analyzers", "adv_surd"]


def test_one_segment_is_the_text_itself():
    network, x = build("smoke", 64).eval(), torch.randn(4, 64)
    whole, segments = network(x), network(x.unsqueeze(1))
    assert all(torch.allclose(whole[branch], segments[branch], atol=1e-6) for branch in whole)


def test_the_filter_moves_its_state_towards_each_estimate_by_the_gain_it_computes():
    dsp = DspKalman(8, [4], 4, dropout=0.0)
    for module, value in ((dsp.estimate[-1], 1.0), (dsp.gain[-1], 0.0)):
        module.weight.data.zero_()
        module.bias.data.fill_(value)
    # softplus(0) = ln 2 twice: gain (1 + ln 2) / (1 + 2 ln 2), and the variance shrinks by 1 − gain
    noise, variance, state = 0.6931472, 1.0, 0.0
    for _ in range(2):
        variance += noise
        gain = variance / (variance + noise)
        state, variance = state + gain * (1.0 - state), (1 - gain) * variance
    assert torch.allclose(dsp(torch.randn(3, 2, 8)), torch.full((3, 7), state), atol=1e-5)
