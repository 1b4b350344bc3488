from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from common.schedules import constant
from nandseq.ops import Ops
from nandseq.profiles import Profile
from nandseq.scenario_analysis import probabilities
from nandseq.scenario_classifier import ScenarioNetwork, cut, describe, looks_like
from nandseq.scenario_module import ScenarioData, ScenarioModule
from nandseq.simulator import make_sequences
from nandseq.trace_features import NAMES, trace_features

SCENARIOS = ["seq_write", "gc_loop", "mixed"]


def columns(*rows):
    return (np.array(column)[None] for column in zip(*rows))


def test_features_by_hand():
    # erase, two programs, two reads of the older and the newer page, another block, erase of the written one
    rows = [(0, 0, 0), (1, 0, 0), (1, 0, 1), (2, 0, 0), (2, 0, 1), (0, 1, 0), (1, 1, 0), (0, 0, 0)]
    told = dict(zip(NAMES, trace_features(*columns(*rows))[0].tolist()))
    assert [told[f"share of {kind}"] for kind in ("erase", "program", "read", "other")] == [3 / 8, 3 / 8, 2 / 8, 0]
    assert told["program then program, same block"] == pytest.approx(1 / 7)
    assert told["read then erase, other block"] == pytest.approx(1 / 7)
    assert told["reads 0 pages behind"] == told["reads 1 pages behind"] == 0.5
    assert told["reads at once after their block's program"] == 0.5
    assert told["reads of the page after the one read before"] == 0.5
    assert told["programs of the next page"] == 1
    assert told["erases of a block with pages"] == pytest.approx(1 / 3)
    assert told["logarithm of pages at such an erase"] == pytest.approx(1)
    assert told["entropy of blocks, bits"] == pytest.approx(-(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25)))
    assert told["share of the busiest block"] == 0.75
    assert told["logarithm of pages programmed in a row"] == pytest.approx(np.log2(1.5))


def test_features_do_not_depend_on_block_numbers_or_on_what_follows_the_end():
    made = make_sequences(50, "seed", class_shares={"valid": 1.0}, seq_len=40, num_blocks=3)
    own = trace_features(made.op, made.slot, made.page)
    assert np.allclose(own, trace_features(made.op, 2 - made.slot, made.page))
    longer = [np.pad(column, ((0, 0), (0, 9))) for column in (made.op, made.slot, made.page)]
    assert np.allclose(own, trace_features(*longer, np.full(50, 40)))


@pytest.fixture(scope="module")
def data():
    made = ScenarioData(0, 32, 0, "seed", SCENARIOS, 300, 60, 90, 60, [2, 4], 1, 0)
    made.setup("fit")
    return made


def test_every_scenario_and_number_of_blocks_has_its_share(data):
    assert np.bincount(data.datasets["train"].label).tolist() == [100, 100, 100]
    assert len(data.make("wide")) == 90
    train, test = (data.datasets[split].features for split in ("train", "test"))
    assert not {row.tobytes() for row in train} & {row.tobytes() for row in test}
    assert data.facts["class_counts"] == [100, 100, 100]


def test_the_classifier_learns_to_tell_three_scenarios_apart(data):
    torch.manual_seed(0)
    network = ScenarioNetwork(len(NAMES), len(SCENARIOS), 16)
    module = ScenarioModule(network, nn.CrossEntropyLoss(), partial(torch.optim.AdamW, lr=0.02), constant, ["*"])
    module._trainer = type("Trainer", (), {"accumulate_grad_batches": 1, "num_training_batches": 1})
    optimizer, rows = torch.optim.AdamW(module.parameters(), lr=0.02), np.arange(300)
    for _ in range(40):
        optimizer.zero_grad()
        module.training_step(data.datasets["train"][rows], 0).backward()
        optimizer.step()
    module.eval()
    test = data.datasets["test"]
    assert (probabilities(network, test.features).argmax(1) == test.label).mean() > 0.95


def test_a_trace_is_cut_into_whole_pieces_whose_blocks_are_numbered_anew():
    ops = Ops(np.array([0, 1, 0, 1, 2]), np.zeros(5), np.zeros(5), np.array([7, 7, 900, 900, 900]), np.zeros(5))
    pieces = cut(ops, 2)
    assert pieces.op.tolist() == [[0, 1], [0, 1]]
    assert pieces.features[0].tolist() == pieces.features[1].tolist()
    assert cut(ops, 10).length.tolist() == [5]


def test_a_description_names_size_mix_habits_and_scenario():
    ops = Ops(*np.array([(0, 0, 0, 5, 0), (1, 0, 0, 5, 0), (2, 0, 0, 5, 0), (0, 1, 2, 9, 0)]).T)
    text = "\n".join(describe(ops, np.array([[0.9, 0.1]]), ["seq_write", "gc_loop"], Profile.load("seed").num_blocks))
    assert "4 commands on 2 of 8,000 blocks (0.0%): 50.0% erase, 25.0% program, 25.0% read." in text
    assert "The busiest block (die 0, plane 0, block 5) takes 75.0%" in text
    assert "100.0% of the reads are of the newest page." in text
    assert "Looks like seq_write (100%) of 1 pieces" in text


def test_scenarios_are_named_by_votes_and_doubt_is_told():
    shares = np.array([[0.4, 0.3, 0.3], [0.1, 0.9, 0.0], [0.2, 0.8, 0.0]])
    said = looks_like(shares, ["a", "b", "c"])
    assert said == "Looks like b (67%), a (33%) of 3 pieces; in 33% of them no scenario has half the probability."
