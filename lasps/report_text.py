"""The words and tables of the lasps report."""

from collections.abc import Sequence
from typing import Any

from common.evaluation import Split
from common.report import format_table
from common.rundir import Run
from common.stats import Interval
from lasps.judged import CLASSES
from lasps.judging import STAGES


def markdown(summary: dict[str, Any], name: str, runs: list[Run], split: Split, figures: Sequence[str]) -> str:
    """report.md from the summary of `lasps.report.report`, as it stands in JSON.

    Args:
        name: of the forecast that is judged.
        figures: names of the pictures that were made.
    """
    parts = [
        f"# {name} on the {split} split\n",
        "**LEAKY SPLIT: windows were dealt out at random. Nothing below says how the model would do.**\n"
        if summary["leaky"] else "",
        _setting(summary, runs),
        "## Verdict\n",
        "\n".join(f"- {sentence}" for sentence in summary["verdict"]),
        "\nEach sentence is one 95 % interval, not corrected for how many there are.\n",
        "## All models on the same rows\n",
        _models_table(summary["models"]),
        "\nClassifiers stand twice: deciding for the most probable class, and for the one that gains most over its "
        f"share in training. `{name}` is calibrated and decides in the second way. A constant score has no rank IC.\n",
        *(_differences_text(forecast, rivals) for forecast, rivals in summary["differences"].items()),
        _classes_text(summary["classes"]),
        _calibration_text(summary["calibration"]),
        _ranking_text(summary["ranking"]),
        _volatility_text(summary["models"]),
        _permutation_text(summary["permutation"]),
        "## Sectors\n",
        _parts_table(summary["sectors"], sectors=True),
        "\np: balanced accuracy against labels of other blocks of sessions; Holm corrects for the number of sectors. "
        "Intervals over few blocks are too narrow.\n",
        "## Years\n",
        _parts_table(summary["years"], sectors=False),
        "\n## Volatility regimes\n",
        _parts_table(summary["regimes"], sectors=False),
        "\nA session is calm, normal or turbulent by the third of the training sessions that its median ATR / close "
        "falls into.\n",
        _portfolio_text(summary["portfolios"]),
    ]  # fmt: skip
    pictures = [f"![{figure}](figures/{figure}.png)" for figure in figures]
    return "\n".join(part for part in [*parts, *pictures] if part) + "\n"


def _differences_text(name: str, rivals: dict[str, Any]) -> str:
    rows = [[rival, _span(row["balanced_accuracy"]), _span(row["rank_ic"])] for rival, row in rivals.items()]
    table = format_table(rows, ["baseline", "balanced accuracy", "rank IC"])
    return f"## {name} minus each baseline, paired\n\n{table}"


def _setting(summary: dict[str, Any], runs: list[Run]) -> str:
    source = "**simulated data**" if summary["data_source"] == "synthetic" else "real data"
    universe = summary["universe"]
    lines = [
        f"- Runs: {', '.join(f'`{run}`' for run in runs)}; {source}; {summary['folds']} fold(s).",
        f"- {summary['n']} windows, {summary['first_date']} … {summary['last_date']}; entry price "
        f"`{summary['entry']}`.",
        f"- The test split of these runs was looked at {summary['test_looks']} time(s); "
        f"{summary['configurations_tried']} finished run(s) on the same windows are among the outputs.",
        "- Intervals: 95 %, bootstrap by blocks of five sessions.",
    ]
    if "issues" in universe:
        gone, issues = universe["issues_gone"], universe["issues"]
        survivors = (
            "no issue ends before the data do, so the universe holds survivors only and results are too good"
            if gone == 0
            else f"{gone} of {issues} issues end before the data do; whether all delisted issues are there, the data "
            "cannot tell"
        )
        lines.append(f"- Survivorship: {survivors}; {universe['issues_listed_later']} were listed later.")
        lines.append(
            f"- Halts: {universe['halted_sessions']} issue-sessions without trading within an issue's life are left "
            f"out, never a return of −100 %; {universe.get('price_breaks', 0)} price breaks are not crossed."
        )
    if "unknown_sector_issues" in universe:
        lines.append(f"- Sectors as of each date; {universe['unknown_sector_issues']} issues "
                     f"({universe['unknown_sector_rows']} rows) have none and follow data.unknown_sector.")  # fmt: skip
    return "\n".join(lines) + "\n"


