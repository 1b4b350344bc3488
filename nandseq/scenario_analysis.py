"""What `evaluate.py` can do with a run of the scenario classifier: judge it, and describe a trace with it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from common.evaluation import LoadedRun, Split, load_module, load_run
from common.files import write_text
from common.metrics import classification_report
from common.plots import plot_confusion
from common.report import format_table
from common.rundir import Run
from nandseq.profiles import Profile
from nandseq.scenario_classifier import ScenarioNetwork, cut, describe
from nandseq.scenario_module import EXTRA_SETS, ScenarioSet
from nandseq.traces import read_trace


def judge_scenarios(runs: list[Run], split: Split, output: Path, data_dir: str | None) -> dict[str, Any]:
    """F1 of every scenario with the constant predictor beside it; the extra sets with the test split only.

    Raises:
        UserError: for more than one run.
    """
    run = the_run(runs, "nandseq/scenario")
    loaded = load_run(run, data_dir)
    sets = {split: loaded.data.datasets[split]}
    sets |= {name: loaded.data.make(name) for name in EXTRA_SETS} if split == "test" else {}
    judged = {name: _report(loaded, data) for name, data in sets.items()}
    own = judged[split]
    names = list(own["f1"])
    title = f"macro F1 {own['macro_f1']:.3f}, constant predictor {own['constant_predictor']['macro_f1']:.3f}"
    plot_confusion(np.array(own["confusion"]), names, output / "figures" / "confusion.png", title)
    write_text(output / "report.md", _text(loaded, split, judged))
    extra = {name: report for name, report in judged.items() if name != split}
    return {"data_source": loaded.data.data_source, **own, "extra": extra}


def the_run(runs: list[Run], analysis: str) -> Run:
    """The only run.

    Raises:
        UserError: if there are several.
    """
    if len(runs) != 1:
        raise UserError(f"analysis={analysis} works on one run; {len(runs)} given.")
    return runs[0]


def _report(loaded: LoadedRun, data: ScenarioSet) -> dict[str, Any]:
    shares = probabilities(loaded.module.network, data.features)
    return classification_report(
        data.label, shares, class_names=loaded.data.scenarios, prior=loaded.data.facts["class_counts"],
        groups=np.arange(len(data)),
    )  # fmt: skip


@torch.inference_mode()
def probabilities(network: ScenarioNetwork, features: np.ndarray) -> np.ndarray:
    """(N, K) probabilities of the scenarios."""
    device = next(network.parameters()).device
    return network(torch.from_numpy(features).to(device)).double().softmax(1).cpu().numpy()


def _text(loaded: LoadedRun, split: Split, judged: dict[str, Any]) -> str:
    own = judged[split]
    low, high = (own["intervals"]["macro_f1"][end] for end in ("low", "high"))
    rows = [[name, *(report["f1"][name] for report in judged.values())] for name in own["f1"]]
    rows.append(["macro", *(report["macro_f1"] for report in judged.values())])
    rows.append(["constant predictor", *(report["constant_predictor"]["macro_f1"] for report in judged.values())])
    return "\n".join([
        f"# {loaded.config.name} on the {split} split\n",
        f"Run `{loaded.run}`, {loaded.data.data_source} data, N = {own['n']}. Macro F1 {own['macro_f1']:.4f} "
        f"[{low:.4f}, {high:.4f}] (95 %, bootstrap over sequences).\n",
        format_table(rows, ["F1", *judged]),
        "long: 400 commands; wide: 12 or 32 blocks.\n\n![confusion](figures/confusion.png)\n",
    ])  # fmt: skip


def describe_trace(
    runs: list[Run], split: Split, output: Path, data_dir: str | None, trace: str, profile: str
) -> dict[str, Any]:
    """A description of a trace in words, and the scenario of each of its pieces as long as the run's sequences.

    Raises:
        UserError: for more than one run, or a trace or profile that cannot be read.
    """
    run, device = the_run(runs, "nandseq/describe"), Profile.load(profile)
    ops = read_trace(Path(trace))
    pieces = cut(ops, run.config.data.seq_len)
    scenarios = list(run.config.facts.scenarios)
    shares = probabilities(load_module(run).network, pieces.features)
    sentences = describe(ops, shares, scenarios, device.num_blocks)
    rows = [[number, scenarios[each.argmax()], float(each.max())] for number, each in enumerate(shares)]
    table = "\n".join(["piece,scenario,probability", *(f"{n},{name},{p:.4f}" for n, name, p in rows)])
    write_text(output / "pieces.csv", table + "\n")
    write_text(output / "report.md", f"# {Path(trace).name}\n\n" + "\n".join(f"- {line}" for line in sentences) + "\n")
    return {"trace": trace, "commands": len(ops), "pieces": len(shares), "sentences": sentences,
            "shares": dict(zip(scenarios, shares.mean(0).tolist()))}  # fmt: skip
