"""Combining units of a toy model with three units, two of which depend on one another."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common.errors import UserError
from common.unit_files import load_units, read_manifest, read_unit, write_units
from redheart.combine import Source, blend, check, combine, report, soup
from redheart.combine_modules import main

GROUPS = {"backbone": ["backbone", "heads"], "adv_surd": ["adv_surd"]}
UNITS = ["backbone", "heads", "adv_surd"]


def states(epoch, width=3):
    made = torch.Generator().manual_seed(epoch)
    weights = {name: torch.randn(4, width, generator=made) for name in UNITS}
    return [(name, {"weight": each, "steps": torch.tensor(epoch)}) for name, each in weights.items()]


def save(folder, epoch, dtype="float32", config_hash="aa", width=3):
    facts = {"epoch": epoch, "config_hash": config_hash, "seed": 0}
    write_units(folder / f"epoch_{epoch:04d}", states(epoch, width), GROUPS, dtype, **facts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("units")
    for epoch in (2, 4, 6):
        save(path, epoch)
    return path


@pytest.fixture
def foreign(tmp_path):
    """A checkpoint of another run."""
    save(tmp_path, 2, config_hash="bb")
    return tmp_path / "epoch_0002"


def from_epochs(**epochs):
    return {unit: Source.mean([epoch]) for unit, epoch in epochs.items()}


def manifests(folder, *epochs):
    return {epoch: read_manifest(folder / f"epoch_{epoch:04d}") for epoch in epochs}


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


weight = st.floats(0.01, 100)
epochs = st.lists(st.integers(1, 60), min_size=1, max_size=8, unique=True)


@given(epochs, st.randoms())
def test_the_order_of_a_soup_does_not_matter(chosen, random):
    shuffled = random.sample(chosen, len(chosen))
    assert Source.mean(chosen) == Source.mean(shuffled)


@given(epochs, st.data())
def test_the_text_of_a_source_names_it(chosen, data):
    weights = data.draw(st.lists(weight, min_size=len(chosen), max_size=len(chosen)))
    source = Source.mean(chosen, weights)
    again = Source.parse(str(source), "heads")
    assert again.checkpoints == source.checkpoints == sorted(chosen)
    assert [w for _, w in again.weights] == pytest.approx([w for _, w in source.weights], rel=1e-9)
    assert sum(w for _, w in source.weights) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("44", Source.mean([44])),
        (44, Source.mean([44])),
        ("34, 30,32", Source.mean([30, 32, 34])),
        ("30*3,32", Source.mean([30, 32], [0.75, 0.25])),
        ("20:40@0.25", Source.mean([20, 40], [0.75, 0.25])),
        ("20:40@0", Source.mean([20])),
        ("20:40@1.0", Source.mean([40])),
        ("20:20@0.3", Source.mean([20])),
    ],
)
def test_a_source_is_written_in_words(text, source):
    assert Source.parse(text, "heads") == source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("30,30", "each named once"),
        ("30*0,32", "a weight above 0"),
        ("30*1.2.3", "1.2.3 is no number"),
        ("20:40@1.5", "between 0 and 1"),
        ("best", "best: source of heads: no such epoch, folder or .safetensors file"),
        ("model.pt", r"model\.pt: refused, it may hold pickled code; convert it with .*convert_checkpoint"),
    ],
)
def test_what_is_no_source_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        Source.parse(text, "heads")


def test_a_path_names_a_checkpoint(folder):
    epoch = folder / "epoch_0004"
    assert Source.parse(str(epoch), "heads") == Source.mean([epoch])
    assert Source.parse(str(epoch / "heads.safetensors"), "heads") == Source.mean([epoch])
    with pytest.raises(UserError, match="holds unit heads, but is given as backbone"):
        Source.parse(str(epoch / "heads.safetensors"), "backbone")


def test_a_single_epoch_is_bit_exact(folder):
    state = blend(folder, "heads", Source.mean([4]))
    assert all(torch.equal(state[key], value) for key, value in dict(states(4))["heads"].items())


def test_a_blend_is_the_weighted_mean_and_takes_whole_numbers_of_the_last(folder):
    state = blend(folder, "heads", Source.mean([6, 2, 4], [1, 2, 5]))
    truth = [dict(states(epoch))["heads"]["weight"].double() for epoch in (2, 4, 6)]
    expected = (2 * truth[0] + 5 * truth[1] + truth[2]) / 8
    assert torch.allclose(state["weight"].double(), expected, rtol=1e-6, atol=1e-7)
    assert state["weight"].dtype == torch.float32
    assert state["steps"] == 6


def test_interpolation_lies_between_its_ends(folder):
    start, end = (dict(states(epoch))["backbone"]["weight"] for epoch in (2, 4))
    state = blend(folder, "backbone", Source.between(2, 4, 0.25))
    assert torch.allclose(state["weight"], start + 0.25 * (end - start), atol=1e-6)


@given(count=st.integers(2, 9))
def test_the_mean_of_equal_weights_is_those_weights(tmp_path_factory, count):
    folder = tmp_path_factory.mktemp("equal")
    for epoch in range(count):
        write_units(folder / f"epoch_{epoch:04d}", states(7), GROUPS, "float32", epoch=epoch)
    state = blend(folder, "heads", Source.mean(range(count)))
    assert torch.equal(state["weight"], dict(states(7))["heads"]["weight"])


def test_bfloat16_is_averaged_in_float32(tmp_path):
    for epoch, value in ((1, 1.0), (2, 1.0), (3, 1.0078125)):  # neighbours in bfloat16
        state = {"weight": torch.full((2,), value)}
        write_units(tmp_path / f"epoch_{epoch:04d}", [("a", state)], {"a": ["a"]}, "bfloat16", epoch=epoch)
    mean = blend(tmp_path, "a", Source.mean([1, 3], [1, 3]))["weight"]
    assert mean.dtype == torch.bfloat16
    assert mean.tolist() == [1.0078125, 1.0078125]  # 1.005859: nearer to the upper neighbour


def test_batch_norm_statistics_are_not_averaged(tmp_path):
    for epoch in (1, 2):
        state = nn.BatchNorm1d(3).state_dict()
        write_units(tmp_path / f"epoch_{epoch:04d}", [("a", state)], {"a": ["a"]}, "float32", epoch=epoch)
    with pytest.raises(UserError, match="unit a: running_mean cannot be averaged"):
        blend(tmp_path, "a", Source.mean([1, 2]))


def test_an_epoch_that_was_not_saved_is_named(folder):
    with pytest.raises(UserError, match=r"no complete checkpoint of epoch 3\. Saved: 2, 4, 6\."):
        blend(folder, "heads", Source.mean([3]))


def test_a_group_from_one_source_is_no_mix(folder):
    assert not check(from_epochs(backbone=2, heads=2, adv_surd=4), manifests(folder, 2, 4))


def test_a_mix_inside_a_group_needs_leave(folder):
    recipe, of = from_epochs(backbone=2, heads=4, adv_surd=4), manifests(folder, 2, 4)
    with pytest.raises(UserError, match="backbone from 2, heads from 4: they depend on one another"):
        check(recipe, of)
    assert check(recipe, of, allow_dependent_mix=True)


def test_units_without_a_source_are_listed(folder):
    with pytest.raises(UserError, match=r"no source for backbone, adv_surd; .*fill_from"):
        check(from_epochs(heads=2), manifests(folder, 2))
    with pytest.raises(UserError, match=r"no unit head\. Did you mean heads\?"):
        check(from_epochs(head=2), manifests(folder, 2))


def test_other_shapes_and_other_units_are_another_model(folder, tmp_path):
    save(tmp_path, 2, width=5)
    save(tmp_path, 4, dtype="bfloat16")
    write_units(tmp_path / "epoch_0006", states(6)[:2], {"backbone": ["backbone", "heads"]}, "float32")
    recipe = from_epochs(backbone=2, heads=2, adv_surd=2)
    for epoch in (2, 4):
        both = {2: read_manifest(folder / "epoch_0002"), 3: read_manifest(tmp_path / f"epoch_{epoch:04d}")}
        with pytest.raises(UserError, match="unit backbone of epoch 2 and of epoch 3: names, shapes or types"):
            check(recipe, both)
    with pytest.raises(UserError, match="only one has unit adv_surd"):
        check(recipe, {2: read_manifest(folder / "epoch_0002"), 6: read_manifest(tmp_path / "epoch_0006")})


def test_different_runs_give_whole_groups_at_most(folder, foreign):
    here, there = Source.mean([2]), Source.mean([foreign])
    of = {2: read_manifest(folder / "epoch_0002"), foreign: read_manifest(foreign)}
    whole = {"backbone": here, "heads": here, "adv_surd": there}
    with pytest.raises(UserError, match=r"different runs: epoch 2 \(config_hash aa\), .*\(config_hash bb\)"):
        check(whole, of)
    assert not check(whole, of, allow_cross_run=True)
    for broken in ({**whole, "heads": there}, {**whole, "adv_surd": Source.mean([2, foreign])}):
        with pytest.raises(UserError, match="a group must come whole from one run"):
            check(broken, of, allow_dependent_mix=True, allow_cross_run=True)


def test_a_model_of_two_runs_names_both(folder, foreign, tmp_path):
    here, there = Source.mean([2]), Source.mean([foreign])
    recipe = {"backbone": here, "heads": here, "adv_surd": there}
    manifest = combine(folder, recipe, tmp_path / "out", allow_cross_run=True)
    assert manifest["config_hash"] is None
    assert [manifest["sources"][unit][0]["config_hash"] for unit in UNITS] == ["aa", "aa", "bb"]


def test_a_combined_model_says_what_it_is_made_of(folder, tmp_path):
    recipe = {**from_epochs(backbone=2, heads=2), "adv_surd": Source.mean([4, 6])}
    manifest = combine(folder, recipe, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "model").iterdir()) == sorted(
        f"{unit}.safetensors" for unit in UNITS
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "model"]
    assert manifest["recipe"] == {"backbone": "2", "heads": "2", "adv_surd": "4,6"}
    assert not manifest["dependent_mix"]
    assert manifest["config_hash"] == "aa"
    assert [source["epoch"] for source in manifest["sources"]["adv_surd"]] == [4, 6]
    hashes = {epoch: read_manifest(folder / f"epoch_{epoch:04d}")["units"] for epoch in (2, 4)}
    assert manifest["sources"]["adv_surd"][0]["sha256"] == hashes[4]["adv_surd"]["sha256"]
    assert manifest["units"]["heads"] | {"file": None} == hashes[2]["heads"] | {"file": None}
    expected = blend(folder, "adv_surd", recipe["adv_surd"])["weight"]
    assert torch.equal(read_unit(tmp_path / "out", "adv_surd")["weight"], expected)
    assert "| adv_surd | adv_surd | 4,6  |" in report(manifest)


def test_what_a_recipe_leaves_out_is_filled(folder, tmp_path):
    manifest = combine(folder, from_epochs(adv_surd=6), tmp_path / "out", fill_from=Source.mean([4]))
    assert manifest["recipe"] == {"backbone": "4", "heads": "4", "adv_surd": "6"}
    manifest = combine(folder, {}, tmp_path / "whole", fill_from=Source.mean([4]))
    assert set(manifest["recipe"].values()) == {"4"}


def test_a_combined_model_can_be_combined_again(folder, tmp_path):
    combine(folder, soup(UNITS, [2, 4]), tmp_path / "one")
    sources = {unit: Source.parse(str(tmp_path / "one" / "model" / f"{unit}.safetensors"), unit) for unit in UNITS}
    combine(None, sources, tmp_path / "two")
    for unit in UNITS:
        one, two = (read_unit(tmp_path / name, unit) for name in ("one", "two"))
        assert torch.equal(one["weight"], two["weight"])


def copied(folder, tmp_path):
    for epoch in (2, 4):
        save(tmp_path / "copy", epoch)
    return tmp_path / "copy"


def test_a_flipped_byte_leaves_the_output_as_it_was(folder, tmp_path):
    units, output = copied(folder, tmp_path), tmp_path / "out"
    before = combine(units, soup(UNITS, [2]), output)
    flip(units / "epoch_0004" / "adv_surd.safetensors")
    with pytest.raises(UserError, match=r"epoch_0004/adv_surd\.safetensors: damaged, unit adv_surd"):
        combine(units, soup(UNITS, [2, 4]), output, overwrite=True)
    assert read_manifest(output) == before
    assert torch.equal(read_unit(output, "adv_surd")["weight"], dict(states(2))["adv_surd"]["weight"])


def test_a_failure_while_writing_leaves_the_output_as_it_was(folder, tmp_path, monkeypatch):
    before = combine(folder, soup(UNITS, [2]), tmp_path / "out")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.unit_files.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        combine(folder, soup(UNITS, [4]), tmp_path / "out", overwrite=True)
    assert read_manifest(tmp_path / "out") == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "model"]


def test_another_model_is_not_overwritten_unless_told(folder, tmp_path):
    output = tmp_path / "out"
    combine(folder, soup(UNITS, [2]), output)
    (output / "notes.txt").write_text("mine")
    combine(folder, soup(UNITS, [2]), output)
    with pytest.raises(UserError, match="out: holds another model"):
        combine(folder, soup(UNITS, [4]), output)
    assert combine(folder, soup(UNITS, [4]), output, overwrite=True)["recipe"]["heads"] == "4"
    assert (output / "notes.txt").read_text() == "mine"
    with pytest.raises(UserError, match=r"m\.pt: the output is a folder"):
        combine(folder, soup(UNITS, [2]), tmp_path / "m.pt")


class Parts(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, width))
        self.register_buffer("steps", torch.tensor(0))


def test_a_combined_model_loads_strictly(folder, tmp_path):
    combine(folder, from_epochs(backbone=2, heads=2, adv_surd=4), tmp_path / "out")
    parts = {unit: Parts() for unit in UNITS}
    load_units(parts, tmp_path / "out")
    assert torch.equal(parts["adv_surd"].weight, dict(states(4))["adv_surd"]["weight"])
    with pytest.raises(UserError, match="unit backbone is of another model: size mismatch for weight"):
        load_units({unit: Parts(5) for unit in UNITS}, tmp_path / "out")
    with pytest.raises(UserError, match="has unit adv_surd, which this model lacks"):
        load_units({unit: Parts() for unit in UNITS[:2]}, tmp_path / "out")
    with pytest.raises(UserError, match="lacks unit extra"):
        load_units({unit: Parts() for unit in [*UNITS, "extra"]}, tmp_path / "out")
    with pytest.raises(UserError, match=r'unit backbone is of another model: Missing key.*"bias"'):
        load_units({unit: nn.Linear(3, 4) for unit in UNITS}, folder / "epoch_0002")


def run(capsys, *words):
    """What the command printed, with its exit code."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr()


