"""What `evaluate.py` can do with a run of the generator: judge it, and draw traces from it."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError, nearest
from common.evaluation import LoadedRun, Split, load_run
from common.files import write_text
from common.plots import COLORS, new_figure, save_figure
from common.report import format_table
from common.rundir import Run
from common.stats import bootstrap
from nandseq.codes import Rule
from nandseq.generator import NetworkPolicy, Sampler, UniformPolicy, log_likelihood
from nandseq.generator_metrics import Judge, distances, diversity, scenario_scores, two_sample_auroc, validity
from nandseq.ops import Ops
from nandseq.profiles import Profile
from nandseq.tokens import PAD, Walks
from nandseq.traces import write_trace

FAULTS = (
    Rule.NOT_ERASED, Rule.REPROGRAM, Rule.PAGE_ORDER, Rule.READ_UNWRITTEN, Rule.READ_STALE, Rule.READ_TOO_CLOSE,
)  # fmt: skip


def judge_generator(
    runs: list[Run],
    split: Split,
    output: Path,
    data_dir: str | None,
    num_sequences: int,
    floor_sequences: int,
    seed: int,
) -> dict[str, Any]:
    """Validity, likelihood against the source's entropy, distances and diversity, beside two anchors.

    The anchors are other sequences of the source (nothing can be nearer) and a uniform walk over the legal commands.

    Args:
        num_sequences: drawn, masked and unmasked, at temperature 1.
        floor_sequences: of the split, for which the source's own likelihood is computed.

    Raises:
        UserError: for more than one run.
    """
    loaded = _load(runs, "nandseq/generator", data_dir)
    data = loaded.data.datasets[split]
    asked = data.scenario[np.arange(num_sequences) % len(data)]
    drawn = _drawn(loaded, asked, seed)
    training = loaded.data.datasets["train"]
    judge = Judge(training.walks, training.scenario, len(loaded.data.source.scenarios))
    sets = {name: each.walks for name, each in drawn.items()} | {"other data": loaded.data.datasets["val"].walks}
    asked_of = dict.fromkeys(drawn, asked) | {"other data": loaded.data.datasets["val"].scenario}
    figures = {
        name: {
            **validity(walks, loaded.data.profile),
            "mask_mass": float(drawn[name].mask_mass.mean()) if name in drawn else None,
            **distances(walks, data.walks),
            **diversity(walks, training.walks, seed),
            **scenario_scores(judge, walks, asked_of[name], len(loaded.data.source.scenarios)),
            "two_sample_auroc": two_sample_auroc(walks, data.walks),
        }
        for name, walks in sets.items()
    }
    summary = {
        "data_source": loaded.data.data_source,
        "n": num_sequences,
        "sets": figures,
        "likelihood": _likelihood(loaded, split, floor_sequences),
        "by_scenario": _by_scenario(loaded, drawn["free"].walks, asked),
    }
    _figure(summary, output)
    write_text(output / "report.md", _report(loaded, split, summary))
    return summary


def _load(runs: list[Run], analysis: str, data_dir: str | None) -> LoadedRun:
    if len(runs) != 1:
        raise UserError(f"analysis={analysis} works on one run; {len(runs)} given.")
    return load_run(runs[0], data_dir)


def _drawn(loaded: LoadedRun, asked: np.ndarray, seed: int) -> dict[str, Any]:
    """Samples of the network with and without mask, and of the uniform walk."""
    data, device = loaded.data, loaded.module.device
    network, uniform = NetworkPolicy(loaded.module.network), UniformPolicy()
    wanted = {"masked": (network, True), "free": (network, False), "uniform walk": (uniform, True)}
    return {
        name: Sampler(data.vocabulary, data.profile, masked=mask).draw(policy, asked, data.seq_len, seed, device=device)
        for name, (policy, mask) in wanted.items()
    }


def _likelihood(loaded: LoadedRun, split: Split, count: int) -> dict[str, Any]:
    """nll of the whole split; on its first sequences the source's own (floor) and the gap with its 95 % interval."""
    data, source = loaded.data.datasets[split], loaded.data.source
    policy = NetworkPolicy(loaded.module.network.cpu())
    said = log_likelihood(policy, data.tokens, loaded.data.vocabulary, loaded.data.profile, data.scenario)
    tokens = (data.tokens != PAD).sum(1)
    count = min(count, len(data))
    own = source.log_likelihood(data.walks[:count], data.scenario[:count], loaded.data.profile).sum(1)
    each, size = own - said[:count].sum(1), tokens[:count]
    gap = bootstrap(lambda gaps, sizes: gaps.sum() / sizes.sum(), each, size)
    return {"nll": -said.sum() / tokens.sum(), "floor": -own.sum() / size.sum(), "gap": gap.as_dict(),
            "floor_method": source.floor_method, "n_floor": count}  # fmt: skip


