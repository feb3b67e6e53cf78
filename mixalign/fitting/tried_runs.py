"""Run folders as points of a regression: the mixture of each, and the validation losses that it led to.

Suffixes: `K` tasks, `N` runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mixalign.config.settings import names_a_run, touches
from mixalign.errors import MixalignError
from mixalign.reporting.judge.same_specialists import different_specialists
from mixalign.reporting.read.differences import differing_keys
from mixalign.reporting.read.labels import find_runs
from mixalign.reporting.read.runs import Run

__all__ = ["FEW", "HOW_TO_MAKE_RUNS", "TriedRuns", "may_differ", "tried_runs"]

FEWEST = 3  # mixtures, below which there is nothing to leave out
FEW = 3  # runs for each task; the paper has 30
SHOWN = 3  # notes in an error
HOW_TO_MAKE_RUNS = "Runs are made by `mixalign train -m mixer=random_mixture 'mixer.draw=range(0,32)'`."
VARIED = ("mixer", "specialists")  # the first is what is fitted; the second changes no run on a fixed mixture


@dataclass(frozen=True)
class TriedRuns:
    """Runs on mixtures that stayed as they were.

    Attributes:
        weight_NK: their mixtures.
        loss_NK: their validation losses (or excess) in nats, of the weights that the run kept.
        notes: runs that were left out, and why; what else differs between those that were not.
    """

    tasks: tuple[str, ...]
    names: tuple[str, ...]
    weight_NK: Tensor
    loss_NK: Tensor
    notes: tuple[str, ...]


def tried_runs(paths: Sequence[Path], quantity: str = "loss") -> TriedRuns:
    """What the finished runs at or below some folders tell about mixtures that stayed as they were.

    Raises:
        MixalignError: when fewer than three mixtures are left, or the runs have other tasks or objectives.
    """
    runs: list[Run] = []
    notes: list[str] = []
    for run in find_runs(paths, names_a_run):
        if reason := run.skipped or _moved(run):
            notes.append(f"left out: {run.path.name} ({reason})")
        else:
            runs.append(run)
    if not runs:
        raise MixalignError(f"No run has a mixture that stayed as it was{_few_of(notes)}. {HOW_TO_MAKE_RUNS}")
    _check_alike(runs)
    if quantity == "excess":
        _check_specialists(runs)
    tasks = runs[0].tasks
    weight_NK = torch.stack([_mixture(run, tasks) for run in runs])
    if (number := len(torch.unique(weight_NK.round(decimals=9), dim=0))) < FEWEST:
        raise MixalignError(
            f"Different mixtures in the runs: {number}, but a fit needs at least {FEWEST}, and rather "
            f"{FEW * len(tasks)} for {len(tasks)} tasks{_few_of(notes)}. {HOW_TO_MAKE_RUNS}"
        )
    loss_NK = torch.stack([_losses(run, tasks, quantity) for run in runs])
    if others := [key for key in differing_keys(runs) if not may_differ(key)]:
        notes.append(
            f"warning: the runs differ in {', '.join(others)} too, which the fit takes for the mixture's doing"
        )
    return TriedRuns(tasks, tuple(run.path.name for run in runs), weight_NK, loss_NK, tuple(notes))


def may_differ(key: str) -> bool:
    """Whether runs of one fit may differ in a dotted setting."""
    return key.partition(".")[0] in VARIED or touches(key) != "weights"


def _few_of(notes: Sequence[str]) -> str:
    """The first notes, at the end of a sentence."""
    more = f"; and {len(notes) - SHOWN} more" if len(notes) > SHOWN else ""
    return "".join(f"; {note}" for note in notes[:SHOWN]) + more


def _moved(run: Run) -> str:
    """Why a run does not tell about one mixture; empty when it does."""
    if run.mix_history is None:
        return "no mix.jsonl, so that its mixture is unknown"
    return f"its mixer, {run.mixer}, moved the mixture" if run.mix_history.moved else ""


def _check_alike(runs: Sequence[Run]) -> None:
    first = runs[0]
    for other in runs[1:]:
        if sorted(other.tasks) != sorted(first.tasks):
            raise MixalignError(
                f"The runs have different tasks: {first.path.name} has {', '.join(first.tasks)}, but "
                f"{other.path.name} has {', '.join(other.tasks)}. Give runs of the same tasks."
            )
        if other.objective != first.objective:
            raise MixalignError(
                f"The runs have different objectives, whose losses cannot be compared: {first.path.name} has "
                f"{first.objective}, but {other.path.name} has {other.objective}. Give runs of the same objective."
            )


def _check_specialists(runs: Sequence[Run]) -> None:
    """Refuses excess over several sets of specialists; runs of different seeds go into one fit as well."""
    if differing := different_specialists([replace(run, seed=0) for run in runs]):
        raise MixalignError(
            f"The runs' excess is over different specialists, and does not compare: {', '.join(differing)}. Fit to the "
            "loss (`--quantity loss`), or make the runs with `specialists.of=first`."
        )


def _mixture(run: Run, tasks: Sequence[str]) -> Tensor:
    assert run.mix_history is not None
    weight_K = run.mix_history.alpha_NK[0]
    return torch.tensor([weight_K[run.tasks.index(task)] for task in tasks], dtype=torch.float64)


def _losses(run: Run, tasks: Sequence[str], quantity: str) -> Tensor:
    """Of the validation rows, at the step whose weights the run kept: the best one, or with export=last the last."""
    losses = []
    watched = run.validation.get("eval/worst_excess") or run.validation.get("eval/worst_loss")
    for task in tasks:
        if f"eval_{quantity}/{task}" not in run.validation:
            why = (
                "specialists were not trained: set `specialists.train=always`" if quantity == "excess" else "unfinished"
            )
            raise MixalignError(f"{run.path} has no validation {quantity} of task `{task}` in metrics.csv ({why}).")
        steps, values = run.validation[f"eval_{quantity}/{task}"]
        kept, exported = steps[-1], run.eval.get("exported")
        if exported and "averaged" in exported:  # metrics.csv has the last weights, not the mean
            losses.append(float(exported["validation"][quantity][task]))
            continue
        if exported:
            kept = exported["step"]
        elif run.config.get("export") == "best" and watched is not None:  # of an older version
            kept = watched[0][np.nanargmin(watched[1])]
        losses.append(float(values[steps == kept][0]))
    return torch.tensor(losses, dtype=torch.float64)
