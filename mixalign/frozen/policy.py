"""The reference policy: what DPO stays close to, and what every training of a job starts from."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from mixalign.errors import MixalignError
from mixalign.fingerprint import fingerprint
from mixalign.frozen.batch_sizes import fit_batch_sizes
from mixalign.frozen.cache import CachedModel, Frozen, ensure, on_loan, score
from mixalign.frozen.recipes import optimizer_recipe
from mixalign.frozen.unfinished import Unfinished
from mixalign.jobs.job import Job, num_steps, rows_fingerprint
from mixalign.models.adapters import BASE
from mixalign.models.fingerprint import weights_fingerprint
from mixalign.models.load import Pretrained
from mixalign.objectives.sft import SFT

__all__ = ["OF_REFERENCE", "attach_reference", "find_reference", "reference_policy", "reference_steps"]

log = logging.getLogger(__name__)
OF_REFERENCE = "losses of the reference"  # a stage of a run


def reference_policy(
    job: Job, check: Callable[[Job], None] = lambda job: None, finished: Path | None = None
) -> tuple[Job, Frozen]:
    """The model that every training of the job starts from: as loaded, or after `reference.sft_steps` of SFT.

    Args:
        check: may refuse the job once the base model is known, before anything is trained on it.
        finished: the folder of a run that is measured again, whose policy is not trained again, as another machine or
            version could make another one: it is in the cache, or the run has it.

    Returns:
        The job with the base model's fingerprint and the choices that depend on it, and the policy.

    Raises:
        MixalignError: when the policy of a finished run is gone.
    """
    base = job.settings.model.build()
    start = weights_fingerprint(base)
    job = fit_batch_sizes(replace(job.fitted_to(base), start=start), base)
    check(job)
    model = find_reference(job)
    if model is None:
        return job, _as_loaded(job, base, start)
    dtype, place = _dtype(base), model.place / "model"  # before a training that may convert it
    if finished and not model.is_made:
        place = _kept(finished, model)
    else:
        job.course.enter("reference")
        ensure(job, model, partial(_train, job, base, model.recipe["fit"]["steps"]))
    return job, Frozen(model.identity, Pretrained(str(place), dtype=dtype).build)


def find_reference(job: Job) -> CachedModel | None:
    """The reference policy, trained or not; None where the base model is it.

    Args:
        job: that has been fitted to the base model.
    """
    settings, steps = job.settings.reference, reference_steps(job)
    if steps == 0:
        return None
    recipe = {
        "stage": "reference",
        "start": job.start,
        "rows": rows_fingerprint(job.data["train"]),
        "fit": {"steps": steps, "batch_size": settings.sft_batch_size, "lr": settings.sft_lr},
        "optimizer": optimizer_recipe(job),
        "precision": job.precision,
        "seed": settings.seed,
    }
    return CachedModel(job.cache / "reference" / fingerprint(recipe), recipe)


def _kept(run: Path, policy: CachedModel) -> Path:
    """The reference policy that a run has beside its adapter."""
    if not (run / BASE / "config.json").is_file():
        raise MixalignError(
            f"The reference policy of {run} is missing: {policy.place} is not there, and the run has no {BASE}/. "
            f"Restore that folder, or name the cache that has it as `cache_dir` in {run / 'config.yaml'}. `mixalign "
            f"score --config-dir {run} --config-name config` trains it again, on another machine perhaps not the same."
        )
    return run / BASE


def _train(job: Job, base: nn.Module, steps: int, left: Unfinished) -> nn.Module:
    from mixalign.frozen.trainings import Training, train_frozen  # loads Lightning, which a plan need not wait for

    log.info("reference: %d steps of SFT on the tasks' chosen answers", steps)
    settings = job.settings.reference
    training = Training(
        title="reference",
        objective=SFT(),
        tasks=job.tasks,
        tables=[table.first_completion() for table in job.data["train"]],
        steps=steps,
        batch_size=settings.sft_batch_size,
        lr=settings.sft_lr,
        seed=settings.seed,
    )
    return train_frozen(job, base, training, left)


def _as_loaded(job: Job, base: Any, start: str) -> Frozen:
    """The model as the source builds it; written to the cache when adapters need a base that lies on disk."""
    if job.settings.lora is None or base.config._name_or_path:
        spare = [base]  # nothing has changed it: whoever wants it first need not load it again
        return Frozen(start, lambda: spare.pop() if spare else job.settings.model.build(), spare)
    model = CachedModel(job.cache / "reference" / start, {"stage": "base", "start": start})
    ensure(job, model, lambda left: base)
    return Frozen(start, Pretrained(str(model.place / "model"), dtype=_dtype(base)).build)


def attach_reference(job: Job, reference: Frozen) -> None:
    """Gives every row its log-probabilities under the reference policy, as the column `reference_logp`."""
    if not job.objective.uses_reference:
        return
    tables = [(table, split) for _, split, table in job.all_datasets]
    tables += [(table, "target") for table in job.targets if table not in job.data["validation"]]
    job.course.enter(OF_REFERENCE)
    with on_loan(reference, job, [table for table, _ in tables]) as loan:
        for table, split in tables:
            scores = score(job, reference, loan, table, f"reference {table.task} {split}")
            table.attach("reference_logp", scores.align(table))


def reference_steps(job: Job) -> int:
    """Optimizer steps of SFT before the reference policy is frozen; 0 keeps the model as loaded."""
    s = job.settings.reference
    if not job.objective.uses_reference or s.sft_steps == 0:
        return 0
    rows = sum(map(len, job.data["train"]))
    return num_steps("reference.sft_", s.sft_steps, s.sft_epochs, rows, s.sft_batch_size)


def _dtype(model: nn.Module) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")
