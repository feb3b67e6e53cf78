"""The frozen models whose losses a rule reads: which they are, and what they cost."""

from typing import Any

from mixalign.fingerprint import fingerprint
from mixalign.frozen.baseline import find_baseline
from mixalign.frozen.cache import Frozen, score_recipe
from mixalign.frozen.costs import spent_on
from mixalign.frozen.specialists import find_specialists
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
        models = [find_baseline(job, reference, mixer)] * len(train)
    else:
        models = list(find_specialists(job, reference).values())
    recipes = {model.identity: model.recipe for model in models}
    for model, dataset in zip(models, train, strict=True):
        scores = score_recipe(job, model.frozen(reference), dataset)
        recipes[fingerprint(scores)] = scores
    return {mixer.excess_over: spent_on(job, list(recipes.values()))}
