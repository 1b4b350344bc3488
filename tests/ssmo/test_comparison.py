"""Methods are compared by seed, and nothing is called better that two tests do not find."""

import pytest

from ssmo.comparison import Place, compare, gather, strong_slot
from ssmo.report import verdicts


def row(method, seed, best, pair=("cnn", "mlp"), status="done", mode="max", val=(0.9, 0.8)):
    return {
        "task": "classification", "dataset": "shapes10", "condition_tag": "clean", "method": method, "seed": seed,
        "model1": pair[0], "model2": pair[1], "best_metric_1": best[0], "best_metric_2": best[1],
        "val_best_1": val[0], "val_best_2": val[1], "metric_name": "accuracy", "metric_mode": mode, "status": status,
    }  # fmt: skip


def place(slot, pair=("cnn", "mlp")):
    return Place("classification", "shapes10", "clean", *pair, slot)


def batch(gain, seeds=8, mode="max"):
    """ssmo_hard against independent; the gain of slot 1 varies a little."""
    rows = []
    for seed in range(seeds):
        rows.append(row("independent", seed, (0.5 + 0.01 * seed, 0.4), mode=mode))
        rows.append(row("ssmo_hard", seed, (0.5 + 0.01 * seed + gain + 0.001 * (seed % 3), 0.4), mode=mode))
    return gather(rows)


def test_gains_are_paired_by_seed_and_positive_where_better():
    higher, lower = (compare(batch(0.05, mode=mode))[0] for mode in ("max", "min"))
    assert (higher.method, higher.baseline, higher.n) == ("ssmo_hard", "independent", 8)
    assert higher.gain.estimate == pytest.approx(0.05 + 0.001 * 7 / 8)
    assert lower.gain.estimate == pytest.approx(-higher.gain.estimate)
    assert higher.flip_p == 2 / 2**8
    assert higher.sure


def test_equal_gains_have_no_test():
    same = compare(batch(0.05))[1]
    assert same.place.slot == 2
    assert (same.t_p, same.flip_p, same.holm_p, same.effect) == (None, None, None, None)
    assert not same.sure


def test_an_independent_model_is_found_in_the_run_of_another_pair():
    rows = [
        row("independent", 0, (0.5, 0.6), pair=("cnn", "cnn")),
        row("ssmo_hard", 0, (0.7, 0.8), pair=("mlp", "cnn")),
    ]
    results = gather(rows)[place(2, ("mlp", "cnn"))]
    assert results.scores == {"ssmo_hard": {0: 0.8}, "independent": {0: 0.6}}
    assert results.gains("independent", "ssmo_hard").tolist() == [pytest.approx(0.2)]
    assert "independent" not in gather(rows)[place(1, ("mlp", "cnn"))].scores


def test_a_diverged_run_has_no_score_and_is_told():
    results = gather([row("ssmo_hard", 3, ("", ""), status="diverged")])[place(1)]
    assert results.scores == {}
    assert results.diverged == {"ssmo_hard": [3]}


def test_the_stronger_slot_is_told_by_validation():
    assert strong_slot(batch(0.0), place(1)) == 1
    assert strong_slot(batch(0.0, mode="min"), place(1)) == 2
    assert strong_slot(batch(0.0), place(1, ("cnn", "cnn"))) is None


@pytest.mark.parametrize(
    ("gain", "seeds", "said"),
    [(0.05, 8, "better in 1, worse in 0"), (-0.05, 8, "better in 0, worse in 1"), (0.05, 5, "better in 0, worse in 0")],
)
def test_the_verdict_follows_the_figures(gain, seeds, said):
    places = batch(gain, seeds)
    sentences = verdicts(places, compare(places), {})
    assert said in sentences[0]
    assert any("No cell can be significant" in each for each in sentences) == (seeds < 6)
