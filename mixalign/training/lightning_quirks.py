"""What fights Lightning: everything that leans on a private part of it, or undoes what it does.

Each names the issue that makes it necessary, or the version where it was measured, and has a test that fails when
plain Lightning can do without it. Those that are a line or two stand where they act: the mode of the model in
`AlignModule.on_fit_start`, the lines to forget in `TaskLog.on_fit_start`, and even numbers of batches in
`data.batches.even`. FSDP2's are in `sharding.FullySharded`.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision
from torch import Tensor, nn

from mixalign.files import replacing
from mixalign.models.precision import cast_weights
from mixalign.training.checkpoints import STOPPED
from mixalign.training.sharding import whole

__all__ = [
    "CountSteps",
    "StayStopped",
    "ValidateAtTheEnd",
    "WholeCheckpoints",
    "clip_gradients",
    "compare_after_validation",
    "cast_weights_only",
    "ended_early",
    "gradient_scaler",
    "leave_signals_alone",
    "set_intervals",
    "stopped_by",
    "validation_follows",
]

UNKNOWN = "a callback"  # that is not known by name


def set_intervals(trainer: L.Trainer, accumulate: int, val_every: int, steps: int) -> None:
    """Sets how many micro-batches make a step, and a validation, once the trainer knows how many processes it has.

    Both arguments of the Trainer count batches of one process, and only a Trainer knows the number of processes: of
    `devices=auto`, torchrun or SLURM (Lightning 2.6.6; its GradientAccumulationScheduler sets the first one as well).

    Args:
        accumulate: micro-batches of an optimizer step on one process.
        val_every: optimizer steps between two validations.
        steps: optimizer steps of the training; a longer interval is refused by Lightning.
    """
    trainer.accumulate_grad_batches = accumulate
    trainer.val_check_interval = min(val_every, steps) * accumulate


def leave_signals_alone(trainer: Any) -> None:
    """Has the trainer put no handlers of its own in place, for a training or an evaluation.

    With Lightning's, SIGTERM leaves a training without saving, is swallowed in an evaluation, and is sent to all
    processes from within the handler, where they may wait for each other for ever (2.6.6).
    """
    trainer._signal_connector.register_signal_handlers = lambda: None


class ValidateAtTheEnd(Callback):
    """Makes the last step one that is validated, also when `val_every` does not divide the steps.

    Lightning ends without (https://github.com/Lightning-AI/pytorch-lightning/issues/15897), but validates before it
    obeys `should_stop`.
    """

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True


class CountSteps(Callback):
    """Lets a training go on with another number of micro-batches a step, as on another number of processes, or further.

    Lightning counts micro-batches in its checkpoints (2.6.6), and would end too early, or take optimizer steps in the
    middle of a global batch. It also keeps which batch was the last, and would make no step beyond it.
    """

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        read = checkpoint["global_step"] * trainer.accumulate_grad_batches
        for count in (progress["current"], progress["total"]):
            unfinished = count["ready"] - count["completed"]  # 1 when it was saved in the hooks of a batch
            count |= dict.fromkeys(("ready", "started", "processed"), read) | {"completed": read - unfinished}
        progress["is_last_batch"] = checkpoint["global_step"] >= trainer.max_steps


def compare_after_validation(callback: EarlyStopping) -> None:
    """Has EarlyStopping look at its monitor after each validation, unless it was told otherwise.

    With a validation after every batch it takes the interval of 1 batch for 1.0, "once an epoch", and looks when the
    training is over (Lightning 2.6.6).
    """
    if callback._check_on_train_epoch_end is None:
        callback._check_on_train_epoch_end = False


def cast_weights_only(trainer: Any) -> None:
    """Has the trainer leave batches as they are, and convert weights as `cast_weights` does where models are scored.

    Lightning casts every float of a batch with the precisions of weights (2.6.6), and makes them the default type of
    new tensors: log-probabilities of the reference policy, draw probabilities and counts would have three digits. A
    model reads words and positions only, which are whole numbers.
    """
    plugin: Any = trainer.precision_plugin
    plugin.convert_input = lambda batch: batch
    if type(plugin) in (HalfPrecision, DoublePrecision):
        plugin.convert_module = partial(cast_weights, precision=plugin.precision)
        plugin.forward_context = nullcontext


class StayStopped(Callback):
    """Ends a training that goes on from where a callback such as EarlyStopping had stopped it.

    Lightning keeps the callback's counts, but not that they had stopped it, and trains until the next validation
    (https://github.com/Lightning-AI/pytorch-lightning/issues/8278).
    """

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[STOPPED] = stopped_by(trainer)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        who = checkpoint.get(STOPPED)  # True, of an older version
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
        there = who in (True, UNKNOWN) or any(type(callback).__name__ in str(who) for callback in callbacks)
        trainer.should_stop = bool(who) and there


def stopped_by(trainer: Any) -> str:
    """The callbacks that may have ended a training before all its steps were made; empty when none has.

    At the last step it is `ValidateAtTheEnd`, and the training may be given more steps.
    """
    if not trainer.should_stop or trainer.global_step >= trainer.max_steps:
        return ""
    for callback in trainer.callbacks:
        if why := getattr(callback, "why_stopped", ""):
            return f"{type(callback).__name__} ({why})"
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            return f"{type(callback).__name__} ({' '.join(callback.stopping_reason_message.split())})"
    names = [
        type(c).__name__ for c in trainer.callbacks if not type(c).__module__.startswith(("mixalign.", "lightning."))
    ]
    return " or ".join(names) or UNKNOWN


def ended_early(trainer: Any) -> dict[str, str]:
    """What a result says of a training that was ended before all its steps were made; empty for all others."""
    who = stopped_by(trainer)
    return {"stopped": f"by {who} at step {trainer.global_step} of {trainer.max_steps}"} if who else {}


def validation_follows(trainer: Any, batch_idx: int) -> bool:
    """Whether this batch, the last micro-batch of an optimizer step, is one that is validated after.

    Who saves at such a step waits for the validation: a training that goes on from a state in between leaves it out,
    or validates a single batch (https://github.com/Lightning-AI/pytorch-lightning/issues/20288), so that mixers, logs
    and the best checkpoint miss it.
    """
    if not trainer.enable_validation:
        return False
    stops = trainer.should_stop and trainer.fit_loop._can_stop_early
    return bool(stops or (batch_idx + 1) % trainer.val_check_batch == 0 or trainer.global_step >= trainer.max_steps)


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's files, but never half of one under its name, also when its folder and /tmp are on two disks.

    Lightning holds the file in memory as a whole, writes it below /tmp, and copies it from there when that is another
    disk (2.6.6; https://github.com/Lightning-AI/pytorch-lightning/issues/19970).
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with replacing(Path(path)) as part:
            torch.save(checkpoint, part)


def gradient_scaler(trainer: Any) -> torch.amp.GradScaler | None:
    """What scales the loss of a training in float16; None for every other precision, whose plugins lack it (2.6.6)."""
    return getattr(trainer.precision_plugin, "scaler", None)


def clip_gradients(trainer: Any, optimizer: Any, weights: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scales gradients down to a norm, and has a fused optimizer leave out a step that is not finite.

    `Trainer(gradient_clip_val=...)` refuses a fused optimizer under mixed precision, of bfloat16 as well
    (https://github.com/Lightning-AI/pytorch-lightning/issues/21435).

    Args:
        max_norm: the norm; 0 leaves the gradients alone.

    Returns:
        The norm before.
    """
    norm = whole(nn.utils.clip_grad_norm_(weights, max_norm or float("inf")).detach())
    if gradient_scaler(trainer) is None:
        # as a gradient scaler tells a fused optimizer: a step that is not finite leaves the weights as they are
        optimizer.found_inf = (~norm.isfinite()).float()
    return norm
