"""Profiles by name, file and dict, and the one-line answers to mistakes."""

import re

import pytest

from common.errors import UserError
from nandseq.profiles import Profile, names


def refused(source, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        Profile.load(source)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert re.search(word, message), message


@pytest.mark.parametrize("name", names())
def test_every_shipped_profile_loads_under_its_own_name(name):
    assert Profile.load(name).name == name


def test_shipped_names_are_generic():
    assert names() == ["compat", "generic_mlc", "generic_slc", "generic_tlc", "realistic", "seed"]


def test_seed_and_realistic_have_the_two_opposite_read_rules():
    seed, realistic = Profile.load("seed"), Profile.load("realistic")
    assert (seed.read_offset_limit, seed.min_read_distance) == (5, 0)
    assert (realistic.read_offset_limit, realistic.min_read_distance) == (0, 30)
    assert (seed.dies, seed.planes, seed.blocks, seed.pages) == (2, 4, 1000, 2564)
    assert not seed.extended


def test_a_file_is_read_and_named_after_itself(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("pages: 16\ntiming: {read_ns: [1], program_ns: [2, 3], erase_ns: 4}\nbusy: die\n")
    profile = Profile.load(path)
    assert (profile.name, profile.pages, profile.timing.program_ns) == ("mine", 16, (2, 3))
    assert profile.extended
    assert profile.timed


def test_mistakes_are_told_in_one_line_with_the_nearest_name(tmp_path):
    refused("sead", "Did you mean seed", "generic_tlc")
    refused({"read_offset_limt": 5}, "Did you mean read_offset_limit")
    refused({"timing": {"read_ns": [1], "program_ns": [1], "erase_ns": 1, "reset": 2}}, r"timing\.reset", "reset_ns")
    refused({"on_violation": "halt"}, "on_violation='halt'", "physical")
    refused({"pages": "many"}, "pages='many'")
    refused(tmp_path / "none.yaml", "none.yaml: cannot be read")
    bad = tmp_path / "bad.yaml"
    bad.write_text("pages: [1\n")
    refused(bad, "not YAML")
    bad.write_text("- 1\n")
    refused(bad, "key: value")


@pytest.mark.parametrize("sizes", [{"pages": 2**31}, {"pages": 0}, {"blocks": 2**31}, {"dies": -1}, {"planes": 33}])
def test_a_size_out_of_range_is_an_error(sizes):
    refused(sizes, next(iter(sizes)))


def test_a_geometry_too_large_for_the_table_is_an_error():
    refused({"dies": 1024, "planes": 32, "blocks": 1000}, "32768000", "16777216")


def test_contradictory_settings_are_refused():
    refused({"read_offset_limit": 5, "min_read_distance": 5}, "leaves no legal read")
    assert Profile.load({"read_offset_limit": 5, "min_read_distance": 4}).min_read_distance == 4
    refused({"busy": "die"}, "need timing")
    refused({"bits_per_cell": 3, "pairing": "stride3"}, "stride3")
    refused({"bad_blocks": [[0, 0, 1000]]}, r"\[0, 0, 1000\]")


def test_a_change_is_checked_like_a_new_profile():
    assert Profile.load("seed").replace(pages=8).pages == 8
    with pytest.raises(UserError, match="pages"):
        Profile.load("seed").replace(pages=2**31)
