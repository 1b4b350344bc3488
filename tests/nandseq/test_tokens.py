import numpy as np
import pytest
import torch

from common.errors import UserError
from nandseq.codes import Rule
from nandseq.profiles import Profile
from nandseq.rules import check_batch
from nandseq.simulator import make_sequences
from nandseq.tokens import END, OPEN, PAD, LiveState, Vocabulary, Walks, decode, encode, replay

SEED = Profile.load("seed")
WORDS = Vocabulary.of(SEED, 3)
NUMBER = {WORDS.name(token): token for token in range(len(WORDS.kind))}
PROFILES = [
    SEED,
    SEED.replace(pages=6, initial_state="erased"),
    SEED.replace(read_offset_limit=0, min_read_distance=2, pages=8),
    SEED.replace(on_violation="ignore", pages=7),
]


def tokens(*names):
    return np.array([[NUMBER[name] for name in names]], np.int16)


def walks(*rows):
    op, block, page = np.array(rows).T
    return Walks.whole(op[None].astype(np.int8), block[None].astype(np.int32), page[None].astype(np.int32))


def test_the_vocabulary_has_the_words_of_the_specification():
    assert len(WORDS) == 3 * (1 + 1 + 5) + 3 + 1
    assert [WORDS.name(token) for token in (0, 3, 6, 10, 21, 24)] == [
        "erase 0", "program 0", "read 0 age 0", "read 0 age 4", "open 0", "end",
    ]  # fmt: skip


def test_a_walk_by_hand():
    walk = walks((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 1, 0), (2, 0, 0))
    said = encode(walk, WORDS, SEED)
    assert [WORDS.name(token) for token in said[0]] == ["erase 0", "program 0", "program 0", "erase 1", "read 0 age 1"]


def test_a_fourth_block_takes_the_slot_that_is_not_used_again():
    walk = walks((0, 0, 0), (0, 1, 0), (0, 2, 0), (1, 0, 0), (0, 3, 0), (1, 2, 0))
    said = encode(walk, WORDS, SEED)
    assert [WORDS.name(token) for token in said[0][4:]] == ["open 1", "erase 1", "program 2"]
    again = decode(said, WORDS, SEED)
    assert again.block[0].tolist() == [0, 1, 2, 0, 3, 2]


def test_decoding_gives_the_sequences_back():
    made = make_sequences(300, "seed", class_shares={"valid": 1.0}, num_blocks=3, seq_len=40)
    whole = Walks.whole(made.op, made.slot.astype(np.int32), made.page)
    whole.length[::3] = 25
    whole.op[~whole.present] = whole.block[~whole.present] = whole.page[~whole.present] = 0
    said = encode(whole, WORDS, SEED)
    assert (said[::3, 25] == WORDS.end).all()
    assert (said[::3, 26:] == PAD).all()
    again = decode(said, WORDS, SEED, num_ops=40)
    for name in ("op", "block", "page", "length"):
        assert (getattr(again, name) == getattr(whole, name)).all()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((1, 0, 3), "a program of another page"),
        ((2, 0, 0), "a read of an unwritten page"),
        ((8, 0, 0), "neither erase, program nor read"),
    ],
)
def test_what_has_no_token_is_named_with_its_place(row, message):
    with pytest.raises(UserError, match=f"sequence 0, command 1: {message}"):
        encode(walks((0, 0, 0), row), WORDS, SEED)


def test_too_few_slots_are_an_error():
    with pytest.raises(UserError, match="raise num_slots"):
        encode(walks((0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)), Vocabulary.of(SEED, 1), SEED)


def test_profiles_that_tokens_cannot_express_are_refused():
    with pytest.raises(UserError, match="extended rules need addresses"):
        Vocabulary.of(SEED.replace(endurance=100), 3)
    with pytest.raises(UserError, match="leave no legal read"):
        Vocabulary.of(SEED.replace(read_offset_limit=0, min_read_distance=4), 3, num_ages=4)


def judged_by_the_engine(said, vocabulary, profile, token):
    """Rule that the engine finds in the command of `token` after the tokens `said`; None if it has no address."""
    whole = np.concatenate([said, [[token]]], 1)
    walk = decode(whole, vocabulary, profile)
    at = walk.length[0] - 1
    if walk.page[0, at] < 0:
        return int(Rule.ADDR_RANGE)
    return int(check_batch(walk.op, walk.block, walk.page, profile).primary[0, at])


@pytest.mark.parametrize("profile", PROFILES, ids=["seed", "erased, 6 pages", "realistic, 8 pages", "ignore, 7 pages"])
def test_codes_and_mask_agree_with_the_rule_engine_after_any_tokens(profile):
    vocabulary, rng = Vocabulary.of(profile, 2, 5), np.random.default_rng(0)
    commands = np.flatnonzero(vocabulary.kind < OPEN)
    for _ in range(12):
        state, said = LiveState(1, vocabulary, profile), np.empty((1, 0), np.int16)
        for _ in range(14):
            codes = state.codes()[0].numpy()
            for token in rng.choice(commands, 6, replace=False):
                # below a hop the state does not know which pages are written; the engine does
                found = judged_by_the_engine(said, vocabulary, profile, token)
                hopped = bool(state.oldest[0, vocabulary.slot[token]] > 0)
                unsure = hopped and codes[token] in (Rule.REPROGRAM, Rule.READ_UNWRITTEN)
                assert codes[token] == found or unsure
            assert ((codes[: len(vocabulary)] == 0) >= state.legal()[0].numpy()).all()
            weights = np.where(codes[commands] == 0, 6.0, 1.0)
            drawn = rng.choice(commands, p=weights / weights.sum())
            state.advance(torch.tensor([drawn]))
            said = np.concatenate([said, [[drawn]]], 1).astype(np.int16)


def test_the_mask_is_where_codes_are_zero_but_for_opening_unused_slots():
    made = make_sequences(60, "seed", class_shares={"valid": 1.0}, seq_len=30)
    said = encode(Walks.whole(made.op, made.slot.astype(np.int32), made.page), WORDS, SEED)
    state = LiveState(len(said), WORDS, SEED)
    for column in said.T:
        allowed = (state.codes()[:, : len(WORDS)] == 0) & (
            (state.kind[: len(WORDS)] != OPEN) | state.used[:, state.slot[: len(WORDS)]]
        )
        assert (state.legal() == allowed).all()
        assert state.legal()[:, state.kind[: len(WORDS)] == END].all()
        state.advance(torch.from_numpy(column.astype(np.int64)))


def test_given_sequences_are_legal_under_the_mask_of_their_own_state():
    made = make_sequences(200, "seed", class_shares={"valid": 1.0}, seq_len=30)
    said = encode(Walks.whole(made.op, made.slot.astype(np.int32), made.page), WORDS, SEED)
    newest, legal = replay(said, WORDS, SEED)
    assert np.take_along_axis(legal, said[..., None].astype(np.int64), 2).all()
    assert newest[:, 0].tolist() == [[-2, -2, -2]] * 200
    erased = said[:, 0] == NUMBER["erase 0"]
    assert (newest[erased, 1, 0] == -1).all()