def _by_scenario(loaded: LoadedRun, free: Walks, asked: np.ndarray) -> dict[str, dict[str, Any]]:
    names = loaded.data.source.scenarios
    return {
        name: validity(free[asked == number], loaded.data.profile)
        for number, name in enumerate(names)
        if (asked == number).any()
    }


def _figure(summary: dict[str, Any], output: Path) -> None:
    shares = {name: each["valid_seq"] for name, each in summary["by_scenario"].items()}
    whole = summary["sets"]["free"]["valid_seq"]
    figure, (axes,) = new_figure(7, 3.6, f"Free sampling: {whole:.1%} of the sequences break no rule")
    axes.barh(list(shares), list(shares.values()), color=COLORS[0])
    axes.invert_yaxis()
    axes.set_xlabel("Share of sequences without a violation", fontsize=10)
    save_figure(figure, output / "figures" / "validity.png", {"scenario": list(shares), "valid": list(shares.values())})


def _report(loaded: LoadedRun, split: Split, summary: dict[str, Any]) -> str:
    sets, likelihood, gap = summary["sets"], summary["likelihood"], summary["likelihood"]["gap"]
    rows = [[name, *(each[name] for each in sets.values())] for name in sets["free"]]
    scenarios = [[name, *each.values()] for name, each in summary["by_scenario"].items()]
    return "\n".join([
        f"# {loaded.config.name} on the {split} split\n",
        f"Run `{loaded.run}`, {summary['data_source']} data, {summary['n']} sequences drawn of each kind. The mask "
        "makes every sequence legal whatever the network says; `free` is the network alone.\n",
        f"NLL {likelihood['nll']:.4f} nats a token. On {likelihood['n_floor']} sequences the source itself needs "
        f"{likelihood['floor']:.4f} ({likelihood['floor_method']}); the gap is {gap['estimate']:.4f} "
        f"[{gap['low']:.4f}, {gap['high']:.4f}].\n",
        format_table(rows, ["figure", *sets]),
        "js_: Jensen-Shannon divergence to the split, bits; w1_: Wasserstein-1; two_sample_auroc and the scenario "
        "figures by a linear judge trained on data; edit distances a command.\n",
        "## Free sampling by scenario\n",
        format_table(scenarios, ["scenario", "valid_seq", "valid_op", "first_violation"]),
        "![validity](figures/validity.png)\n",
    ])  # fmt: skip


