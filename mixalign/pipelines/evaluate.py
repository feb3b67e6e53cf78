"""`mixalign evaluate`: the model of a run folder, on a split of its tasks."""

from pathlib import Path

import lightning as L

from mixalign.data.loader import EvalLoader
from mixalign.errors import MixalignError
from mixalign.evaluation.summary import eval_json, eval_table
from mixalign.files import write_json
from mixalign.pipelines.build import build, register_resolvers
from mixalign.pipelines.job import prepare
from mixalign.pipelines.run_config import read_config
from mixalign.pipelines.stages import attach_reference, attach_specialists, load_frozen, reference_policy
from mixalign.training.module import AlignModule

__all__ = ["run"]


def run(run: Path, split: str) -> None:
    """Evaluates the saved model, prints the table and writes `eval_<split>.json` beside `eval.json`."""
    register_resolvers()
    cfg = read_config(run)
    if not (run / "model").is_dir():
        raise MixalignError(f"{run} has no model to evaluate: the run did not finish. Go on with it: `resume=...`.")
    job = prepare(cfg)
    if split not in job.data:
        raise MixalignError(f"The tasks of {run} have no {split} split. They have: {', '.join(job.data)}.")
    reference = reference_policy(job)
    attach_reference(job, reference)
    attach_specialists(job, reference, train=False)
    model = load_frozen(run / "model", reference)
    module = AlignModule(model, job.objective, job.tasks, build(job.cfg.optimizer))
    trainer = L.Trainer(
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.validate(module, EvalLoader(job.data[split], job.cfg.eval_batch_size, layout=job.layout), verbose=False)
    result = eval_json(job.cfg.mixer.name, job.objective.name, job.cfg.seed, split, job.tasks, module.evaluation)
    write_json(run / f"eval_{split}.json", result)
    print(eval_table(result))
