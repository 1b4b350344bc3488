"""Daily predictions: what they depend on, what they write, and what stops them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra.utils import instantiate

from common.config import compose
from common.errors import UserError
from common.evaluation import load_module
from common.files import read_json, write_json
from common.recorder import GracefulStop
from common.rundir import Run
from common.training import train_run
from lasps.daily import WindowsAt, predict_today
from lasps.data.features import FEATURES, compute_features
from lasps.data.module import KrxData
from lasps.data.sectors import SCHEMES
from lasps.forecasts import calibration_of, logits_of

pytestmark = pytest.mark.slow

TINY = [
    "data.stocks_per_sector=1", "data.start=2022-01-03", "data.end=2024-06-28", "data.split.val_start=2023-08-01",
    "data.split.test_start=2024-01-02", "model.hidden_dim=8", "model.num_heads=2", "model.feedforward_dim=8",
    "model.cnn_channels=[2,2]", "data.view.charts.size=60", "phase.epochs=1",
    "data.view.normalise._target_=lasps.normalise.Relative",
]  # fmt: skip
PRICES = ("open", "high", "low", "close")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run, its data module)"""
    folder = tmp_path_factory.mktemp("outputs")
    config = compose("lasps_phase1", [*TINY, f"paths.output_dir={folder}"])
    data = instantiate(config.data, _convert_="all")
    run = train_run(config, Run.create(folder / "lasps_phase1"), GracefulStop(), [], data)
    calibration_of(run, None)
    return run, data


@pytest.fixture(scope="module")
def table(trained):
    """The run's bars as a user would have saved them, half of them adjusted by 0.5."""
    bars = trained[1].bars
    columns = {name: getattr(bars, name) for name in (*PRICES, "volume")}
    frame = pd.DataFrame({"date": bars.date, "code": np.asarray(bars.codes)[bars.stock], **columns})
    frame["adj_close"] = frame.close
    early = frame.date < np.datetime64("2024-01-02")
    frame.loc[early, list(PRICES)] *= 2
    return frame


def source(trained, frame: pd.DataFrame, folder: Path) -> KrxData:
    frame.to_csv(folder / "bars.csv", index=False)
    _, data = trained
    return KrxData(
        data.windowing, data.split, data.view, 0, 64, 0, str(folder), "bars.csv", sectors=None, max_daily_move=10.0
    )


def predicted(trained, frame: pd.DataFrame, folder: Path, **options) -> dict[str, tuple[float, ...]]:
    """Probabilities by code."""
    folder.mkdir(parents=True, exist_ok=True)
    predict_today([trained[0]], "val", folder / "out", None, data=source(trained, frame, folder), **options)
    rows = pd.read_csv(folder / "out" / "predictions.csv", dtype={"code": str})
    return dict(zip(rows.code, rows[["p_sell", "p_hold", "p_buy"]].itertuples(index=False, name=None)))


def test_a_prediction_depends_on_the_issues_own_past_alone(trained, table, tmp_path):
    code, day = table.code.iloc[0], "2024-03-29"
    whole = predicted(trained, table, tmp_path / "whole", date=day)
    shuffled = predicted(trained, table.sample(frac=1, random_state=0), tmp_path / "shuffled", date=day)
    cut = predicted(trained, table[table.date <= np.datetime64(day)], tmp_path / "cut")
    alone = predicted(trained, table[table.code == code], tmp_path / "alone", date=day)
    assert whole == shuffled == cut
    assert alone == {code: whole[code]}
    assert len(whole) > 10


def test_logits_of_a_window_are_the_same_bits_in_any_company(trained):
    run, data = trained
    module, dataset = load_module(run), data.datasets["test"]
    chosen = np.random.default_rng(0).permutation(len(dataset))[:150]
    part = WindowsAt(dataset.features, data.bars, dataset.end_row[chosen])
    assert (logits_of(module, data.view, part) == logits_of(module, data.view, dataset)[chosen]).all()