def _span(interval: dict[str, Any] | None, alone: float | None = None) -> str:
    """An interval in words; without one the figure `alone`, if there is any."""
    if interval is not None:
        return str(Interval(**interval))
    return "–" if alone is None else f"{alone:.3f}"


def _balanced(row: dict[str, Any]) -> str:
    return _span(row["intervals"].get("balanced_accuracy"), row["balanced_accuracy"])


def _models_table(models: dict[str, Any]) -> str:
    rows = []
    for name, row in models.items():
        auc = row.get("auc")
        rows.append([
            name, row["accuracy"], _balanced(row), row["macro_f1"], row["mcc"],
            row.get("log_loss"), row.get("log_loss_gain"), row.get("brier"),
            "–" if auc is None else " / ".join(f"{value:.3f}" for value in auc),
            _span(row["intervals"]["rank_ic"], row["rank_ic"]), row["icir"],
        ])  # fmt: skip
    return format_table(rows, [
        "model", "accuracy", "balanced accuracy", "macro-F1", "MCC", "log loss", "gain over prior", "Brier",
        "AUC SELL / HOLD / BUY", "rank IC", "ICIR",
    ])  # fmt: skip


def _classes_text(classes: dict[str, Any]) -> str:
    table = [
        [row[key] for key in ("class", "n", "predicted", "precision", "recall", "f1")] for row in classes["by_class"]
    ]
    confusion = [[name, *row] for name, row in zip(CLASSES, classes["confusion"])]
    precision = [[f"{row['coverage']:.0%}", row["n"], row["precision"]] for row in classes["buy_precision"]]
    return "\n".join([
        "\n## Classes\n", format_table(table, ["class", "N", "predicted", "precision", "recall", "F1"]),
        "\nConfusion matrix, rows actual:\n", format_table(confusion, ["actual \\ predicted", *CLASSES]),
        f"\nPrecision of BUY among the rows with the highest P(BUY); {classes['buy_share']:.1%} of all rows are BUY:\n",
        format_table(precision, ["share chosen", "N", "precision"]),
    ])  # fmt: skip


def _calibration_text(calibration: dict[str, Any]) -> str:
    keys = ("log_loss", "brier", "ece", "class_ece")
    rows = [[stage, *(row.get(key) for key in keys)] for stage, row in calibration.items()]
    bins = [
        [f"{row['low']:.1f}–{row['high']:.1f}", row["n"], row["confidence"], row["frequency"]]
        for row in calibration[STAGES[-1]]["reliability"]
        if row["n"]
    ]
    return "\n".join([
        "\n## Calibration, fitted on validation\n",
        format_table(rows, ["stage", "log loss", "Brier", "ECE", "class-wise ECE"]),
        "\nReliability of the predicted class after calibration, ten bins:\n",
        format_table(bins, ["probability", "N", "mean probability", "share right"]),
    ])  # fmt: skip


def _ranking_text(ranking: dict[str, Any]) -> str:
    title = "\n## Return over the day's universe by tenth of the score, % per horizon, before costs\n\n"
    if not all(row["num_days"] for row in ranking.values()):
        return title + "No session has ten issues.\n"
    rows = [
        [name, *(100 * value for value in row["excess"]), _percent(row["top_minus_universe_interval"]),
         _percent(row["top_minus_bottom_interval"]), row["monotonicity"]]
        for name, row in ranking.items()
    ]  # fmt: skip
    header = ["model", *(f"D{number}" for number in range(1, 11)), "top − universe", "top − bottom", "monotonicity"]
    left_out = next(iter(ranking.values()))["num_days_left_out"]
    return title + format_table(rows, header) + f"\n{left_out} sessions with fewer than ten issues are left out.\n"


def _percent(interval: dict[str, Any] | None) -> str:
    if interval is None:
        return "–"
    estimate, low, high = (100 * interval[key] for key in ("estimate", "low", "high"))
    return f"{estimate:.2f} [{low:.2f}, {high:.2f}]"


def _volatility_text(models: dict[str, Any]) -> str:
    rows = [
        [name, _span(row["intervals"]["direction"]), _span(row["intervals"]["movement"])]
        for name, row in models.items()
        if "direction" in row["intervals"]
    ]
    return "\n".join([
        "\n## Direction apart from volatility\n",
        format_table(rows, ["model", "AUC of BUY against SELL", "AUC of moves against HOLD"]),
        "\nKnowing how much an issue moves gives the second; only the first is about up or down.\n",
    ])  # fmt: skip


