"""`mixalign score`: the frozen models' numbers of every row, kept in the cache."""

from omegaconf import DictConfig

from mixalign.pipelines.job import prepare
from mixalign.pipelines.ranks import is_first, on_all_ranks
from mixalign.pipelines.stages import attach_reference, attach_specialists, reference_policy

__all__ = ["run"]


@on_all_ranks
def run(cfg: DictConfig) -> None:
    """Scores every row under the reference policy, and under its task's specialist where those are trained."""
    job = prepare(cfg)
    reference = reference_policy(job)
    attach_reference(job, reference)
    judged = attach_specialists(job, reference, train=False)
    if not is_first():
        return
    for _, split, dataset in job.all_datasets:
        print(f"{dataset.task} {split}: {len(dataset)} rows, columns {', '.join(dataset.columns) or 'none'}")
    if not judged:
        print("no specialists yet: `mixalign specialists` trains them")
