"""Splits, batches, encoders and the readers of the published files."""

import json

import numpy as np
import pytest

from common.errors import UserError
from redheart.data import SyntheticData, TextData
from redheart.encoders import encode, hashed
from redheart.rows import SPLITS, UNLABELLED, Rows, assign_splits, normalise
from redheart.sources import CLASSES, EthicsUtility, GoEmotions, Kote, ScruplesDilemmas

SHARES = [0.7, 0.15, 0.15]


def synthetic(**changes):
    settings = {
        "seed": 0, "batch_size": 32, "num_workers": 0, "shares": SHARES, "num_rows": 300, "dim": 56,
        "num_segments": 1, "bag_share": 0.3, "pair_share": 0.5, "data_seed": 0,
    }  # fmt: skip
    data = SyntheticData(**(settings | changes))
    data.setup()
    return data


def rows_of(texts):
    count = len(texts)
    return Rows.of(np.zeros((count, 2)), [f"row-{i}" for i in range(count)], np.arange(count), texts=texts)


def test_splits_are_disjoint_complete_and_near_their_shares():
    split = assign_splits(rows_of([()] * 4000), tuple(SHARES))
    assert np.bincount(split) / 4000 == pytest.approx(SHARES, abs=0.03)


def test_a_row_stays_in_its_split_whatever_else_there_is():
    rows = rows_of([()] * 50)
    assert (assign_splits(rows, tuple(SHARES))[:20] == assign_splits(rows_of([()] * 20), tuple(SHARES))).all()


def test_equal_texts_are_in_one_split():
    texts = [(normalise(text),) for i in range(200) for text in (f"Text  number {i % 50}", f"text number {i % 50} ")]
    split = assign_splits(rows_of(texts), tuple(SHARES))
    assert all(len({number for number, its in zip(split, texts) if its == text}) == 1 for text in set(texts))
    assert set(split) == {0, 1, 2}


def test_no_text_is_in_two_splits_through_pairs():
    texts = [(f"text {i}", f"text {i + 1}") for i in range(300)]
    split = assign_splits(rows_of(texts), tuple(SHARES))
    places = {}
    for number, pair in zip(split, texts):
        if number >= 0:
            for text in pair:
                places.setdefault(text, set()).add(number)
    assert all(len(each) == 1 for each in places.values())
    assert (split[split >= 0] == 2).sum() == pytest.approx(45, abs=20)  # what the test split needs is never left out


def test_a_batch_holds_the_second_texts_last():
    data = synthetic().datasets["train"]
    index = np.arange(0, 60, 3)
    batch = data[index]
    rows, chosen = data.rows, data.index[index]
    assert np.array_equal(batch.x[: len(batch)].numpy(), rows.x[rows.first[chosen]])
    second = rows.second[chosen]
    assert np.array_equal(batch.paired.numpy(), np.flatnonzero(second >= 0))
    assert np.array_equal(batch.x[len(batch) :].numpy(), rows.x[second[second >= 0]])
    assert np.array_equal(batch.targets.vote.isnan().numpy(), second < 0)


def test_every_row_is_in_one_batch_of_its_split():
    data = synthetic()
    assert sum(len(batch) for batch in data.val_dataloader()) == data.facts["num_samples"]["select"]
    assert sum(data.facts["num_samples"].values()) == 300


def test_the_fingerprint_follows_the_rows_not_the_run():
    assert synthetic().fingerprint == synthetic(seed=5, batch_size=8).fingerprint
    assert synthetic().fingerprint != synthetic(data_seed=1).fingerprint


def test_the_ideal_predictor_is_better_than_constants_and_exact_on_bags():
    metrics = synthetic(num_rows=900).ideal_metrics("select")
    assert metrics["surd"]["pid_accuracy"] == 1
    assert metrics["surd"]["mae"] == pytest.approx(0, abs=1e-6)
    assert metrics["bentham"]["rmse"] < 0.5 * metrics["bentham"]["rmse_constant"]
    assert metrics["regret"]["counterfactual_accuracy"] > 0.85


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": [0.5, 0.5, 0.5]}, "add up to 1"),
        ({"shares": [0.98, 0.01, 0.01]}, r"no row of \w+ in the (select|test) split"),
    ],
)
def test_unusable_shares_are_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        synthetic(**changes)


@pytest.mark.slow
def test_hashed_vectors_have_length_one_and_tell_texts_apart_in_any_language():
    x = hashed(["사과가 맛있다", "사과가 맛있다", "사과가 맛있어요", "the tax office is closed", ""], 384)
    assert np.linalg.norm(x[:4], axis=1) == pytest.approx(1)
    assert np.array_equal(x[0], x[1])
    assert x[0] @ x[2] > 0.5 > abs(x[0] @ x[3])
    assert (x[4] == 0).all()


def test_an_encoder_that_cannot_serve_says_what_to_do():
    with pytest.raises(UserError, match="only goemotions comes with vectors"):
        encode(["a"], "precomputed", 384)
    with pytest.raises(UserError, match="MiniLM vectors have 384"):
        encode(["a"], "minilm", 512)


