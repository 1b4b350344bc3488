"""Kept answers are those of a forward pass, each is computed once, and the disk keeps what it should."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.unit_files import load_units
from redheart.combine import Source, combine
from redheart.contributions import Units, check_checkpoints, open_contributions, run_of
from redheart.rows import TASKS
from redheart.tasks import Answer
from tests.redheart.collected import EPOCHS, batches, collect, contributions, small_module

KEY = {"split": "select", "fingerprint": "x"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return collect(tmp_path_factory.mktemp("units"), small_module())


def from_epochs(kept, *epochs):
    """One epoch for each group, round and round."""
    groups = list(kept.units.groups)
    return kept.units.of_groups({group: Source.mean([epochs[k % len(epochs)]]) for k, group in enumerate(groups)})


@torch.no_grad()
def forward(module, split="select"):
    """Row losses of the whole model's fused answers, by its own forward pass."""
    said = [module.answers(batch) for batch in batches(split)]
    joined = {branch: Answer.join([each[branch] for each in said]) for branch in module.branches}
    return {task: Answer.fuse([each for branch, each in joined.items() if branch[1] == task]) for task in TASKS}


@pytest.mark.parametrize(
    "changes",
    [{}, {"split_heads": True, "dsp_prior": "heads"}, {"dsp_source": "backbone"}, {"detach_analyzers": True}],
    ids=str,
)
def test_the_fused_loss_of_a_combination_is_that_of_its_forward_pass_bit_by_bit(tmp_path, changes):
    kept = contributions(tmp_path, **changes)
    recipe = from_epochs(kept, 2, 6, 4)
    losses = kept.losses(kept.fused(recipe))
    combine(tmp_path, recipe, tmp_path / "combined")
    whole = small_module(**changes)
    load_units(whole.units, tmp_path / "combined")
    np.testing.assert_array_equal(losses, whole.row_losses(forward(whole), kept.targets).numpy())


def test_mixing_inside_a_group_and_averaging_are_those_of_a_forward_pass_too(folder, tmp_path):
    kept = contributions(folder)
    recipe = kept.units.everywhere(4) | {
        "heads": Source.mean([2]), "neural_analyzers": Source.mean([2, 6]), "adv_surd": Source.between(2, 4, 0.3),
    }  # fmt: skip
    losses = kept.losses(kept.fused(recipe))
    combine(folder, recipe, tmp_path / "combined", allow_dependent_mix=True)
    whole = small_module()
    load_units(whole.units, tmp_path / "combined")
    np.testing.assert_array_equal(losses, whole.row_losses(forward(whole), kept.targets).numpy())


def test_all_combinations_of_groups_cost_one_pass_of_each_unit_and_epoch(folder):
    kept = contributions(folder)
    for one in EPOCHS:
        for other in EPOCHS:
            kept.fused(from_epochs(kept, one, other))
    assert kept.passes == len(EPOCHS) * len(kept.units.graph)


def test_all_pairs_inside_a_group_run_the_backbone_once_an_epoch(folder):
    kept = contributions(folder)
    for backbone in EPOCHS:
        for heads in EPOCHS:
            kept.answers("heads", kept.units.everywhere(heads) | {"backbone": Source.mean([backbone])})
    assert kept.passes == len(EPOCHS) + len(EPOCHS) ** 2


def test_the_disk_gives_the_same_bits_without_a_pass(folder):
    first, second = contributions(folder, KEY), contributions(folder, KEY)
    for kept in (first, second):
        kept.fused(kept.units.everywhere(4))
    assert second.passes == 0
    one, other = (kept.branches(from_epochs(kept, 6, 2)) for kept in (contributions(folder), second))
    assert all(torch.equal(one[branch].logits, other[branch].logits) for branch in one)
    assert all(torch.equal(one[branch].margin, other[branch].margin) for branch in one)


@pytest.mark.slow
def test_what_depends_on_other_files_data_or_splits_is_computed_anew(tmp_path):
    kept = contributions(tmp_path, KEY)
    before = kept.answers("adv_surd", kept.units.everywhere(4))["surd"].logits
    assert contributions(tmp_path, KEY | {"fingerprint": "y"}).answers("adv_surd", kept.units.everywhere(4))
    collect(tmp_path, small_module(head_widths=[16]), epochs=(4,))  # other weights under the same name
    again = contributions(tmp_path, KEY)
    after = again.answers("adv_surd", again.units.everywhere(4))["surd"].logits
    assert again.passes == len(EPOCHS)
    assert not torch.equal(before, after)


def test_a_unit_of_the_same_weights_on_another_backbone_is_another_unit(folder):
    kept = contributions(folder)
    one = kept.answers("heads", kept.units.everywhere(4))["emotion"].logits
    other = kept.answers("heads", kept.units.everywhere(4) | {"backbone": Source.mean([2])})["emotion"].logits
    assert not torch.equal(one, other)


def test_a_groups_own_loss_is_the_mean_of_its_units_that_answer(folder):
    kept = contributions(folder)
    recipe = kept.units.everywhere(2)
    each = [kept.losses(kept.answers(unit, recipe)).mean() for unit in ("heads", "neural_analyzers")]
    assert kept.own_loss("backbone", recipe) == pytest.approx(np.mean(each))


def test_metrics_are_named_by_task(folder):
    kept = contributions(folder)
    metrics = kept.metrics(kept.fused(kept.units.everywhere(2)))
    assert {"emotion/macro_f1", "bentham/rmse", "regret/brier", "surd/pid_accuracy"} <= set(metrics)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def test_a_flipped_byte_is_an_error_that_names_the_unit(tmp_path):
    kept = contributions(tmp_path)
    flip(tmp_path / "epoch_0004" / "adv_surd.safetensors")
    with pytest.raises(UserError, match=r"epoch_0004/adv_surd.safetensors: damaged"):
        kept.fused(kept.units.everywhere(4))


def test_checkpoints_that_lack_a_unit_or_are_of_another_config_are_refused(tmp_path):
    with pytest.raises(UserError, match="no checkpoint of units"):
        check_checkpoints("a run", Units(small_module(), tmp_path), "aa")
    kept = contributions(tmp_path)
    check_checkpoints("a run", kept.units, "aa")
    with pytest.raises(UserError, match=r"epoch_0002: of another config \(hash aa, that of a run is bb\)"):
        check_checkpoints("a run", kept.units, "bb")
    split = Units(small_module(split_heads=True), tmp_path)
    with pytest.raises(UserError, match=r"epoch_0002: lacks unit head.bentham, head.emotion"):
        check_checkpoints("a run", split, "aa")


def test_a_folder_outside_any_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="neither a run directory nor inside of one"):
        run_of(tmp_path)


def test_a_run_of_another_programme_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("name: lasps_phase1\nmodule: {_target_: lasps.module.LaspsModule}\n")
    with pytest.raises(UserError, match="lasps_phase1 is no run of redheart"):
        open_contributions(run_of(tmp_path / "units"), ("val",))
