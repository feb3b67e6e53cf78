"""Rules whose result is a mixture: a proxy finds it, and a model is then trained on it from the start.

The proxy has a folder of its own, `proxy/`, and trains as a generalist would, on the same model for the same steps.
A run that was interrupted goes on in the training where it stopped.
"""

import json
import logging
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import torch

from mixalign.mixers.base import Mixer
from mixalign.mixers.schedule import Schedule
from mixalign.mixers.wrapped import rule_of, wrap
from mixalign.pipelines.generalist import train_generalist
from mixalign.pipelines.job import Job
from mixalign.pipelines.ranks import agree, decide, wait
from mixalign.pipelines.stages import Frozen, attach_baseline, excess_over
from mixalign.training.checkpoints import newest_checkpoint

__all__ = ["has_final", "proxy_job", "run_proxy"]

log = logging.getLogger(__name__)

PROXY = "proxy"


def has_final(mixer: Mixer) -> bool:
    """Whether a model is trained from the start on the mean of the rule's mixtures."""
    return getattr(rule_of(mixer), "final", False)


def proxy_job(job: Job, mixer: Mixer, reference: Frozen) -> Job:
    """The job as the rule itself trains on it: with its excess over a baseline, where it asks for that."""
    return attach_baseline(job, reference, mixer) if excess_over(mixer) == "baseline" else job


def run_proxy(job: Job, mixer: Mixer, reference: Frozen, judged: bool, run_dir: Path) -> dict[str, Any]:
    """Trains the proxy in `run_dir/proxy/`, and then the run's model with the proxy's mean mixture as sampling weights.

    Args:
        judged: whether the rows carry specialists' losses.

    Returns:
        What `eval.json` holds; `proxy` has the proxy's folder and its mean weights by task.
    """
    folder = run_dir / PROXY
    if not agree((folder / "eval.json").is_file()):
        own = proxy_job(job, mixer, reference)
        log.info("proxy: %d steps of %d rows", job.cfg.steps, job.cfg.batch_size)
        folder.mkdir(parents=True, exist_ok=True)
        train_generalist(own, mixer, reference, judged, folder, export="last", resume=newest_checkpoint(folder))
    wait()
    weights = decide(partial(_mean_weights, job, mixer, folder))
    log.info("final training on %s", ", ".join(f"{task} {share:.3f}" for task, share in weights.items()))
    fixed = Schedule([{"weights": list(weights.values())}])
    capped = wrap(fixed, {"max_epochs": getattr(mixer, "max_epochs", inf)})  # a cap is on rows, which are drawn here
    how = {"export": job.cfg.export, "resume": newest_checkpoint(run_dir)}
    more = {"proxy": {"folder": PROXY, "weights": weights}}
    return train_generalist(job, capped, reference, judged, run_dir, more=more, **how)


def _mean_weights(job: Job, mixer: Mixer, folder: Path) -> dict[str, float]:
    """The mean, over the proxy's steps, of the lever that the rule moves."""
    rows_K = torch.tensor([len(d) for d in job.data["train"]], dtype=torch.float64)
    moved = "sample_mean" if mixer.init(rows_K)[0].loss_K is None else "loss_mean"
    found = json.loads((folder / "mixture.json").read_text())
    return dict(zip(found["tasks"], found[moved], strict=True))
