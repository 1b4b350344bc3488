"""What is compared: every way to make a prediction of a run's epochs, chosen on the select split alone.

Source: redheart specification, sections 8 and 9.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from common.unit_files import MANIFEST
from redheart.combine import Recipe, Source
from redheart.contributions import Contributions
from redheart.plateau import plateaus
from redheart.rows import TASKS, Task
from redheart.search import Found, best_each, coordinate_descent, exact, greedy_soup, surely_better, tpe
from redheart.sweetspots import Analysis
from redheart.tasks import Answer, Targets, has_target

BASELINE = "best_single"
FIXED_EPOCHS = (30, 40, 50)
LAWA = 10  # checkpoints
WINDOWS = (3, 5, 10)  # checkpoints
NUM_DRAWS = 30
EMA = "ema"  # folder of the moving average below units/


@dataclass(frozen=True)
class Candidate:
    """A way to make a prediction.

    Attributes:
        recipes: of one model; of several, whose predictions are averaged in an ensemble and whose figures otherwise.
        how: what was chosen, in words.
    """

    recipes: list[Recipe]
    how: str
    ensemble: bool = False

    def predictions(self, kept: Contributions) -> list[dict[Task, Answer]]:
        """What is answered to the rows of a split; several answers where figures are averaged."""
        said = [kept.fused(recipe) for recipe in self.recipes]
        return [{task: Answer.fuse([each[task] for each in said]) for task in TASKS}] if self.ensemble else said

    def loss(self, kept: Contributions) -> np.ndarray:
        """(n,) losses of a split's rows."""
        return np.mean([kept.losses(said) for said in self.predictions(kept)], axis=0)


@dataclass
class Candidates:
    """All that could be made, by name, and why the others could not."""

    found: dict[str, Candidate] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def choose(select: Contributions, analysis: Analysis, seed: int = 0) -> Candidates:
    """Every candidate but the oracle.

    Args:
        select: of the select split; no other is read.
        analysis: the sweet spots of the same run.
        seed: of the random mixes and of the trials.
    """
    chosen = Candidates()
    _single_epochs(select, chosen)
    _picks(select, analysis, chosen)
    _searches(select, chosen, seed)
    _averages(select, chosen)
    _group_averages(select, chosen)
    _several(select, chosen, seed)
    return chosen


def epoch_losses(kept: Contributions) -> dict[int, float]:
    """Mean loss of the whole model at every saved epoch."""
    return {epoch: float(kept.losses(kept.fused(kept.units.everywhere(epoch))).mean()) for epoch in kept.units.saved}


def best_epoch(kept: Contributions) -> int:
    losses = epoch_losses(kept)
    return min(losses, key=losses.get)


def group_losses(kept: Contributions) -> dict[str, np.ndarray]:
    """(E,) mean own loss of each dependency group, over the saved epochs."""
    return {
        group: np.array([kept.own_loss(group, kept.units.everywhere(epoch)) for epoch in kept.units.saved])
        for group in kept.units.groups
    }


def task_tables(kept: Contributions) -> dict[tuple[str, ...], np.ndarray]:
    """What each task adds to the mean loss, over the epochs of the groups that answer it: their sum is that loss.

    A prediction is fused task by task, so the loss is a sum of tables that are far smaller than the product of all.
    """
    known = [task for task in TASKS if has_target(task, kept.targets).any()]
    weights = {task: kept.module.loss.task_weights[task] for task in known}
    tables: dict[tuple[str, ...], np.ndarray] = {}
    for task, weight in weights.items():
        groups, table = _task_table(kept, task)
        tables[groups] = tables.get(groups, 0) + weight / sum(weights.values()) * table
    return tables


def _task_table(kept: Contributions, task: Task) -> tuple[tuple[str, ...], np.ndarray]:
    """The groups that answer a task, and the mean loss of their fused answers over the epochs of each."""
    units = [unit for unit, answered in kept.module.branches if answered == task]
    group_of = {unit: group for group, members in kept.units.groups.items() for unit in members if unit in units}
    groups = tuple(dict.fromkeys(group_of[unit] for unit in units))
    recipes = [kept.units.everywhere(epoch) for epoch in kept.units.saved]
    said = {unit: _stacked([kept.answers(unit, recipe)[task] for recipe in recipes]) for unit in units}
    targets, table = Targets.join([kept.targets] * len(recipes)), np.empty([len(recipes)] * len(groups))
    for at in np.ndindex(table.shape[:-1]):  # all epochs of the last group at once
        epoch_of = dict(zip(groups, at))
        fused = Answer.fuse([_at(said[unit], epoch_of.get(group_of[unit])) for unit in units])
        rows = Answer(fused.logits.flatten(0, 1), fused.margin.flatten())
        table[at] = kept.module.row_losses({task: rows}, targets).view(len(recipes), -1).mean(1)
    return groups, table


