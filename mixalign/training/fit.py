"""One training: a model, a mixture of tasks, a number of steps. Every stage and every run is a call of this."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mixalign.data.loader import EvalLoader
from mixalign.data.module import MixtureData
from mixalign.errors import MixalignError
from mixalign.training.callbacks.mixing import Mixing
from mixalign.training.checkpoints import WholeCheckpoints
from mixalign.training.module import AlignModule
from mixalign.training.sharding import EvenBatches, FullySharded

__all__ = ["Fit", "fit", "make_trainer"]

OURS = {  # arguments of Lightning's Trainer, and what to set in their place
    "max_steps": "`steps`",
    "max_epochs": "`epochs`",
    "accumulate_grad_batches": "`micro_batch_size`",
    "val_check_interval": "`val_every`",
    "log_every_n_steps": "`log_every`",
    "default_root_dir": "`run_dir`",
    "logger": "`logger`",
    "callbacks": "`save_every`, `probe` or `progress`",
    "num_sanity_val_steps": "`val_every`",
    "enable_checkpointing": "`save_every`",
    "enable_model_summary": "`mixalign plan`",
}
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
            if getattr(self, key) < 1:
                raise MixalignError(f"`{key}` is {getattr(self, key)}, but must be at least 1.")
        for key, ours in OURS.items():
            if key in self.trainer:
                raise MixalignError(f"`trainer.{key}` cannot be set, because mixalign sets it: use {ours}.")
        if self.trainer.get("use_distributed_sampler"):
            raise MixalignError(
                "`trainer.use_distributed_sampler` must be false: Lightning would replace the mixture sampler, and new "
                "weights would never reach the batches. Each process already takes its share of every batch."
            )


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
        options["inference_mode"] = False  # what is gathered in a validation is used again by the next training step
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
            callbacks=[*callbacks, _ValidateAtTheEnd(), _SameMixture(), _CountsSteps()],
            logger=list(loggers) or False,
            enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
            enable_model_summary=False,
            **options,
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise MixalignError(f"Lightning refuses the settings of `trainer`: {error}") from error
    if trainer.world_size > 1:
        strategy: Any = trainer.strategy
        strategy.process_dataloader = partial(_even, trainer.world_size)  # Lightning passes every loader through it
    trainer.accumulate_grad_batches = _accumulate(settings, trainer.world_size)
    every = settings.val_every * trainer.accumulate_grad_batches
    trainer.val_check_interval = min(every, settings.steps * trainer.accumulate_grad_batches)
    return trainer


def fit(trainer: L.Trainer, module: AlignModule, data: MixtureData, resume: Path | None = None) -> None:
    """Trains; `resume` is a Lightning checkpoint to go on from.

    Raises:
        MixalignError: when that is a folder, and the strategy is not the one that wrote it, or of another model.
    """
    if resume is not None and resume.is_dir() and not isinstance(trainer.strategy, FullySharded | DeepSpeedStrategy):
        raise MixalignError(
            f"The checkpoint {resume} is a folder with parts of FSDP2's processes, which another strategy cannot read. "
            "Go on with `trainer=fsdp2`, on any number of processes, or begin in another `run_dir`."
        )
    if resume is not None and resume.is_file():
        _check_weights(module, resume)
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)


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


def _even(world: int, loader: Any) -> Any:
    return EvenBatches(loader, world) if isinstance(loader, EvalLoader) else loader


class _ValidateAtTheEnd(Callback):
    """Makes the last step one that is validated, also when `val_every` does not divide the steps."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True


class _CountsSteps(Callback):
    """Lets a training go on with another number of micro-batches a step, as on another number of processes.

    Lightning counts micro-batches, and would end too early, or take optimizer steps in the middle of a global batch.
    """

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        read = checkpoint["global_step"] * trainer.accumulate_grad_batches
        for count in (progress["current"], progress["total"]):
            unfinished = count["ready"] - count["completed"]  # 1 when it was saved in the hooks of a batch
            count |= dict.fromkeys(("ready", "started", "processed"), read) | {"completed": read - unfinished}


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
        own = int.from_bytes(digest.digest()[:7])
        pair = torch.tensor([own, -own], device=pl_module.device)
        largest, minus_least = trainer.strategy.reduce(pair, reduce_op="max").tolist()
        if largest != -minus_least:
            raise MixalignError(
                f"The mixture is not the same on all {trainer.world_size} processes at step {trainer.global_step}: a "
                "mixer or callback reads something that differs between them. Mixers may only use what `update` gets."
            )
