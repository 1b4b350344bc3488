import itertools

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from common.schedules import constant
from nandseq.codes import Rule
from nandseq.generator import (
    LONGEST_ROW,
    NOTHING,
    CompatPolicy,
    NetworkPolicy,
    Recent,
    Sampler,
    TokenGRU,
    UniformPolicy,
    choose,
    draw_index,
    log_likelihood,
)  # fmt: skip
from nandseq.generator_analysis import Order, traces
from nandseq.generator_floor import source_log_likelihood
from nandseq.generator_metrics import (
    distances,
    diversity,
    edit_distances,
    jensen_shannon,
    two_sample_auroc,
    validity,
    wasserstein,
)  # fmt: skip
from nandseq.generator_module import GeneratorModule, TokenSet
from nandseq.generator_sources import CompatSource, ScenarioSource
from nandseq.profiles import Profile
from nandseq.rules import check, check_batch
from nandseq.scenarios import Source
from nandseq.tokens import PAD, LiveState, Vocabulary, Walks, encode

SEED = Profile.load("seed")
SMALL = SEED.replace(pages=4)
WORDS = Vocabulary.of(SEED, 3)


def network(**changes):
    torch.manual_seed(0)
    settings = {"num_slots": 3, "num_ages": 5, "num_scenarios": 2, "pages": 2564, "hidden_dim": 16}
    return TokenGRU(**(settings | changes))


def codes_of(sample, profile=SEED):
    walks = sample.walks
    return np.where(walks.present, check_batch(walks.op, walks.block, walks.page, profile).primary, 0)


@pytest.mark.slow
@pytest.mark.parametrize("profile", [SEED, SMALL, SEED.replace(min_read_distance=2)], ids=["seed", "small", "distance"])
def test_masked_samples_of_an_untrained_network_break_no_rule(profile):
    words = Vocabulary.of(profile, 3)
    sample = Sampler(words, profile).draw(NetworkPolicy(network()), np.zeros(200, int), 50, seed=0)
    assert not codes_of(sample, profile).any()
    free = Sampler(words, profile, masked=False).draw(NetworkPolicy(network()), np.zeros(200, int), 50, seed=0)
    assert codes_of(free, profile).any()
    assert 0.2 < free.mask_mass.mean() < 0.9


def test_equal_seeds_give_equal_samples():
    draws = [Sampler(WORDS, SEED).draw(NetworkPolicy(network()), np.zeros(20, int), 20, seed) for seed in (1, 1, 2)]
    assert (draws[0].tokens == draws[1].tokens).all()
    assert (draws[0].tokens != draws[2].tokens).any()


def test_a_mask_without_a_legal_token_is_named():
    with pytest.raises(AssertionError, match="a mask without a legal token"):
        choose(torch.zeros(2, 3), torch.tensor([[True, False, True], [False, False, False]]), 1.0, 1.0)


def test_tokens_are_drawn_by_mask_then_temperature_then_top_p():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(4000, 1)
    generator = torch.Generator().manual_seed(0)
    legal = torch.tensor([False, True, True, True]).repeat(4000, 1)
    share = torch.bincount(choose(logits, legal, 1.0, 1.0, generator), minlength=4) / 4000
    assert share.numpy() == pytest.approx([0, 0.6, 0.3, 0.1], abs=0.03)
    share = torch.bincount(choose(logits, legal, 0.5, 1.0, generator), minlength=4) / 4000
    assert share.numpy() == pytest.approx([0, 36 / 46, 9 / 46, 1 / 46], abs=0.03)
    # 0.6 alone does not hold 0.7, so the second joins
    share = torch.bincount(choose(logits, legal, 1.0, 0.7, generator), minlength=4) / 4000
    assert share.numpy() == pytest.approx([0, 2 / 3, 1 / 3, 0], abs=0.03)


def test_an_index_of_weight_zero_is_never_drawn():
    weights = torch.tensor([[0.0, 1e-30, 0.0], [0.0, 0.0, 3.0]]).repeat(500, 1)
    drawn = draw_index(weights, torch.Generator().manual_seed(0))
    assert set(drawn[::2].tolist()) == {1}
    assert set(drawn[1::2].tolist()) == {2}


