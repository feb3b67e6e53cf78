"""Every argument of Lightning's Trainer: those that pass through `trainer`, and what to set in place of the others.

What passes cannot change what is trained or judged, apart from rounding, or is part of the recipes of cached models
(`precision`). A test compares the names with the signature of the Trainer.
"""

from collections.abc import Iterable

from mixalign.errors import MixalignError, did_you_mean
from mixalign.training.foreign_names import meant

__all__ = ["BY_STAGES", "PASSED", "REFUSED", "check_arguments", "why_not"]

PASSED = (
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
    "precision",
    "deterministic",
    "benchmark",
    "detect_anomaly",
    "profiler",
)
"""What a user may set as `trainer.<argument>`."""

BY_STAGES = ("enable_progress_bar", "limit_val_batches", "gradient_clip_val", "max_time")
"""What stages of a run hand to the Trainer by themselves: no validation of specialists, DeepSpeed's own clipping."""

_ALL_STEPS = "a training takes all its steps, or is not stored"
_ALL_ROWS = "all rows of a split are judged, else results could not be compared"
_SPLITS = "give the tasks fewer rows"

REFUSED = {
    "logger": "use `logger`",
    "callbacks": "use `callbacks`, `save_every`, `probe` or `progress`",
    "fast_dev_run": "use the key `fast_dev_run`, without `trainer.`",
    "max_epochs": "use `epochs`",
    "min_epochs": f"{_ALL_STEPS}: use `epochs`",
    "max_steps": "use `steps`",
    "min_steps": f"{_ALL_STEPS}: use `steps`",
    "max_time": "use the key `max_time`, without `trainer.`",
    "limit_train_batches": f"{_ALL_STEPS}: use `steps`, `specialists.steps` and `reference.sft_steps`",
    "limit_val_batches": f"{_ALL_ROWS}: {_SPLITS} (`data.validation_fraction`, `data.tasks.<name>.validation`)",
    "limit_test_batches": f"{_ALL_ROWS}: {_SPLITS} (`data.tasks.<name>.test`)",
    "limit_predict_batches": "nothing is predicted",
    "overfit_batches": "use `data.tasks.<name>.max_rows`",
    "val_check_interval": "use `val_every`",
    "check_val_every_n_epoch": "use `val_every`",
    "num_sanity_val_steps": "use `val_every`, or `fast_dev_run` to try out every stage",
    "log_every_n_steps": "use `log_every`",
    "enable_checkpointing": "use `save_every`",
    "enable_progress_bar": "use `progress`",
    "enable_model_summary": "use `mixalign plan`",
    "accumulate_grad_batches": "use `micro_batch_size`",
    "gradient_clip_val": "use `optimizer.max_grad_norm`",
    "gradient_clip_algorithm": "gradients are clipped by their norm: use `optimizer.max_grad_norm`",
    "inference_mode": "the strategy decides it: leave it out",
    "use_distributed_sampler": (
        "it must be false, as Lightning would replace the mixture sampler, and new weights would never reach the "
        "batches. Each process already takes its share of every batch: leave it out"
    ),
    "barebones": "it would leave out validation and checkpoints: use `val_every`, `log_every` and `progress`",
    "plugins": "they could change what is trained outside of the recipes of cached models: use `trainer.precision`",
    "sync_batchnorm": "rows of a batch do not depend on each other here, and batch norms would make them: leave it out",
    "reload_dataloaders_every_n_epochs": "a training is one epoch of `steps` batches: leave it out",
    "default_root_dir": "use `run_dir`",
    "enable_autolog_hparams": "config.yaml holds the settings: leave it out",
    "model_registry": "use `run_dir`, whose folder `model/` can be uploaded",
}
"""Argument -> what to do instead."""


def check_arguments(names: Iterable[str], also: Iterable[str] = ()) -> None:
    """Refuses arguments of Lightning's Trainer that may not be set, or that it does not have.

    Args:
        also: further names that are allowed.

    Raises:
        MixalignError: with the key that takes its place, or the nearest argument that can be set.
    """
    for name in names:
        if name not in also and (why := why_not(name)):
            raise MixalignError(why)


def why_not(name: str) -> str | None:
    """Why `trainer.<name>` cannot be set, and what to do instead; None where it can."""
    if name in PASSED:
        return None
    if name in REFUSED:
        return f"`trainer.{name}` cannot be set, because mixalign sets it: {REFUSED[name]}."
    known = meant(name, [*PASSED, "timeout", *REFUSED])
    if known.startswith("Known"):
        known = did_you_mean(name, [*PASSED, "timeout"])
    return f"`trainer.{name}` is no setting. {known}"
