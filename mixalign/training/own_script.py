"""What module and callbacks take from each other in a script with a plain Trainer, and what it must not leave out."""

from typing import Any

from mixalign.data.batches.module import MixtureData
from mixalign.errors import MixalignError
from mixalign.mixers.base import PROBED, Rule
from mixalign.training.lightning_quirks import cast_weights_only
from mixalign.training.optimizer import Optimizer

__all__ = ["data_of", "given", "tasks_of", "tell"]


def given(optimizer: Optimizer | None) -> Optimizer:
    """The optimizer of a module.

    Raises:
        MixalignError: when there is none.
    """
    if optimizer is None:
        raise MixalignError("`optimizer` of AlignModule is missing: how it trains, such as Optimizer(lr=1e-5).")
    return optimizer


def tasks_of(trainer: Any) -> list[str]:
    """The tasks of a module that was not told, by a trainer that the user made.

    Raises:
        MixalignError: when the trainer has no `MixtureData`, or clips gradients.
    """
    if not isinstance(trainer.datamodule, MixtureData):
        raise MixalignError("AlignModule knows no tasks. Give the trainer a MixtureData, or the module `tasks`.")
    if trainer.gradient_clip_val:
        raise MixalignError(
            f"`gradient_clip_val` of the Trainer is {trainer.gradient_clip_val}, but AlignModule clips by its "
            "`optimizer`. Remove it, and set Optimizer(max_grad_norm=...)."
        )
    return trainer.datamodule.tasks


def data_of(trainer: Any, mixer: Rule) -> MixtureData:
    """The data whose draws a mixer is to move, by a trainer that the user made.

    Raises:
        MixalignError: when the trainer has no `MixtureData`, or no callback that measures what the mixer reads.
    """
    data, name = trainer.datamodule, type(mixer).__name__
    if not isinstance(data, MixtureData):
        raise MixalignError(
            "The callback Mixing moves the draws of a MixtureData, and this trainer was given none: "
            "`trainer.fit(module, MixtureData(...))`."
        )
    if mixer.cadence == "round":
        raise MixalignError(f"{name} moves volumes between trainings. Take `mixalign.train(...)` for its rounds.")
    measured = {what for probe in trainer.callbacks for what in getattr(probe, "measures", ())}
    if lacking := sorted((mixer.needs & PROBED) - measured):
        raise MixalignError(
            f"{name} reads {', '.join(lacking)}, which no callback measures. Put probes before Mixing: "
            "Trainer(callbacks=[*probes_for(mixer), Mixing(mixer)])."
        )
    cast_weights_only(trainer)
    return data


def tell(trainer: Any, module: Any, mixer: Rule) -> None:
    """Has data and module do what a mixer asks for, where their constructors were not told."""
    if isinstance(trainer.datamodule, MixtureData):
        trainer.datamodule.draw_as(mixer.composition)
    for name, said in module.told.items():
        if said is None:
            setattr(module, name, getattr(mixer, name))
