"""`mixalign specialists`: one model a task, kept in the cache or in `specialists.dir`."""

from omegaconf import DictConfig

from mixalign.pipelines.job import prepare
from mixalign.pipelines.ranks import is_first, on_all_ranks
from mixalign.pipelines.stages import attach_reference, attach_specialists, find_specialists, reference_policy

__all__ = ["run"]


@on_all_ranks
def run(cfg: DictConfig) -> None:
    """Trains the specialists that are missing, scores every row, and prints their losses in nats."""
    job = prepare(cfg)
    reference = reference_policy(job)
    attach_reference(job, reference)
    attach_specialists(job, reference, train=True)
    if not is_first():
        return
    width = max(map(len, job.tasks))
    for number, (task, (place, _)) in enumerate(find_specialists(job, reference).items()):
        losses = [f"{s} {tables[number].columns['specialist_loss'].mean():.3f}" for s, tables in job.data.items()]
        print(f"{task:{width}}  loss: {', '.join(losses)}  {place}")
