"""One training: a model, a mixture of tasks, a number of steps. Every stage and every run is a call of this."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DeepSpeedStrategy

from mixalign import stopping
from mixalign.checks import check_number
from mixalign.data.batches.module import MixtureData
from mixalign.errors import MixalignError
from mixalign.models.precision import canonical
from mixalign.training.callbacks.mixing import Mixing
from mixalign.training.callbacks.optimizer_settings import OptimizerSettings
from mixalign.training.checkpoints import checkpoint_step
from mixalign.training.lightning_quirks import (
    CountSteps,
    StayStopped,
    ValidateAtTheEnd,
    WholeCheckpoints,
    cast_weights_only,
    compare_after_validation,
    leave_signals_alone,
    set_intervals,
)
from mixalign.training.module import AlignModule
from mixalign.training.sharding import FullySharded
from mixalign.training.summary import SUMMARY, SUMMARY_OF_EXCESS
from mixalign.training.trainer_arguments import BY_STAGES, check_arguments

__all__ = ["Fit", "fit", "make_trainer"]

log = logging.getLogger(__name__)
SHARDED = ("fsdp", "deepspeed", "model_parallel", "<lightning")  # strategies that write their own checkpoints


@dataclass(frozen=True)
class Fit:
    """How to train, apart from what.

    Attributes:
        steps: optimizer steps.
        batch_size: rows of a global batch: over all processes and accumulated micro-batches.
        micro_batch_size: rows of one forward pass on one process; None takes them all at once.
        val_every: optimizer steps between two validations; there is always one at the end.
        trainer: further arguments of Lightning's Trainer (accelerator, devices, strategy, precision ...).
    """

    steps: int
    batch_size: int
    micro_batch_size: int | None = None
    val_every: int = 50
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "val_every"):
            check_number(key, getattr(self, key), 1, whole=True)
        check_arguments(self.trainer, also=BY_STAGES)


def make_trainer(
    settings: Fit, root: Path, callbacks: Sequence[Callback] = (), loggers: Sequence[Logger] = ()
) -> L.Trainer:
    """Lightning's Trainer for these settings.

    Raises:
        MixalignError: when Lightning refuses a setting, or processes and micro-batches do not divide the batch.
    """
    options: dict[str, Any] = {"accelerator": "auto", "devices": 1} | settings.trainer
    options |= {"use_distributed_sampler": False}
    if isinstance(options.get("strategy"), FullySharded):
        options["inference_mode"] = False  # what is gathered in it is used again, and no later step may train on that
    if not str(options.get("strategy", "auto")).startswith(SHARDED):
        options["plugins"] = [*(options.get("plugins") or ()), WholeCheckpoints()]
    try:
        trainer = L.Trainer(
            max_steps=settings.steps,
            max_epochs=1,
            num_sanity_val_steps=0,
            val_check_interval=None,
            log_every_n_steps=1,
            default_root_dir=root,
            callbacks=[
                *callbacks,
                ValidateAtTheEnd(),
                _SameMixture(),
                CountSteps(),
                StayStopped(),
                OptimizerSettings(),
            ],
            logger=list(loggers) or False,
            enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
            enable_model_summary=False,
            **options,
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise MixalignError(f"Lightning refuses the settings of `trainer`: {error}") from error
    leave_signals_alone(trainer)
    cast_weights_only(trainer)
    _check_precision(trainer, options.get("precision"))
    for callback in _callbacks(trainer):
        if isinstance(callback, EarlyStopping):
            compare_after_validation(callback)
    set_intervals(trainer, _accumulate(settings, trainer.world_size), settings.val_every, settings.steps)
    return trainer


def _check_precision(trainer: L.Trainer, precision: Any) -> None:
    wanted = canonical(precision or "32-true")
    if trainer.precision != wanted:
        raise MixalignError(
            f"`trainer.precision` is {wanted}, but on this machine Lightning would train in {trainer.precision}, and "
            f"config.yaml would not say so. Set `trainer.precision={trainer.precision}`."
        )


def fit(trainer: L.Trainer, module: AlignModule, data: MixtureData, resume: Path | None = None) -> None:
    """Trains; `resume` is a Lightning checkpoint to go on from.

    Raises:
        MixalignError: when that is a folder, and the strategy is not the one that wrote it, or of another model; or
            when a callback watches what no validation of this training gives.
        Stopped: when the process was told to stop, and the training has saved itself.
    """
    _check_monitors(trainer, data)
    if resume is not None and resume.is_dir() and not isinstance(trainer.strategy, FullySharded | DeepSpeedStrategy):
        raise MixalignError(
            f"The checkpoint {resume} is a folder with parts of FSDP2's processes, which another strategy cannot read. "
            "Go on with `trainer=fsdp2`, on any number of processes, or begin in another `run_dir`."
        )
    if resume is not None and resume.is_file():
        _check_weights(module, resume)
    if resume is not None:
        log.info("goes on from step %d of %d (%s)", checkpoint_step(resume), trainer.max_steps, resume)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    finally:
        stopping.release()
    if trainer.is_global_zero:
        stopping.check()  # what came behind the last step


def _callbacks(trainer: Any) -> list[Callback]:
    """All callbacks, those of Lightning too."""
    callbacks: list[Callback] = trainer.callbacks  # which Lightning's types leave out
    return callbacks


def _check_monitors(trainer: L.Trainer, data: MixtureData) -> None:
    """Refuses a callback that watches what no validation gives; Lightning would say so after the first one."""
    tables = [table for table in data.validation if len(table)]
    has_excess = any("specialist_loss" in table.columns for table in tables)
    known = [*SUMMARY, *(SUMMARY_OF_EXCESS if has_excess else ())] if tables else []
    for callback in _callbacks(trainer):
        monitor = getattr(callback, "monitor", None)
        ours = isinstance(monitor, str) and monitor.startswith("eval/")
        if not ours or monitor in known or (isinstance(callback, Checkpoint) and not tables):
            continue
        who = f"The callback {type(callback).__name__} watches `{monitor}`, but "
        if not tables:
            raise MixalignError(f"{who}there are no validation rows. Give tasks some (`data.validation_fraction`).")
        why = "the validation rows carry no specialists' losses" if monitor in SUMMARY_OF_EXCESS else "nothing gives it"
        other = "; with `specialists.train=always` excess is known" if monitor in SUMMARY_OF_EXCESS else ""
        raise MixalignError(f"{who}{why}. Set its `monitor` to one of {', '.join(known)}{other}.")


def _check_weights(module: AlignModule, path: Path) -> None:
    """Refuses a checkpoint without the weights that are trained; Lightning may load the others and say nothing."""
    saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("state_dict", {})
    for name, weight in module.named_parameters():
        if weight.requires_grad and (name not in saved or saved[name].shape != weight.shape):
            has = f"{list(saved[name].shape)}" if name in saved else "no such weight"
            raise MixalignError(
                f"The checkpoint {path} is of another model: for `{name}` of shape {list(weight.shape)} it has {has}. "
                "Go on with the `model` and `lora` that it was written with."
            )


def _accumulate(settings: Fit, world: int) -> int:
    micro = settings.micro_batch_size or settings.batch_size // world
    if micro < 1 or settings.batch_size % (micro * world):
        raise MixalignError(
            f"`batch_size` is {settings.batch_size}, which `micro_batch_size` {micro} on {world} "
            f"process(es) does not divide. Take a multiple of {max(1, micro) * world}."
        )
    return settings.batch_size // (micro * world)


class _SameMixture(Callback):
    """Compares mixtures and cursors of all processes, after each validation and at the end of a training.

    Processes that disagreed would train on batches that overlap, and on another objective than the one that is logged.
    """

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._compare(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._compare(trainer, pl_module)

    def _compare(self, trainer: Any, pl_module: L.LightningModule) -> None:
        mixing = next((c for c in trainer.callbacks if isinstance(c, Mixing)), None)
        if trainer.world_size == 1 or mixing is None:
            return
        digest = hashlib.sha256(trainer.datamodule.sampler.cursor_K.tobytes())
        for weight_K in (mixing.mix.sample_K, mixing.mix.loss_K):
            digest.update(b"" if weight_K is None else weight_K.cpu().numpy().tobytes())
        number = int.from_bytes(digest.digest()[:7])
        pair = torch.tensor([number, -number], device=pl_module.device)
        largest, minus_least = trainer.strategy.reduce(pair, reduce_op="max").tolist()
        if largest != -minus_least:
            raise MixalignError(
                f"The mixture is not the same on all {trainer.world_size} processes at step {trainer.global_step}: a "
                "mixer or callback reads something that differs between them. Mixers may only use what `update` gets."
            )
