"""`mixalign train`: from a configuration to a generalist, its mixture and its report."""

import logging
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from mixalign.errors import MixalignError, did_you_mean
from mixalign.evaluation.summary import eval_table
from mixalign.mixers.base import Composition, Mixer
from mixalign.models.reference import LIVE
from mixalign.pipelines.build import build
from mixalign.pipelines.generalist import check_batch, train_generalist
from mixalign.pipelines.job import prepare
from mixalign.pipelines.rounds import claim_rounds, in_rounds, run_rounds
from mixalign.pipelines.stages import attach_reference, attach_specialists, reference_policy

__all__ = ["needs_specialists", "run"]

log = logging.getLogger(__name__)


def run(cfg: DictConfig, run_dir: Path, in_sweep: bool = False) -> dict[str, Any]:
    """Trains a generalist and fills its run folder.

    Args:
        run_dir: gets config.yaml, metrics.csv, mix.jsonl, mixture.json, eval.json, checkpoints/ and model/.
        in_sweep: whether other runs will be compared with this one.

    Returns:
        What `eval.json` holds.

    Raises:
        MixalignError: for anything in the configuration, the rows or the folder that cannot be used.
    """
    _check(cfg)
    mixer = build(cfg.mixer, "name")
    _claim(cfg, run_dir)
    if in_rounds(mixer) and cfg.resume:
        raise MixalignError("A run in rounds goes on by itself: leave `resume` out, and give the same `run_dir`.")
    train_specialists = needs_specialists(cfg, mixer, in_sweep)
    job = prepare(cfg)
    if not in_rounds(mixer):
        check_batch(job, mixer)
    rows = sum(map(len, job.data["train"]))
    log.info("%s: %d tasks, %d rows, %d steps of %d rows", cfg.name, len(job.tasks), rows, cfg.steps, cfg.batch_size)
    reference = reference_policy(job)
    if in_rounds(mixer):
        claim_rounds(run_dir, cfg)
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    attach_reference(job, reference)
    judged = attach_specialists(job, reference, train_specialists)
    if in_rounds(mixer):
        result = run_rounds(job, mixer, reference, judged, run_dir)
    else:
        resume = Path(cfg.resume) if cfg.resume else None
        result = train_generalist(job, mixer, reference, judged, run_dir, export=cfg.export, resume=resume)
    _say(f"{eval_table(result)}\nrun folder: {run_dir}")
    return result


@rank_zero_only
def _say(text: str) -> None:
    print(text)


def needs_specialists(cfg: DictConfig, mixer: Mixer, in_sweep: bool) -> bool:
    """Whether missing specialists are to be trained."""
    policy = cfg.specialists.train
    if policy not in ("auto", "always", "never"):
        raise MixalignError(f"`specialists.train` is {policy!r}. Known: auto, always, never.")
    needed = mixer.descends_on == "excess" or any("excess" in name for name in mixer.needs)
    if needed and policy == "never" and not cfg.specialists.dir:
        raise MixalignError(
            f"`mixer={cfg.mixer.name}` needs specialists, but `specialists.train=never`. Set it to auto, or point "
            "`specialists.dir` at trained ones."
        )
    return policy == "always" or (policy == "auto" and (needed or in_sweep))


def _check(cfg: DictConfig) -> None:
    """Refuses words that nobody knows before anything is trained."""
    if cfg.export not in ("best", "last"):
        raise MixalignError(f"`export` is {cfg.export!r}. Known: best, last.")
    if cfg.composition not in (None, *get_args(Composition)):
        hint = did_you_mean(str(cfg.composition), get_args(Composition))
        raise MixalignError(f"`composition` is {cfg.composition!r}. {hint}")
    if cfg.reference.mode not in ("cached", *LIVE):
        raise MixalignError(f"`reference.mode` is {cfg.reference.mode!r}. Known: cached, {', '.join(LIVE)}.")
    if not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**32:
        raise MixalignError(f"`seed` is {cfg.seed!r}, but must be a whole number from 0 to 2**32 - 1.")


def _claim(cfg: DictConfig, run_dir: Path) -> None:
    """Makes the run's folder; refuses one that holds another run."""
    if (run_dir / "mix.jsonl").exists() and not cfg.resume:
        raise MixalignError(
            f"{run_dir} already holds a run. Choose another `run_dir`, or go on with it: "
            f"`resume={run_dir}/checkpoints/last.ckpt`."
        )
    if cfg.resume and not Path(cfg.resume).is_file():
        raise MixalignError(f"`resume={cfg.resume}` is no file. Checkpoints lie in <run_dir>/checkpoints.")
    run_dir.mkdir(parents=True, exist_ok=True)
