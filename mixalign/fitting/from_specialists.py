"""A mixture from the specialists' probabilities, by MixMin: `mixalign fit-mixture --method mixmin KEY=VALUE...`.

Suffixes: `K` tasks with a specialist each, `N` rows of all target tables.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mixalign.config.settings import RunSettings
from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.fitting.mixmin import Descent, certainty, descend, held_out, mixture_loss
from mixalign.fitting.report import FittedMixture, report
from mixalign.frozen.cache import Frozen, on_loan, score
from mixalign.frozen.policy import reference_policy
from mixalign.frozen.specialists import attach_specialists, find_specialists
from mixalign.jobs.job import Job, prepare
from mixalign.mixers.simplex import normalise, uniform
from mixalign.terminal import table_text, wrap
from mixalign.together.agree import is_first
from mixalign.together.start import on_all_ranks

__all__ = ["fit_from_specialists", "row_scales"]

CERTAIN = 0.99


@on_all_ranks
def fit_from_specialists(settings: RunSettings, out: str | None = None) -> None:
    """Fits the mixture to the rows of `data.target`, by default every task's validation rows.

    Every table of rows counts alike, and in it every row, or as its weight says. Specialists that are missing are
    trained. The mixture is printed and written down.

    Only for fine-tuning: the proof is of the cross-entropy, for which the best model of mixed sources is the mixture
    of the sources' best models. Preference losses have no such mixture.

    Args:
        out: the file; None: mixture.yaml in the current folder.

    Raises:
        MixalignError: for another objective, and when specialists are missing and may not be trained.
    """
    name = settings.objective_name
    if settings.objective.form != "supervised":
        raise MixalignError(
            f"MixMin mixes the probabilities of answers, but `objective={name}` has no cross-entropy of "
            "them. Add `objective=sft`, which takes the chosen answers of preference rows; that the weights suit "
            f"{name} as well is then your guess."
        )
    if settings.specialists.folds > 1:
        raise MixalignError(
            f"MixMin mixes one specialist a task, and `specialists.folds` is {settings.specialists.folds}: set it to 1."
        )
    job, reference = reference_policy(prepare(settings))
    if not attach_specialists(job, reference, train=settings.specialists.train != "never"):
        raise MixalignError("MixMin needs specialists, but `specialists.train=never` and some are missing: set auto.")
    logp_KN = _specialist_logp(job, reference, job.targets)
    if is_first():
        report(_fit(job, logp_KN, row_scales(job.targets)), Path(out or "mixture.yaml"))


def _specialist_logp(job: Job, reference: Frozen, datasets: Sequence[TaskDataset]) -> Tensor:
    """Log-probability of the first completion of every row of some tables under each specialist, (K, N), float64."""
    logp = []
    for task, model in find_specialists(job, reference).items():
        specialist = model.frozen(reference)
        with on_loan(specialist, job, datasets) as loan:
            tables = [score(job, specialist, loan, d, f"specialist {task} on {d.task}").align(d) for d in datasets]
        logp.append(torch.cat([torch.tensor(table[:, 0]) for table in tables]))
    return torch.stack(logp)


def row_scales(tables: list[TaskDataset]) -> Tensor:
    """What each row counts (N,): one over the tables, the table's rows and the row's tokens, for nats a token.

    Rows with weights count those over the table's mean weight.
    """
    scales = [1 / (len(tables) * len(table) * table.num_tokens_NS[:, 0]) for table in tables]
    for number, table in enumerate(tables):
        if "weight" in table.columns:
            scales[number] = scales[number] * table.relative_weights(slice(None))
    return torch.from_numpy(np.concatenate(scales))


def _fit(job: Job, logp_KN: Tensor, scale_N: Tensor) -> FittedMixture:
    descent = descend(logp_KN, scale_N)
    weights = {
        "these weights": descent.weight_K,
        "uniform": uniform(len(job.tasks)),
        "proportional": normalise(job.rows_K),
    }
    losses = {name: float(mixture_loss(weight_K, logp_KN, scale_N)) for name, weight_K in weights.items()}
    losses["held out"] = held_out(logp_KN, scale_N)
    alone_K = -(logp_KN * scale_N).sum(1)
    targets = list(dict.fromkeys(table.task for table in job.targets))
    facts = {
        "method": "mixmin",
        "target": targets,
        "loss": losses,
        "specialists": dict(zip(job.tasks, alone_K.tolist(), strict=True)),
        "gap": descent.gap,
    }
    table = _table(job.tasks, descent.weight_K, alone_K, losses, targets)
    notes = _notes(descent, losses, certainty(descent.weight_K, logp_KN, scale_N))
    return FittedMixture(job.tasks, descent.weight_K, table, [*map(wrap, notes)], facts)


def _table(tasks: list[str], weight_K: Tensor, alone_K: Tensor, losses: dict[str, float], targets: list[str]) -> str:
    rows = [[task, f"{weight:.3f}", f"{loss:.3f}"] for task, weight, loss in zip(tasks, weight_K, alone_K, strict=True)]
    totals = [[f"mixture: {name}", "", f"{loss:.3f}"] for name, loss in losses.items()]
    title = f"MixMin: cross-entropy on {', '.join(targets)} (nats a token)"
    note = "held out: every fifth row, by the weights that fit the others"
    return table_text(["task", "weight", "its specialist alone"], rows, totals=totals, title=title, note=note)


def _notes(descent: Descent, losses: dict[str, float], certain: float) -> list[str]:
    """What speaks against the weights, and how the descent went."""
    notes = []
    if losses["held out"] >= losses["uniform"]:
        notes.append("warning: on held-out rows the weights are no better than uniform ones. Have more rows.")
    if certain > CERTAIN:
        notes.append(
            "note: each row is explained by one specialist alone, and so the weights only count each one's rows (by "
            "1 / tokens). Rows that are no task's own tell more: `data.target`."
        )
    text = f"entropic descent: {descent.steps} steps; the loss is within {descent.gap:.1e} of the lowest there is"
    return [*notes, text]