def _stacked(said: list[Answer]) -> Answer:
    """(E, n, C) logits and (E, n) margins."""
    return Answer(torch.stack([each.logits for each in said]), torch.stack([each.margin for each in said]))


def _at(said: Answer, epoch: int | None) -> Answer:
    """One epoch's answer in the place of every epoch's; all as they are for None."""
    if epoch is None:
        return said
    return Answer(said.logits[epoch].expand_as(said.logits), said.margin[epoch].expand_as(said.margin))


def exact_optimum(kept: Contributions) -> tuple[Recipe, str]:
    """The best of all combinations of one epoch for each group, and how many there are."""
    epochs = list(kept.units.saved)
    at, _ = exact(task_tables(kept))
    picks = {group: epochs[at[group]] for group in kept.units.groups}
    return recipe_of(kept, picks), f"the best of {len(epochs)}^{len(picks)} combinations: {words(picks)}"


def recipe_of(kept: Contributions, picks: Mapping[str, int]) -> Recipe:
    """The recipe of one epoch for each group."""
    return kept.units.of_groups({group: Source.mean([epoch]) for group, epoch in picks.items()})


def unit_recipe(picks: Mapping[str, int]) -> Recipe:
    """The recipe of one epoch for each unit."""
    return {unit: Source.mean([epoch]) for unit, epoch in picks.items()}


