"""`mixalign fit-mixture --method mixmin`: fixed weights from the specialists' probabilities (arXiv 2502.10510).

Suffixes: `K` tasks with a specialist each, `R` tables of target rows, `N` rows of all of them.
"""

from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from rich.table import Table
from torch import Tensor

from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.mixers.mixmin import certainty, descend, held_out, mixture_loss
from mixalign.mixers.simplex import normalise, uniform
from mixalign.pipelines.build import build
from mixalign.pipelines.fit_mixture import save_mixture, table_text
from mixalign.pipelines.job import prepare
from mixalign.pipelines.ranks import is_first, on_all_ranks
from mixalign.pipelines.stages import attach_specialists, reference_policy, specialist_logp

__all__ = ["row_scales", "run"]

CERTAIN = 0.99


@on_all_ranks
def run(cfg: DictConfig, out: str | None = None) -> None:
    """Fits the mixture to the rows of `data.reference`, by default every task's validation rows.

    Every table of rows counts alike, and in it every row. Specialists that are missing are trained.

    Only for fine-tuning: the proof is of the cross-entropy, for which the best model of mixed sources is the mixture
    of the sources' best models. Preference losses have no such mixture.

    Raises:
        MixalignError: for another objective, and when specialists are missing and may not be trained.
    """
    objective = build(cfg.objective, "name")
    if objective.form != "supervised":
        raise MixalignError(
            f"MixMin mixes the probabilities of answers, but `objective={cfg.objective.name}` has no cross-entropy of "
            "them. Add `objective=sft`, which takes the chosen answers of preference rows; that the weights suit "
            f"{cfg.objective.name} as well is then your guess."
        )
    job = prepare(cfg)
    reference = reference_policy(job)
    if not attach_specialists(job, reference, train=cfg.specialists.train != "never"):
        raise MixalignError("MixMin needs specialists, but `specialists.train=never` and some are missing: set auto.")
    logp_KN = specialist_logp(job, reference, job.references)
    if not is_first():
        return
    scale_N = row_scales(job.references)
    fitted = descend(logp_KN, scale_N)
    rows_K = torch.tensor([len(d) for d in job.data["train"]], dtype=torch.float64)
    known = {"these weights": fitted.weight_K, "uniform": uniform(len(rows_K)), "proportional": normalise(rows_K)}
    losses = {name: float(mixture_loss(weight_K, logp_KN, scale_N)) for name, weight_K in known.items()}
    losses["held out"] = held_out(logp_KN, scale_N)
    alone_K = -(logp_KN * scale_N).sum(1)
    names = list(dict.fromkeys(d.task for d in job.references))
    print(_table(job.tasks, fitted.weight_K, alone_K, losses, names))
    if losses["held out"] >= losses["uniform"]:
        print("warning: on rows that were held out, the weights are no better than uniform ones. Have more rows.")
    if certainty(fitted.weight_K, logp_KN, scale_N) > CERTAIN:
        print(
            "note: each row is explained by one specialist alone, and so the weights only count each one's rows (by "
            "1 / tokens). Rows that are no task's own tell more: `data.reference`."
        )
    print(f"entropic descent: {fitted.steps} steps; the loss is within {fitted.gap:.1e} of the lowest there is")
    content = {
        "method": "mixmin",
        "reference": names,
        "loss": losses,
        "specialists": dict(zip(job.tasks, alone_K.tolist(), strict=True)),
        "gap": fitted.gap,
    }
    save_mixture(job.tasks, fitted.weight_K, content, Path(out or "mixture.yaml"))


def row_scales(tables: list[TaskDataset]) -> Tensor:
    """What each row counts (N,): one over the tables, the table's rows and the row's tokens, for nats a token."""
    scales = [1 / (len(tables) * len(table) * table.num_tokens_NS[:, 0]) for table in tables]
    return torch.from_numpy(np.concatenate(scales))


def _table(tasks: list[str], weight_K: Tensor, alone_K: Tensor, losses: dict[str, float], names: list[str]) -> str:
    table = Table("task", "weight", "its specialist alone")
    for task, weight, loss in zip(tasks, weight_K, alone_K, strict=True):
        table.add_row(task, f"{weight:.3f}", f"{loss:.3f}")
    table.add_section()
    for name, loss in losses.items():
        table.add_row(f"mixture: {name}", "", f"{loss:.3f}")
    notes = "held out: every fifth row, by the weights that fit the others"
    return f"MixMin: cross-entropy on {', '.join(names)} (nats a token)\n{table_text(table)}\n{notes}"