RULES = [Rule.NOT_ERASED, Rule.REPROGRAM, Rule.PAGE_ORDER, Rule.READ_UNWRITTEN, Rule.READ_STALE]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_fault_on_demand_breaks_the_rule_asked_for_where_it_is_asked_for(rule):
    # while blocks are erased one by one, a new one can be used too early; later, nearly any rule can be broken
    place = 2 if rule == Rule.NOT_ERASED else 30
    at = np.full(100, place)
    sample = Sampler(WORDS, SEED).draw(CompatPolicy(), np.zeros(100, int), 50, seed=0, fault_at=at, fault_rule=rule)
    codes = codes_of(sample)
    assert (sample.bad_index >= place).all()
    assert (sample.bad_index == place).mean() > 0.5
    assert ((codes > 0).argmax(1) == sample.bad_index).all()
    assert (codes[np.arange(100), sample.bad_index] == rule).all()
    assert (sample.rule == rule).all()
    if rule != Rule.NOT_ERASED:  # a founding policy waits for ever for the erase that a program did not bring
        assert ((codes > 0).sum(1) == 1).all()


@pytest.mark.slow
def test_a_fault_waits_until_the_rule_can_be_broken_and_the_sequence_does_not_end_before():
    policy = NetworkPolicy(network())
    at = np.full(100, 1)
    sample = Sampler(WORDS, SEED).draw(policy, np.zeros(100, int), 150, 0, fault_at=at, fault_rule=Rule.READ_STALE)
    met = sample.bad_index >= 0
    assert met.any()
    assert (sample.bad_index[met] > 5).all()
    assert (codes_of(sample)[met, sample.bad_index[met]] == Rule.READ_STALE).all()
    assert (sample.walks.length[~met] == 150).all()


def test_any_fault_takes_every_rule_that_can_be_broken():
    sample = Sampler(WORDS, SEED).draw(CompatPolicy(), np.zeros(300, int), 30, seed=0, fault_at=np.full(300, 25))
    assert (sample.bad_index == 25).all()
    assert np.bincount(sample.rule, minlength=7)[3:7].min() > 40
    assert (codes_of(sample)[:, 25] == sample.rule).all()


@pytest.mark.slow
def test_the_founding_generator_erases_first_and_is_sampled_with_its_own_probabilities():
    walks, scenario = CompatSource(3).sequences(400, SEED, 50, 0, "train")
    assert (walks.op[:, :3] == 0).all()
    assert (walks.op[:, 3:] > 0).all()
    sums = CompatSource(3).log_likelihood(walks, scenario, SEED)
    # three forced erases, then one of three blocks, none of which can be read
    assert sums[:, :3] == pytest.approx(0)
    assert sums[:, 3] == pytest.approx(-np.log(3))


def test_probabilities_of_the_founding_generator_sum_to_one_over_all_sequences():
    words, profile, length = Vocabulary.of(SMALL, 1), SMALL, 5
    every = np.array(list(itertools.product(range(len(words) - 2), repeat=length)), np.int16)
    with np.errstate(invalid="ignore"):
        said = log_likelihood(CompatPolicy(), every, words, profile, np.zeros(len(every)))
    total = np.exp(np.nan_to_num(said.sum(1), nan=-np.inf, neginf=-np.inf)).sum()
    assert total == pytest.approx(1)


def test_the_likelihood_is_that_of_stepping_through_the_sequence():
    walks, scenario = ScenarioSource(None, 3, 2).sequences(8, SEED, 20, 0, "train")
    data, net = TokenSet(walks, scenario % 2, WORDS, SEED), network()
    batch = data[np.arange(8)]
    stepped = log_likelihood(NetworkPolicy(net), data.tokens, WORDS, SEED, data.scenario)
    whole = net(batch.previous, batch.newest, batch.scenario)[0].log_softmax(2)
    expected = whole.gather(2, batch.target[..., None])[..., 0]
    assert stepped == pytest.approx(expected.detach().numpy(), abs=1e-5)


def test_the_particle_filter_knows_what_the_simulator_chooses_from():
    # compat alone on one block: after the erase a program, then program or read, a read of any written page
    source = Source(SEED, {"compat": 1.0}, 4, 1, 1)
    op, page = np.array([[0, 1, 1, 2]], np.int8), np.array([[0, 0, 1, 1]], np.int32)
    said = source_log_likelihood(Walks.whole(op, np.zeros_like(page), page), np.array([7]), source, 4096)
    assert said[0] == pytest.approx([0, 0, np.log(0.5), np.log(0.25)], abs=0.05)