def words(picks: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {epoch}" for name, epoch in picks.items())


def _single_epochs(select: Contributions, chosen: Candidates) -> None:
    epochs, best = list(select.units.saved), best_epoch(select)
    named = {f"epoch_{epoch}": epoch for epoch in FIXED_EPOCHS} | {"last": epochs[-1], BASELINE: best}
    for name, epoch in named.items():
        if epoch in epochs:
            chosen.found[name] = Candidate([select.units.everywhere(epoch)], f"epoch {epoch}")
        else:
            chosen.missing[name] = f"epoch {epoch} was not saved"


def _picks(select: Contributions, analysis: Analysis, chosen: Candidates) -> None:
    """What the sweet-spot analysis proposes, for groups and for units, and what each group's own loss does."""
    groups = {name: group.epoch for name, group in analysis.groups.items()}
    units = {name: unit.recommendation.epoch for name, unit in analysis.units.items()}
    for name, picks in (("proposed", groups), ("proposed_dependent", units)):
        lost = {unit: epoch for unit, epoch in picks.items() if epoch not in select.units.saved}
        if None in lost.values():
            chosen.missing[name] = f"the analysis abstains ({'; '.join(_abstained(analysis))})"
        elif lost:
            chosen.missing[name] = f"weights were not kept of {words(lost)}"
        else:
            recipe = recipe_of(select, picks) if name == "proposed" else unit_recipe(picks)
            chosen.found[name] = Candidate([recipe], words(picks))
    epochs = list(select.units.saved)
    own = {group: epochs[at] for group, at in best_each(group_losses(select)).items()}
    chosen.found["own_groups"] = Candidate([recipe_of(select, own)], words(own))


def _abstained(analysis: Analysis) -> dict[str, None]:
    """Why units are recommended no epoch, each reason once."""
    picks = [unit.recommendation for unit in analysis.units.values()]
    return dict.fromkeys(reason for pick in picks if pick.epoch is None for reason in pick.abstained)


def _searches(select: Contributions, chosen: Candidates, seed: int) -> None:
    """Searches on the fused loss that start from the best single epoch."""
    epochs, best = list(select.units.saved), best_epoch(select)

    def search(
        method: Callable[..., Found], names: Iterable[str], make: Callable[..., Recipe], **more: int
    ) -> Candidate:
        options = dict.fromkeys(names, epochs)
        found = method(lambda picks: _rows(select, make(picks)), dict.fromkeys(names, best), options, **more)
        return Candidate([make(found.choice)], f"{words(found.choice)}; {found.evaluations:,} combinations tried")

    def of_groups(picks: Mapping[str, int]) -> Recipe:
        return recipe_of(select, picks)

    chosen.found["greedy_groups"] = search(coordinate_descent, select.units.groups, of_groups)
    chosen.found["greedy_units"] = search(coordinate_descent, select.units.graph, unit_recipe)
    chosen.found["tpe_groups"] = search(tpe, select.units.groups, of_groups, seed=seed)
    recipe, how = exact_optimum(select)
    baseline = chosen.found[BASELINE]
    if not surely_better(_rows(select, recipe), baseline.loss(select)):
        recipe, how = baseline.recipes[0], f"{baseline.how}; {how}: no sure gain"
    chosen.found["exact_groups"] = Candidate([recipe], how)


def _averages(select: Contributions, chosen: Candidates) -> None:
    """Means of weights."""
    units, epochs = select.units, list(select.units.saved)

    def loss_of(members: list[int]) -> float:
        return float(_rows(select, units.everywhere(*members)).mean())

    windows = [epochs[at : at + width] for width in WINDOWS for at in range(len(epochs) - width + 1)]
    members = {
        "lawa_k": epochs[-LAWA:], "soup_uniform": epochs, "soup_greedy": greedy_soup(loss_of, epochs),
        "soup_window": min(windows, key=loss_of, default=epochs),
    }  # fmt: skip
    for name, own in members.items():
        chosen.found[name] = Candidate([units.everywhere(*own)], f"mean of {listed(own)}")
    if (units.folder / EMA / MANIFEST).is_file():
        chosen.found["ema"] = Candidate([units.everywhere(units.folder / EMA)], "moving average over steps")
    else:
        chosen.missing["ema"] = "none was collected (callbacks.collect.ema_decay)"


def _group_averages(select: Contributions, chosen: Candidates) -> None:
    """Means of weights that differ between the groups, by each group's own loss."""
    units, epochs = select.units, list(select.units.saved)
    losses = group_losses(select)
    flat = {group: plateaus(epochs, own).best for group, own in losses.items()}
    members = {
        group: [epochs[at]] if flat[group] is None else [e for e in epochs if flat[group].start <= e <= flat[group].end]
        for group, at in best_each(losses).items()
    }
    if any(flat.values()):
        chosen.found["plateau_average"] = _of_means(select, members)
    else:
        chosen.missing["plateau_average"] = "no group's loss was shown to be flat anywhere"
    soups = {
        group: greedy_soup(lambda own, group=group: select.own_loss(group, units.everywhere(*own)), epochs)
        for group in units.groups
    }
    chosen.found["group_soups"] = _of_means(select, soups)


def _of_means(select: Contributions, members: Mapping[str, list[int]]) -> Candidate:
    recipe = select.units.of_groups({group: Source.mean(own) for group, own in members.items()})
    return Candidate([recipe], "; ".join(f"{group} {listed(own)}" for group, own in members.items()))


def _several(select: Contributions, chosen: Candidates, seed: int) -> None:
    """Random mixes, and the ensemble of predictions whose members lower the loss."""
    units, epochs, rng = select.units, list(select.units.saved), np.random.default_rng(seed)
    draws = [{group: int(rng.choice(epochs)) for group in units.groups} for _ in range(NUM_DRAWS)]
    chosen.found["random_mix"] = Candidate([recipe_of(select, picks) for picks in draws], f"mean of {NUM_DRAWS} draws")

    def ensemble(members: list[int]) -> Candidate:
        recipes = [units.everywhere(epoch) for epoch in members]
        return Candidate(recipes, f"predictions of {listed(members)}, {len(members)} times the compute", ensemble=True)

    members = greedy_soup(lambda members: float(ensemble(members).loss(select).mean()), epochs)
    chosen.found["logit_ensemble"] = ensemble(members)


def _rows(kept: Contributions, recipe: Recipe) -> np.ndarray:
    return kept.losses(kept.fused(recipe))


def listed(epochs: list[int]) -> str:
    """`2, 4, 6` and, from four on, `2–8 (4 epochs)`."""
    return ", ".join(map(str, epochs)) if len(epochs) < 4 else f"{epochs[0]}–{epochs[-1]} ({len(epochs)} epochs)"