def test_predictions_are_ranked_and_sum_to_one(trained, table, tmp_path):
    source(trained, table, tmp_path)
    summary = predict_today([trained[0]], "val", tmp_path / "out", None)
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype={"code": str})
    assert rows.score.is_monotonic_decreasing
    assert rows["rank"].tolist() == list(range(1, len(rows) + 1))
    np.testing.assert_allclose(rows[["p_sell", "p_hold", "p_buy"]].sum(axis=1), 1, atol=2e-6)
    np.testing.assert_allclose(rows.score, rows.p_buy - rows.p_sell, atol=2e-6)
    assert summary["date"] == str(trained[1].bars.date.max())
    assert "# Predictions for 2024-06-28" in (tmp_path / "out" / "report.md").read_text()


def test_a_window_is_explained_by_quoted_adjusted_and_seen_values_side_by_side(trained, table, tmp_path):
    _run, data = trained
    code = table.code.iloc[0]
    predicted(trained, table, tmp_path, explain=[f"{code}:2024-03-28", code])
    folder = tmp_path / "out" / "explain"
    shown = pd.read_csv(folder / f"{code}_2024-03-28.csv", dtype={"code": str})
    rows = np.flatnonzero(data.bars.stock == 0)
    end = rows[data.bars.date[rows] == np.datetime64("2024-03-28")][0]
    window = slice(end - 59, end + 1)
    quoted = table[table.code == code].reset_index(drop=True)
    first = int(np.flatnonzero(quoted.date == np.datetime64("2024-03-28"))[0]) - 59
    np.testing.assert_allclose(shown.quoted_close, quoted.close.iloc[first : first + 60])
    np.testing.assert_allclose(shown.adjusted_close, data.bars.close[window])
    np.testing.assert_allclose(shown.quoted_open * shown.factor, shown.adjusted_open)
    features = compute_features(data.bars)[window]
    for column in ("close", "rsi", "ma120", "weekday"):
        np.testing.assert_allclose(shown[f"feature_{column}"], features[:, FEATURES.index(column)], rtol=1e-5)
    assert shown.seen_close.iloc[-1] == pytest.approx(
        (0 - data.view.state()["mean"][3]) / data.view.state()["std"][3], rel=1e-4
    )  # the logarithm of close / close[t] at t is 0
    move = data.bars.close[end + 5] / data.bars.close[end] - 1
    label = "BUY" if move >= 0.03 else "SELL" if move <= -0.03 else "HOLD"
    assert f"{move:+.4%}, {label}" in (folder / f"{code}_2024-03-28.md").read_text()
    assert "Label not known" in (folder / f"{code}_2024-06-28.md").read_text()
    assert (folder / f"{code}_2024-06-28.png").stat().st_size > 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"date": "2024-03-30"}, "2024-03-30: no session; the bars run from 2022-01-03"),
        ({"date": "tomorrow"}, "tomorrow: no date; write it as in 2024-01-31"),
        ({"explain": ["00001"]}, "explain=00001: no such issue. Did you mean 000010?"),
        ({"explain": ["000010:2022-02-01"]}, "000010 has no complete window that ends on 2022-02-01"),
    ],
)
def test_what_cannot_be_predicted_is_refused_in_one_line(trained, tmp_path, options, message):
    with pytest.raises(UserError) as caught:
        predict_today([trained[0]], "val", tmp_path, None, **options)
    assert message in str(caught.value)


def test_bars_of_another_sector_scheme_are_refused(trained, table, tmp_path):
    data = source(trained, table, tmp_path)
    data.source.scheme = SCHEMES[20]
    with pytest.raises(UserError, match=r"set data.num_sectors as in training"):
        predict_today([trained[0]], "val", tmp_path, None, data=data)


def test_a_calibration_is_fitted_once_and_again_for_other_weights(trained):
    run, _ = trained
    path = run.path / "calibration.json"
    kept = read_json(path)
    doctored = kept | {"calibration": kept["calibration"] | {"inverse_temperature": 0.5}}
    write_json(path, doctored)
    assert calibration_of(run, None).inverse_temperature == 0.5
    write_json(path, doctored | {"weights": "others"})
    assert calibration_of(run, None).as_dict() == kept["calibration"]