def test_the_particle_filter_knows_how_far_a_block_is_written():
    # seq_write on one block: no read (0.7) at each page; goals 6 … 18 pages are equally likely
    source = Source(SEED, {"seq_write": 1.0}, 8, 1, 1)
    op, page = np.array([[0] + 6 * [1] + [0]], np.int8), np.array([[0, 0, 1, 2, 3, 4, 5, 0]], np.int32)
    said = source_log_likelihood(Walks.whole(op, np.zeros_like(page), page), np.array([0]), source, 8192)
    assert said[0, 2:7] == pytest.approx(np.log(0.7), abs=0.04)
    assert said[0, 7] == pytest.approx(np.log(0.7 / 13), abs=0.15)


def test_a_sequence_that_the_source_cannot_make_is_an_error(monkeypatch):
    monkeypatch.setattr("nandseq.generator_floor.MOST_PARTICLES", 256)
    source = Source(SEED, {"compat": 1.0}, 2, 1, 1)
    walk = Walks.whole(np.array([[0, 0]], np.int8), np.zeros((1, 2), np.int32), np.zeros((1, 2), np.int32))
    with pytest.raises(ValueError, match="sequence 0"):
        source_log_likelihood(walk, np.array([7]), source, 128)


def module(**changes):
    optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=0.02)  # noqa: E731
    return GeneratorModule(network(), nn.CrossEntropyLoss(ignore_index=PAD), optimizer, constant, ["*"], **changes)


