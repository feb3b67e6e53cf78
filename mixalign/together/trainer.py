"""Arguments of Lightning's Trainer, and how many processes they ask for."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mixalign.config.build import build
from mixalign.config.settings import RunSettings, TrainerSettings
from mixalign.errors import MixalignError
from mixalign.together.agree import is_connected
from mixalign.training.average_share import share_of, spreading

if TYPE_CHECKING:
    import lightning as L

__all__ = ["probe_trainer", "trainer_options"]

SILENT: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)
PLACEMENT = ("accelerator", "devices", "num_nodes", "strategy")


def trainer_options(settings: RunSettings, precision: str | int) -> dict[str, Any]:
    """The arguments of Lightning's Trainer that the settings name, for one training.

    A verb that is not run on all ranks trains on one process, whatever `trainer` asks for.

    Args:
        precision: what the job has chosen where `trainer.precision` is `auto`.

    Raises:
        MixalignError: for settings that Lightning refuses, or whose checkpoints could not be exported.
    """
    trainer = settings.trainer
    options = trainer.arguments() | {"precision": precision}
    if "deepspeed" in str(trainer.strategy).lower():
        if settings.export != "last":
            raise MixalignError("DeepSpeed's checkpoints are folders that only DeepSpeed reads: set `export=last`.")
        options["gradient_clip_val"] = settings.optimizer.max_grad_norm  # DeepSpeed clips by itself
    _check_average(settings)
    if not is_connected() and (probe := probe_trainer(trainer)) is not None and probe.world_size > 1:
        options |= {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    return _with_strategy(options)


def _check_average(settings: RunSettings) -> None:
    """Refuses a mean of weights that no process has as a whole."""
    kind = spreading(settings.trainer.strategy)
    if kind and share_of(settings.export, settings.average_last):
        key = "average_last" if settings.average_last else "export=averaged"
        raise MixalignError(
            f"`{key}` keeps a mean of the weights, and `trainer.strategy` ({kind}) spreads them over processes, where "
            "that is not written yet. Take `trainer=ddp`, or set `export=best` or `last` and leave `average_last` out."
        )


def probe_trainer(trainer: TrainerSettings) -> "L.Trainer | None":
    """A trainer with the processes and the launcher that a training would have; None: plainly one process.

    Raises:
        MixalignError: when Lightning refuses the settings, or the strategy has no processes that stages can share.
    """
    if trainer.devices == 1 and trainer.num_nodes == 1:
        return None
    import lightning as L  # here, as one process need not wait for it
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    options = {name: value for name, value in trainer.arguments().items() if name in PLACEMENT}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            probe = L.Trainer(**_with_strategy(options), **SILENT)
            cluster = getattr(probe.strategy, "cluster_environment", None)
            if cluster is not None:
                cluster.validate_settings(probe.num_devices, probe.num_nodes)
    except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        raise MixalignError(f"Lightning refuses the settings of `trainer`: {error}") from error
    if probe.world_size > 1 and cluster is None:
        raise MixalignError(f"`trainer.strategy` {trainer.strategy} has no processes of its own. Use ddp or fsdp2.")
    if type(probe.strategy.launcher).__name__ == "_MultiProcessingLauncher":
        raise MixalignError(
            f"`trainer.strategy` is {trainer.strategy}, whose processes end with every training, so that stages "
            "cannot share them. Use `trainer=ddp`."
        )
    return probe


def _with_strategy(options: dict[str, Any]) -> dict[str, Any]:
    """The same arguments, with a strategy that is described by a mapping built."""
    strategy = options["strategy"]
    return options | {"strategy": build(strategy) if isinstance(strategy, Mapping) else strategy}
