"""The LightningDataModule: tokenised tasks and the sampler that mixes them."""

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch

from mixalign.data.batches.collate import Layout, collate
from mixalign.data.batches.even import EvenBatches, even_loader
from mixalign.data.batches.loader import EvalLoader, MixtureLoader
from mixalign.data.batches.sampler import MixtureSampler
from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.types import Batch, on_device

__all__ = ["MixtureData", "check_same_tasks"]


def check_same_tasks(saved: Sequence[str] | None, tasks: Sequence[str]) -> None:
    """Refuses the state of other tasks, or of the same ones in another order: all in it goes by number.

    Args:
        saved: the tasks of a checkpoint; None for one of an older version, which does not name them.

    Raises:
        MixalignError: naming the tasks that are new, gone or elsewhere.
    """
    if saved is None or [*saved] == [*tasks]:
        return
    gone, new = ([f"`{task}`" for task in a if task not in b] for a, b in ((saved, tasks), (tasks, saved)))
    changed = [f"{', '.join(names)} {what}" for names, what in ((gone, "gone"), (new, "new")) if names]
    what = " and ".join(changed) or f"in another order ({', '.join(tasks)})"
    raise MixalignError(
        f"The checkpoint is of other tasks than this training: {what}. It was written with {', '.join(saved)}, and its "
        "mixture goes by their number: give the same `data.tasks`, under the same names and in that order."
    )


class MixtureData(L.LightningDataModule):
    """Training batches by the mixture, and every validation row once.

    Args:
        train, validation: one table a task, in the order of the tasks; validation may be empty.
        sampler: draws the global batches of the run; its place is part of the checkpoint.
        steps: optimizer steps of the run.
        eval_batch_size: rows of one validation batch on one rank.
        layout: makes a batch of rows.
    """

    def __init__(
        self,
        train: Sequence[TaskDataset],
        validation: Sequence[TaskDataset],
        sampler: MixtureSampler,
        steps: int,
        eval_batch_size: int = 64,
        layout: Layout = collate,
    ) -> None:
        super().__init__()
        self.train, self.validation, self.sampler = train, validation, sampler
        self.steps, self.eval_batch_size, self.layout = steps, eval_batch_size, layout

    def train_dataloader(self) -> MixtureLoader:
        trainer = self.trainer
        assert trainer is not None
        reads: Any = trainer.lightning_module
        parts = trainer.world_size * trainer.accumulate_grad_batches
        if self.sampler.batch_size % parts:
            raise MixalignError(
                f"`batch_size` is {self.sampler.batch_size}, which {trainer.world_size} processes times "
                f"{trainer.accumulate_grad_batches} accumulated micro-batches do not divide. "
                f"Take a multiple of {parts}."
            )
        return MixtureLoader(
            self.train,
            self.sampler,
            self.steps,
            trainer.accumulate_grad_batches,
            trainer.global_rank,
            trainer.world_size,
            self.layout,
            sides=reads.sides,
            ahead=reads.reads_ahead(trainer.accumulate_grad_batches, self.train[0].num_completions),
        )

    def val_dataloader(self) -> EvalLoader | EvenBatches:
        """Every validation row once, this rank's share of them, in as many batches as every rank has."""
        assert self.trainer is not None
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return even_loader(self.validation, self.eval_batch_size, rank, world, self.layout)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return on_device(batch, device)  # Lightning's own walks through every segment of a packed batch

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict() | {"tasks": [table.task for table in self.train]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check_same_tasks(state_dict.get("tasks"), [table.task for table in self.train])
        self.sampler.load_state_dict(state_dict)