@pytest.fixture
def folder(tmp_path):
    """A miniature of the published files."""
    emotions = tmp_path / "emotion" / "goemotions"
    emotions.mkdir(parents=True)
    (emotions / "labels.txt").write_text("love\nanger\nannoyance\n")
    (emotions / "label_groups.json").write_text(
        json.dumps({"ekman": {"joy": ["love"], "anger": ["anger", "annoyance"]}})
    )
    arrays = {}
    for number, split in enumerate(("train", "dev", "test")):
        table = [
            f'Nice {split} "quoted\t0\ta{number}',
            f"Mixed {split}\t0,1\tb{number}",
            f"Bad {split}\t1,2\tc{number}",
        ]
        (emotions / f"{split}.tsv").write_text("\n".join(table) + "\n")
        arrays |= {f"{split}_x": np.full((2, 384), number, np.float16), f"{split}_row": np.array([2, 1], np.int32)}
    np.savez(emotions / "minilm_l6_subset.npz", **arrays)
    for name, text in {
        "ethics/util_train.csv": '"I won, at last.",I lost.\nI ate.,"I ate\nnothing."\n',
        "ethics/util_test.csv": "I slept.,I did not sleep.\n",
        "kote/val.tsv": "1\t좋아요\t28,42,6\n2\t글쎄\t28,6\n3\t없음\t24\n",
        "kote/test.tsv": "4\t무서워\t18\n",
        "scruples/dilemmas_dev.jsonl": json.dumps(
            {"id": "d", "actions": [{"description": "a"}, {"description": "b"}], "gold_annotations": [4, 1]}
        ),
    }.items():
        (tmp_path / "emotion" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "emotion" / name).write_text(text)
    return tmp_path


def test_goemotions_keeps_rows_of_one_class_and_finds_their_vectors(folder):
    rows = GoEmotions("precomputed").load(str(folder), 384)
    assert rows.ids == ["goemotions-c0", "goemotions-c1", "goemotions-c2"]
    assert rows.emotion.tolist() == [CLASSES.index("anger")] * 3
    assert rows.x[:, 0].tolist() == [0, 1, 2]
    hashes = GoEmotions("hash").load(str(folder), 384)
    assert hashes.texts[0] == ('nice train "quoted',)
    assert [CLASSES[label] for label in hashes.emotion] == ["joy", "anger"] * 3


def test_a_limit_takes_the_same_rows_again(folder):
    one, more = (GoEmotions("hash", limit).load(str(folder), 64).ids for limit in (2, 4))
    assert len(one) == 2
    assert set(one) < set(more)


def test_the_more_pleasant_scenario_is_first_every_other_time(folder):
    rows = EthicsUtility("hash").load(str(folder), 64)
    assert rows.texts == [
        ("i won, at last.", "i lost."),
        ("i ate nothing.", "i ate."),
        ("i slept.", "i did not sleep."),
    ]
    assert rows.preference.tolist() == [1, 0, 1]
    assert (rows.second >= 0).all()
    assert (rows.emotion == UNLABELLED).all()


def test_votes_are_shares_for_the_first_action(folder):
    rows = ScruplesDilemmas("hash").load(str(folder), 64)
    assert rows.vote == pytest.approx([0.8])
    assert rows.texts == [("a", "b")]


def test_kote_takes_the_class_of_most_labels_and_no_tie(folder):
    rows = Kote("hash").load(str(folder), 64)
    assert rows.ids == ["kote-1", "kote-3", "kote-4"]
    assert [CLASSES[label] for label in rows.emotion] == ["joy", "neutral", "fear"]


@pytest.mark.parametrize(
    ("file", "text", "source", "message"),
    [
        ("goemotions/dev.tsv", "no label\n", GoEmotions, r"dev.tsv, row 1: 1 columns, need 3"),
        ("goemotions/dev.tsv", "text\t3\tid\n", GoEmotions, r"dev.tsv, row 1: labels '3'; must be numbers from 0 to 2"),
        ("goemotions/label_groups.json", '{"ekman": {"joy": ["love"]}}', GoEmotions, "no group for the label anger"),
        ("ethics/util_test.csv", "a,b,c\n", EthicsUtility, r"util_test.csv, row 1: 3 columns, need 2"),
        ("scruples/dilemmas_dev.jsonl", "{}", ScruplesDilemmas, r"dilemmas_dev.jsonl, row 1: no dilemma \(KeyError"),
        ("kote/val.tsv", "1\ta\tx\n", Kote, r"val.tsv, row 1: labels 'x'"),
    ],
)
def test_a_malformed_file_is_named_with_its_row(folder, file, text, source, message):
    (folder / "emotion" / file).write_text(text)
    with pytest.raises(UserError, match=message):
        source("hash").load(str(folder), 64)


def test_missing_files_are_named_with_what_to_set(tmp_path):
    with pytest.raises(UserError, match=r"set paths\.data_dir"):
        Kote("hash").load(str(tmp_path), 64)


def test_precomputed_vectors_have_their_own_size(folder):
    with pytest.raises(UserError, match=r"data\.dim=64: the precomputed vectors have 384 dimensions"):
        GoEmotions("precomputed").load(str(folder), 64)


def test_real_texts_and_generated_bags_make_one_data_set(folder):
    table = "".join(f"text {i}\t{i % 2}\tid{i}\n" for i in range(60))
    (folder / "emotion/goemotions/train.tsv").write_text(table)
    data = TextData(0, 8, 0, SHARES, str(folder), {"goemotions": GoEmotions("hash"), "kote": None}, 64, 60, 0)
    data.setup()
    assert data.facts["num_targets"]["train"]["bentham"] == 0
    assert sum(data.facts["num_targets"][split]["surd"] for split in SPLITS) == 60
    assert data.facts["class_counts"][CLASSES.index("fear")] == 0