def train(one, batch, steps=25):
    one._trainer = type("Trainer", (), {"accumulate_grad_batches": 1, "num_training_batches": 1})
    optimizer = torch.optim.AdamW(one.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = one.training_step(batch, 0)
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.fixture(scope="module")
def batch():
    walks, scenario = CompatSource(3).sequences(64, SEED, 20, 0, "train")
    return TokenSet(walks, scenario, WORDS, SEED)[np.arange(64)]


def mass(one, batch):
    return (one.logits(batch).softmax(2) * ~batch.legal).sum(2).mean().item()


@pytest.mark.slow
def test_training_lowers_the_loss_and_the_weight_of_legality_the_mass_on_illegal_tokens(batch):
    plain, strict = module(), module(legality_weight=20.0)
    assert train(plain, batch) < 2.1
    train(strict, batch)
    assert mass(strict, batch) < 0.6 * mass(plain, batch)


def test_a_loss_that_is_not_a_mean_is_refused():
    with pytest.raises(UserError, match="nats a token"):
        GeneratorModule(network(), nn.CrossEntropyLoss(reduction="sum"), None, constant, ["*"])


def test_without_state_the_network_sees_tokens_only():
    net, state = network(features="none"), LiveState(2, WORDS, SEED)
    previous, scenario = torch.tensor([[3], [3]]), torch.zeros(2, dtype=torch.long)
    newest = torch.stack([state.newest, state.newest + 5], 0)[:, :1]
    assert torch.equal(*net(previous, newest, scenario)[0])
    assert not torch.equal(*network()(previous, newest, scenario)[0])


def test_what_was_done_lately_is_told_slot_by_slot():
    recent = Recent(WORDS)
    words = ["erase 0", "program 0", "program 0", "erase 1", "read 0 age 1", "program 0", "open 0"]
    tokens = [[WORDS.name(token) for token in range(len(WORDS))].index(word) for word in words]
    codes, last = recent(torch.tensor([[len(WORDS), *tokens]]))
    told = np.stack(np.unravel_index(codes[0].numpy(), (4, 6, LONGEST_ROW + 1)), -1)
    none = [NOTHING, 5, 0]  # last command, age of the last read (5: none), programs in a row
    first = [none, [0, 5, 0], [1, 5, 1], [1, 5, 2], [1, 5, 2], [2, 1, 2], [1, 2, 1], none]
    assert told[:, 0].tolist() == first
    assert told[:, 1].tolist() == 4 * [none] + 4 * [[0, 5, 0]]
    assert (told[:, 2] == none).all()
    halves = recent(torch.tensor([tokens[3:]]), recent(torch.tensor([tokens[:3]]))[1])
    assert torch.equal(halves[1], last)


def walk(op, page, block=None):
    op, page = np.array(op, np.int8), np.array(page, np.int32)
    return Walks.whole(op, np.zeros_like(page) if block is None else np.array(block, np.int32), page)


def test_validity_counts_sequences_commands_and_the_first_fault():
    found = validity(walk([[0, 1, 2, 1], [0, 1, 1, 1]], [[0, 0, 0, 1], [0, 0, 2, 2]]), SEED)
    assert found == {"valid_seq": 0.5, "valid_op": 0.75, "first_violation": 2.0}


def test_distances_by_hand():
    assert jensen_shannon(np.array([1.0, 0]), np.array([0, 4.0])) == 1
    assert jensen_shannon(np.array([1.0, 3]), np.array([2.0, 6])) == 0
    assert wasserstein(np.array([1.0, 0, 0]), np.array([0, 0, 2.0])) == 2
    assert edit_distances(np.array([[1, 2, 3, 4]]), np.array([[2, 3, 4, 5], [1, 2, 3, 4], [9, 9, 9, 9]])).tolist() == [
        [2, 0, 4]
    ]


@pytest.mark.slow
def test_equal_sets_are_at_no_distance_and_other_ones_are_told_apart():
    compat, _ = CompatSource(3).sequences(400, SEED, 30, 0, "train")
    other, _ = CompatSource(3).sequences(400, SEED, 30, 0, "val")
    uniform = Sampler(WORDS, SEED).draw(UniformPolicy(), np.zeros(400, int), 30, 0).walks
    assert set(distances(compat, compat).values()) == {0.0}
    near, far = distances(other, compat), distances(uniform, compat)
    assert all(near[name] < far[name] for name in ("js_op", "js_bigram", "w1_final_page", "w1_gap"))
    assert two_sample_auroc(other, compat) == pytest.approx(0.5, abs=0.1)
    assert two_sample_auroc(uniform, compat) > 0.95
    assert diversity(compat, compat)["novel"] == 0
    assert diversity(other, compat)["unique"] == 1


def test_traces_have_distinct_blocks_inside_the_device_and_keep_their_verdicts():
    sample = Sampler(WORDS, SEED).draw(UniformPolicy(), np.zeros(20, int), 40, 0, fault_at=np.full(20, 20))
    for n, ops in enumerate(traces(sample.walks, SEED, seed=0)):
        verdicts = check(ops, SEED)
        assert np.flatnonzero(verdicts.primary).tolist() == [sample.bad_index[n]]
        assert verdicts.primary[sample.bad_index[n]] == sample.rule[n]


def order(**changes):
    settings = {"count": 4, "scenario": None, "num_ops": 20, "fault": None, "fault_at": None, "seed": 0}
    return Order(**(settings | changes))


def test_orders_that_cannot_be_met_name_what_can():
    assert order().scenarios(("a", "b")).tolist() == [0, 1, 0, 1]
    assert order(scenario="b").scenarios(("a", "b")).tolist() == [1, 1, 1, 1]
    assert order(fault="page_order").rule(SEED) == Rule.PAGE_ORDER
    assert order(fault="any").rule(SEED) is None
    assert ((order(fault="any").places() >= 10) & (order(fault="any").places() < 20)).all()
    with pytest.raises(UserError, match="Did you mean gc_loop"):
        order(scenario="gc_lop").scenarios(("seq_write", "gc_loop"))
    with pytest.raises(UserError, match="READ_TOO_CLOSE: not one of any"):
        order(fault="READ_TOO_CLOSE").rule(SEED)
    with pytest.raises(UserError, match="commands 0 to 19"):
        order(fault="any", fault_at=20).places()


def test_scenario_sources_give_the_scenarios_asked_for():
    source = ScenarioSource({"gc_loop": 1.0, "mixed": 1.0}, 3, 1)
    walks, scenario = source.sequences(100, SEED, 30, 0, "train")
    assert source.scenarios == ("gc_loop", "mixed")
    assert np.bincount(scenario).tolist() == [50, 50]
    assert validity(walks, SEED)["valid_seq"] == 1
    said = source.log_likelihood(walks[:4], scenario[:4], SEED)
    assert (said <= 0.01).all()
    assert said.sum() < -50
    encode(walks, WORDS, SEED)
