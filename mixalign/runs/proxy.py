"""Rules whose result is a mixture: a proxy finds it, and a model is then trained on it from the start.

The proxy has a folder of its own, `proxy/`, and trains as a generalist would, on the same model for the same steps.
A run that was interrupted goes on in the training where it stopped.
"""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mixalign.files import read_json
from mixalign.frozen.baseline import attach_baseline
from mixalign.frozen.cache import Frozen
from mixalign.jobs.job import Job
from mixalign.mixers.base import Rule
from mixalign.mixers.schedule import Schedule
from mixalign.mixers.wrapped import wrap
from mixalign.runs.train_one import Generalist, train_generalist
from mixalign.together.agree import agree, decide, wait
from mixalign.training.checkpoints import newest_checkpoint

__all__ = ["run_proxy", "with_baseline"]

log = logging.getLogger(__name__)

PROXY = "proxy"


def with_baseline(job: Job, mixer: Rule, reference: Frozen) -> Job:
    """The job as the rule itself trains on it: with its excess over a baseline, where it asks for that."""
    return attach_baseline(job, reference, mixer) if mixer.excess_over == "baseline" else job


def run_proxy(run: Generalist) -> dict[str, Any]:
    """Trains the proxy in a folder `proxy/` of the run, and then the run's model with the proxy's mean mixture.

    Args:
        run: with the rule that the proxy follows.

    Returns:
        What `eval.json` holds; `proxy` has the proxy's folder and its mean weights by task.
    """
    job, mixer, folder = run.job, run.mixer, run.folder / PROXY
    if not agree((folder / "eval.json").is_file()):
        proxy_job = with_baseline(job, mixer, run.reference)
        log.info("proxy: %d steps of %d rows", job.steps, job.settings.batch_size)
        folder.mkdir(parents=True, exist_ok=True)
        begun = newest_checkpoint(folder)
        proxy = replace(run, job=proxy_job, folder=folder, export="last", resume=begun, stage=PROXY)
        train_generalist(proxy)
    wait()
    weights = decide(partial(_mean_weights, job, mixer, folder))
    log.info("final training on %s", ", ".join(f"{task} {share:.3f}" for task, share in weights.items()))
    fixed = Schedule([{"weights": list(weights.values())}])
    capped = wrap(fixed, {"max_epochs": mixer.max_epochs})  # a cap is on rows, which are drawn here
    results = {"proxy": {"folder": PROXY, "weights": weights}}
    return train_generalist(replace(run, mixer=capped, resume=newest_checkpoint(run.folder), results=results))


def _mean_weights(job: Job, mixer: Rule, folder: Path) -> dict[str, float]:
    """The mean, over the proxy's steps, of the lever that the rule moves."""
    moved = "sample_mean" if mixer.init(job.rows_K)[0].loss_K is None else "loss_mean"
    summary = read_json(folder / "mixture.json")
    return dict(zip(summary["tasks"], summary[moved], strict=True))
