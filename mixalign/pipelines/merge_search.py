"""Merge weights found on the validation rows of a run."""

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch

from mixalign.data.loader import EvalLoader
from mixalign.errors import MixalignError
from mixalign.evaluation.summary import eval_json
from mixalign.models.merge_files import Merged
from mixalign.models.merge_methods import Merge
from mixalign.pipelines.build import build
from mixalign.pipelines.job import Job
from mixalign.pipelines.stages import Frozen, load_frozen
from mixalign.training.module import AlignModule

__all__ = ["Search", "choose", "evaluate_model", "search_weights"]

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
        if self.trials < 1:
            raise MixalignError(f"`trials` of a search is {self.trials}, but must be at least 1.")

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
            result = evaluate_model(job, reference, Path(folder), candidate.method, "validation")
        log.info("merge: %d tried, weights %s, scale %g", len(tried) + 1, _weights(candidate), candidate.scale)
        tried.append((candidate, result))
    best, table = choose(tried, search.target)
    print(table)
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
    lines = [f"validation rows, {name} in nats", "  worst    mean  scale  weights"]
    for number, ((how, _), score) in enumerate(zip(tried, scores, strict=True)):
        mark = " <- taken" if number == best else ""
        text = f"{score['worst']:7.3f} {score['mean']:7.3f} {how.scale:6g}  {_weights(how)}"
        lines.append(f"{text}  (worst: {score['task']}){mark}")
    return tried[best][0], "\n".join(lines)


def _weights(how: Merge) -> str:
    return " ".join(f"{weight:.3f}" for weight in how.weights or ())


def evaluate_model(job: Job, reference: Frozen, model: Path, method: str, split: str) -> dict[str, Any]:
    """What `eval.json` holds, of a model's folder."""
    module = AlignModule(load_frozen(model, reference), job.objective, job.tasks, build(job.cfg.optimizer))
    trainer = L.Trainer(
        accelerator=job.cfg.trainer.accelerator,
        devices=1,
        precision=job.cfg.trainer.precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.validate(module, EvalLoader(job.data[split], job.cfg.eval_batch_size, layout=job.layout), verbose=False)
    return eval_json(f"merge_{method}", job.objective.name, job.cfg.seed, split, job.tasks, module.evaluation)
