"""`mixalign train`: from a configuration to a generalist, its mixture and its report."""

import logging
from functools import partial
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from mixalign.errors import MixalignError, did_you_mean
from mixalign.evaluation.summary import eval_table
from mixalign.files import read_json, write_text
from mixalign.mixers.base import Composition, Mixer
from mixalign.mixers.lengths import for_run
from mixalign.models.reference import LIVE
from mixalign.pipelines.build import build_mixer
from mixalign.pipelines.check_run import check_run
from mixalign.pipelines.check_settings import check_place
from mixalign.pipelines.generalist import check_batch, train_generalist
from mixalign.pipelines.job import Job, prepare
from mixalign.pipelines.merge import merges_of, run_merges
from mixalign.pipelines.proxy import has_final, proxy_job, run_proxy
from mixalign.pipelines.ranks import decide, on_all_ranks
from mixalign.pipelines.resume import claim
from mixalign.pipelines.rounds import in_rounds, run_rounds
from mixalign.pipelines.stages import (
    Frozen,
    attach_reference,
    attach_specialists,
    excess_over,
    reads_excess,
    reference_policy,
)
from mixalign.training.checkpoints import is_checkpoint, newest_checkpoint

__all__ = ["needs_specialists", "run"]

log = logging.getLogger(__name__)


@on_all_ranks
def run(cfg: DictConfig, run_dir: Path, in_sweep: bool = False) -> dict[str, Any]:
    """Trains a generalist and fills its run folder.

    Args:
        run_dir: gets config.yaml, metrics.csv, mix.jsonl, mixture.json, eval.json, cost.json, checkpoints/ and model/.
        in_sweep: whether other runs will be compared with this one.

    Returns:
        What `eval.json` holds.

    Raises:
        MixalignError: for anything in the configuration, the rows or the folder that cannot be used.
    """
    _check(cfg)
    mixer = build_mixer(cfg.mixer)
    if (in_rounds(mixer) or has_final(mixer)) and cfg.resume:
        raise MixalignError(
            "A run of several trainings goes on by itself: leave `resume` out, and give the same `run_dir`."
        )
    if in_rounds(mixer) and cfg.reference.mode != "cached":
        raise MixalignError(
            f"`reference.mode={cfg.reference.mode}`, but `mixer={cfg.mixer.name}` reads cached scores between its "
            "trainings. Set it to cached."
        )
    train_specialists = needs_specialists(cfg, mixer, in_sweep)
    check_place("run_dir", run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    job = prepare(cfg)
    mixer = for_run(mixer, job.tasks, cfg.steps)
    merges_of(cfg, len(job.tasks))  # refuses what cannot be merged before anything is trained
    if not in_rounds(mixer):
        check_batch(job, mixer)
    check_run(job, mixer, train_specialists)
    finished = decide(partial(claim, run_dir, cfg))
    rows = sum(map(len, job.data["train"]))
    log.info("%s: %d tasks, %d rows, %d steps of %d rows", cfg.name, len(job.tasks), rows, cfg.steps, cfg.batch_size)
    reference = reference_policy(job)
    if finished:
        log.info("%s is finished already", run_dir)
        result = read_json(run_dir / "eval.json")
    else:
        decide(partial(write_text, run_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True)))
        attach_reference(job, reference)
        judged = attach_specialists(job, reference, train_specialists)
        result = _train(job, mixer, reference, judged, run_dir)
    _say(f"{eval_table(result)}\nrun folder: {run_dir}")
    run_merges(job, reference, run_dir)
    return result


def _train(job: Job, mixer: Mixer, reference: Frozen, judged: bool, run_dir: Path) -> dict[str, Any]:
    if in_rounds(mixer):
        return run_rounds(job, mixer, reference, judged, run_dir)
    if has_final(mixer):
        return run_proxy(job, mixer, reference, judged, run_dir)
    job = proxy_job(job, mixer, reference)
    resume = newest_checkpoint(run_dir) if job.cfg.resume is None else Path(job.cfg.resume)
    return train_generalist(job, mixer, reference, judged, run_dir, export=job.cfg.export, resume=resume)


@rank_zero_only
def _say(text: str) -> None:
    print(text)


def needs_specialists(cfg: DictConfig, mixer: Mixer, in_sweep: bool) -> bool:
    """Whether missing specialists are to be trained."""
    policy = cfg.specialists.train
    if policy not in ("auto", "always", "never"):
        raise MixalignError(f"`specialists.train` is {policy!r}. Known: auto, always, never.")
    merged = bool(cfg.merge.methods)
    needed = merged or (reads_excess(mixer) and excess_over(mixer) == "specialists")
    if needed and policy == "never" and not cfg.specialists.dir:
        who = "merge.methods" if merged else f"mixer={cfg.mixer.name}"
        raise MixalignError(
            f"`{who}` needs specialists, but `specialists.train=never`. Set it to auto, or point `specialists.dir` at "
            "trained ones."
        )
    return policy == "always" or (policy == "auto" and (needed or in_sweep))


def _check(cfg: DictConfig) -> None:
    """Refuses words that nobody knows before anything is trained."""
    if cfg.export not in ("best", "last"):
        raise MixalignError(f"`export` is {cfg.export!r}. Known: best, last.")
    if cfg.composition not in (None, *get_args(Composition)):
        hint = did_you_mean(str(cfg.composition), get_args(Composition))
        raise MixalignError(f"`composition` is {cfg.composition!r}. {hint}")
    if cfg.resume is not None and not is_checkpoint(Path(cfg.resume)):
        raise MixalignError(
            f"`resume={cfg.resume}` is no checkpoint. Leave it out: a run goes on by itself when it gets the same "
            "`run_dir`."
        )
    if cfg.reference.mode not in ("cached", *LIVE):
        raise MixalignError(f"`reference.mode` is {cfg.reference.mode!r}. Known: cached, {', '.join(LIVE)}.")
    if not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**32:
        raise MixalignError(f"`seed` is {cfg.seed!r}, but must be a whole number from 0 to 2**32 - 1.")