@dataclass(frozen=True)
class Order:
    """What traces are asked for; the fields are the options of `analysis=nandseq/generate`.

    Attributes:
        count: traces.
        scenario: name; None takes all in turn.
        num_ops: commands of each.
        fault: name of the rule that one command is to break, "any", or None for legal traces.
        fault_at: that command's number; None draws one in the second half.
    """

    count: int
    scenario: str | None
    num_ops: int
    fault: str | None
    fault_at: int | None
    seed: int

    def scenarios(self, known: tuple[str, ...]) -> np.ndarray:
        """(count,) numbers of the scenarios asked for.

        Raises:
            UserError: for one that the run does not know.
        """
        if self.scenario is None:
            return np.arange(self.count) % len(known)
        if self.scenario not in known:
            hint = nearest(self.scenario, known)
            raise UserError(f"analysis.scenario={self.scenario}: unknown.{hint} The run knows {', '.join(known)}.")
        return np.full(self.count, known.index(self.scenario))

    def rule(self, profile: Profile) -> Rule | None:
        """The rule to break; None for any.

        Raises:
            UserError: for one that no single base command can break under this profile.
        """
        if self.fault in (None, "any"):
            return None
        off = {Rule.READ_STALE: not profile.read_offset_limit, Rule.READ_TOO_CLOSE: not profile.min_read_distance}
        names = [rule.name for rule in FAULTS if not off.get(rule, False)]
        if self.fault.upper() not in names:
            hint = nearest(self.fault.upper(), names)
            raise UserError(f"analysis.fault={self.fault}: not one of any, {', '.join(names)}.{hint}")
        return Rule[self.fault.upper()]

    def places(self) -> np.ndarray | None:
        """(count,) number of the command that is to break a rule.

        Raises:
            UserError: for one beyond the trace.
        """
        if self.fault is None:
            return None
        if self.fault_at is None:
            return np.random.default_rng(self.seed).integers(self.num_ops // 2, self.num_ops, self.count)
        if not 0 <= self.fault_at < self.num_ops:
            raise UserError(f"analysis.fault_at={self.fault_at}: the traces have commands 0 to {self.num_ops - 1}.")
        return np.full(self.count, self.fault_at)


def generate(
    runs: list[Run],
    split: Split,
    output: Path,
    data_dir: str | None,
    count: int,
    scenario: str | None,
    num_ops: int,
    temperature: float,
    top_p: float,
    masked: bool,
    fault: str | None,
    fault_at: int | None,
    seed: int,
) -> dict[str, Any]:
    """Traces drawn from a run, one CSV file each, and `labels.csv` with what each was asked to be.

    Raises:
        UserError: for more than one run, or an order that cannot be met.
    """
    if count < 1 or num_ops < 1 or temperature <= 0 or not 0 < top_p <= 1:
        raise UserError("analysis: give count and num_ops of 1 or more, temperature above 0, top_p in (0, 1].")
    loaded = _load(runs, "nandseq/generate", data_dir)
    data, order = loaded.data, Order(count, scenario, num_ops, fault, fault_at, seed)
    sampler = Sampler(data.vocabulary, data.profile, temperature, top_p, masked)
    sample = sampler.draw(
        NetworkPolicy(loaded.module.network), order.scenarios(data.source.scenarios), num_ops, seed,
        order.places(), order.rule(data.profile), device=loaded.module.device,
    )  # fmt: skip
    rows = []
    for number, ops in enumerate(traces(sample.walks, data.profile, seed)):
        name = f"{number:05d}_{data.source.scenarios[sample.scenario[number]]}.csv"
        write_trace([ops], output / "traces" / name)
        broken = Rule(int(sample.rule[number])).name if sample.rule[number] else ""
        rows.append([name, data.source.scenarios[sample.scenario[number]], int(sample.bad_index[number]), broken])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["file", "scenario", "bad_index", "rule"], *rows])
    write_text(output / "labels.csv", text.getvalue())
    met = int((sample.bad_index >= 0).sum())
    asked = f", {met} with the fault asked for" if fault else ""
    write_text(output / "report.md",
               f"# {count} traces\n\nIn `{output / 'traces'}`{asked}; `labels.csv` names them.\n\n"
               f"    python -m nandseq.check TRACE --profile {data.profile.name}\n")  # fmt: skip
    return {"count": count, "commands": int(sample.walks.length.sum()), "faults": met,
            **validity(sample.walks, data.profile)}  # fmt: skip


def traces(walks: Walks, profile: Profile, seed: int) -> list[Ops]:
    """The sequences with addresses: their blocks are distinct random blocks of the device; pages out of range stay."""
    rng, result = np.random.default_rng(seed), []
    for n in range(len(walks)):
        size = int(walks.length[n])
        chosen = rng.choice(profile.num_blocks, int(walks.block[n].max(initial=0)) + 1, replace=False)
        address = np.stack(np.unravel_index(chosen, (profile.dies, profile.planes, profile.blocks)))
        result.append(Ops(walks.op[n, :size], *address[:, walks.block[n, :size]], walks.page[n, :size]))
    return result
