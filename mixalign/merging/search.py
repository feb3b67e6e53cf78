"""Merge weights found on the validation rows of a run."""

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mixalign.checks import check_choice, check_number, check_numbers
from mixalign.frozen.cache import Frozen
from mixalign.jobs.job import Job
from mixalign.merging.methods import Merge
from mixalign.merging.write import Merged
from mixalign.runs.evaluate import evaluate_folder
from mixalign.terminal import Column, say_result, table_text

__all__ = ["Search", "choose", "search_weights"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """Weights to try on the validation rows.

    Attributes:
        trials: how many weights: for two models equal steps from one to the other, for more the equal weights and
            draws from the flat Dirichlet distribution.
        scales: each is tried with all weights; None: only that of the merge.
        target: of the tasks' excess (loss, without specialists), what is to be lowest: `worst` or `mean`.
        seed: of the draws.
    """

    trials: int = 11
    scales: tuple[float, ...] | None = None
    target: str = "worst"
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("merge.trials", self.trials, 1, whole=True)
        if self.scales is not None:
            check_numbers("merge.scales", self.scales)
        check_choice("merge.target", self.target, ("worst", "mean"))

    def candidates(self, how: Merge, num_models: int) -> list[Merge]:
        """The merges to try, in the order of trial."""
        if num_models == 2:
            weights: list[tuple[float, ...]] = [(1 - t, t) for t in torch.linspace(0, 1, self.trials).tolist()]
        else:
            flat = torch.distributions.Dirichlet(torch.ones(num_models, dtype=torch.float64))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                drawn = [tuple(flat.sample().tolist()) for _ in range(self.trials - 1)]
            weights = [(1 / num_models,) * num_models, *drawn]
        scales = self.scales or (how.scale,)
        return [replace(how, weights=w, scale=s) for w, s in itertools.product(weights, scales)]


def search_weights(job: Job, reference: Frozen, merged: Merged, search: Search, place: Path) -> None:
    """Gives the merge the best weights of those tried; prints a line for each.

    Args:
        place: a folder on the disk that has room for one more copy of the model.
    """
    tried: list[tuple[Merge, dict[str, Any]]] = []
    for candidate in search.candidates(merged.how, len(merged.sources)):
        merged.reweigh(candidate)
        with TemporaryDirectory(dir=place) as folder:
            merged.write(Path(folder))
            result = evaluate_folder(job, reference, Path(folder), "validation")
        log.info("merge: %d tried, weights %s, scale %g", len(tried) + 1, _weights(candidate), candidate.scale)
        tried.append((candidate, result))
    best, table = choose(tried, search.target)
    say_result(table)
    merged.reweigh(best)


def choose(tried: Sequence[tuple[Merge, dict[str, Any]]], target: str) -> tuple[Merge, str]:
    """The merge with the lowest worst (or mean) excess, or loss without specialists; and all of them as a table."""
    name = "excess" if "excess" in tried[0][1]["mean"] else "loss"
    scores = [
        {"worst": result["worst"][name]["value"], "mean": result["mean"][name], "task": result["worst"][name]["task"]}
        for _, result in tried
    ]
    values = [math.inf if math.isnan(score[target]) else score[target] for score in scores]
    best = values.index(min(values))
    columns = [
        Column("worst"),
        Column("mean"),
        Column("scale"),
        Column("weights", text=True),
        Column("worst task", text=True),
    ]
    rows = [
        [f"{score['worst']:.3f}", f"{score['mean']:.3f}", f"{how.scale:g}", _weights(how), score["task"]]
        for (how, _), score in zip(tried, scores, strict=True)
    ]
    rows[best][-1] += " <- taken"
    return tried[best][0], table_text(columns, rows, title=f"Merges on the validation rows: {name} in nats")


def _weights(how: Merge) -> str:
    return " ".join(f"{weight:.3f}" for weight in how.weights or ())