def test_the_command_combines_files_and_epochs(folder, tmp_path, capsys):
    heads = folder / "epoch_0002" / "heads.safetensors"
    words = ["--checkpoint-dir", folder, "--backbone", folder / "epoch_0002", "--heads", heads, "--adv-surd", "4,6"]
    code, said = run(capsys, *words, "--output", tmp_path / "out")
    assert code == 0, said.err
    assert "adv_surd" in said.out
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["recipe"]["adv_surd"] == "4,6"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backbone", "2"], "no source for heads, adv_surd"),
        (["--backbone", "2", "--fill-from", "4"], "allow_dependent_mix"),
        (["--backbone", "3", "--fill-from", "4"], "no complete checkpoint of epoch 3"),
        (["--analyzers", "2", "--fill-from", "4"], "no unit neural_analyzers"),
        (["--backbone", "model.pt"], "model.pt: refused"),
        ([], "recipe: empty"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(folder, tmp_path, capsys, words, message):
    code, said = run(capsys, "--checkpoint-dir", folder, *words, "--output", tmp_path / "out")
    assert code == 2
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_an_epoch_needs_its_folder(tmp_path, capsys):
    code, said = run(capsys, "--backbone", "2", "--output", tmp_path / "out")
    assert code == 2
    assert "--checkpoint-dir" in said.err