def _permutation_text(permutation: dict[str, Any]) -> str:
    return (
        "## Labels permuted by blocks of sessions\n\n"
        f"Balanced accuracy {permutation['observed']:.4f}; with the labels of other blocks "
        f"{permutation['permuted_mean']:.4f} on average; p = {permutation['p_value']:.4f}.\n"
    )


def _parts_table(rows: Sequence[dict[str, Any]], sectors: bool) -> str:
    table = []
    for row in rows:
        shares = " / ".join(f"{100 * value:.0f}" for value in row["class_shares"].values())
        shared = None if row["over_shared"] is None else row["over_shared"]["balanced_accuracy"]
        table.append([
            row["name"], row["n"], shares, *([row["head"]] if sectors else []), row["accuracy"],
            _balanced(row), row["macro_f1"], row["mcc"], row["log_loss_gain"],
            _span(row["intervals"]["rank_ic"]), _span(row["intervals"].get("direction")), _span(shared),
            row["p_value"], *([row["p_holm"]] if sectors else []),
        ])  # fmt: skip
    return format_table(table, [
        "part", "N", "shares %", *(["head"] if sectors else []), "accuracy", "balanced accuracy", "macro-F1", "MCC",
        "log loss gain", "rank IC", "AUC BUY/SELL", "over common head", "p", *(["p (Holm)"] if sectors else []),
    ])  # fmt: skip


def _portfolio_text(portfolios: dict[str, Any]) -> str:
    if not portfolios:
        return "\n## Portfolios\n\nThe data holds windows only; a backtest needs bars.\n"
    parts = ["\n## Portfolios under the rules of the exchange\n"]
    for side in ("long_only", "market_neutral"):
        note = "" if side == "long_only" else " (short sales assumed possible)"
        rows = [_portfolio_row(name, row) for name, row in portfolios[side].items()]
        rows.append(_portfolio_row("equal weight", portfolios["equal weight"]))
        first = next(iter(portfolios[side].values()))
        if "index" in first["benchmarks"]:
            row = first["benchmarks"]["index"]
            rows.append(
                ["index", *[100 * row["annual_return"]] * 3, _sharpe(row), 100 * row["max_drawdown"], *[None] * 6]
            )
        parts.append(f"{side.replace('_', '-').capitalize()}{note}:\n")
        parts.append(format_table(rows, [
            "portfolio", "return a year, costs × 0, %", "× 1", "× 2", "Sharpe, net", "drawdown %", "turnover a year",
            "sessions held", "capacity, 1e9 won", "over equal weight a year, net", "deflated Sharpe",
            "largest sector %",
        ]))  # fmt: skip
        parts.append("")
    first = next(iter(portfolios["long_only"].values()))
    refused = ", ".join(f"{count} {reason}" for reason, count in first["refused"].items()) or "none"
    held = {name: 100 * share for name, share in first["sector_exposure"].items() if share > 0.005}
    exposure = ", ".join(f"{name} {share:.0f} %" for name, share in held.items())
    parts.append(f"First row, long only: {first['fills']} orders done; not done: {refused}. Mean exposure: {exposure}.")
    parts.append(
        f"{first['sessions']} sessions from {first['first_session']} to {first['last_session']}, capital "
        f"{first['capital']:,.0f} won. Deflated Sharpe: probability that the true ratio beats the best of "
        f"{first['num_trials']} configurations without skill. Settlement and interest on cash are ignored.\n"
    )
    return "\n".join(parts)


def _portfolio_row(name: str, row: dict[str, Any]) -> list[Any]:
    costs = row["cost_multiples"]
    excess = row["benchmarks"].get("equal weight", {}).get("excess")
    largest = max((abs(share) for share in row["sector_exposure"].values()), default=0.0)
    return [
        name, *(100 * costs[multiple]["annual_return"] for multiple in ("0", "1", "2")), _sharpe(costs["1"]),
        100 * costs["1"]["max_drawdown"], row["turnover_year"], row["holding_sessions"],
        None if row["capacity"] is None else row["capacity"] / 1e9, _percent(excess), row["deflated_sharpe"],
        100 * largest,
    ]  # fmt: skip


def _sharpe(performance: dict[str, Any]) -> str:
    return _span(performance["sharpe"])
