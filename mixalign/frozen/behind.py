"""The frozen models whose losses a rule reads: which they are, and what they cost."""

from typing import Any

from mixalign.fingerprint import fingerprint
from mixalign.frozen.baseline import find_baseline
from mixalign.frozen.cache import Frozen, score_recipe
from mixalign.frozen.costs import spent_on
from mixalign.frozen.folds import inside
from mixalign.frozen.specialists import find_folds
from mixalign.jobs.job import Job
from mixalign.mixers.base import Rule, reads_excess

__all__ = ["cost_behind"]


def cost_behind(job: Job, reference: Frozen, mixer: Rule) -> dict[str, dict[str, Any]]:
    """What was spent on the frozen models whose losses a rule reads, scoring of the training rows included.

    Returns:
        `specialists` or `baseline`, as the rule's `excess_over` says -> as `spent_on` has it; empty for a rule that
        reads none.
    """
    if not reads_excess(mixer):
        return {}
    train = job.data["train"]
    if mixer.excess_over == "baseline":
        groups = [[find_baseline(job, reference, mixer)]] * len(train)
    else:
        groups = list(find_folds(job, reference).values())
    recipes = {model.identity: model.recipe for models in groups for model in models}
    for models, dataset in zip(groups, train, strict=True):
        for fold, model in enumerate(models):
            rows = inside(dataset, len(models), fold) if len(models) > 1 else dataset
            scores = score_recipe(job, model.frozen(reference), rows)
            recipes[fingerprint(scores)] = scores
    return {mixer.excess_over: spent_on(job, list(recipes.values()))}
