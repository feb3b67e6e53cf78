"""The LightningDataModule: tokenised tasks and the sampler that mixes them."""

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

import lightning as L
import torch

from mixalign.data.batches.collate import Layout, collate
from mixalign.data.batches.even import EvenBatches, even_loader
from mixalign.data.batches.loader import EvalLoader, MixtureLoader
from mixalign.data.batches.sampler import MixtureSampler
from mixalign.data.dataset import TaskDataset
from mixalign.data.read.sources import TaskSpec, load_task
from mixalign.data.tokens.tokenise import tokenise
from mixalign.errors import MixalignError
from mixalign.mixers.base import Composition
from mixalign.types import Batch, Form, on_device

Source = str | PathLike[str] | TaskSpec | Sequence[Mapping[str, Any]]
"""Where the rows of a task are: a path, a description, or the rows themselves."""

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
        train: one table a task, in the order of the tasks.
        validation: the same, or empty.
        sampler: draws the global batches of the run; its place is part of the checkpoint. None draws `batch_size` rows
            a step from all of each table, made up as the mixer of the `Mixing` callback asks for.
        steps: optimizer steps of the run; None: the trainer's `max_steps`.
        eval_batch_size: rows of one validation batch on one rank.
        layout: makes a batch of rows.
        batch_size: rows of a global batch, over all ranks and accumulated micro-batches, where there is no sampler.
        seed: of the draws and the order of rows, where there is no sampler.

    Raises:
        MixalignError: when the trainer has no `max_steps` and there are no `steps`, or micro-batches do not divide the
            batch.
    """

    def __init__(
        self,
        train: Sequence[TaskDataset],
        validation: Sequence[TaskDataset] = (),
        sampler: MixtureSampler | None = None,
        steps: int | None = None,
        eval_batch_size: int = 64,
        layout: Layout = collate,
        *,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._as_mixer_asks = sampler is None
        self.sampler = sampler or MixtureSampler([len(table) for table in train], batch_size, seed=seed)
        self.train, self.validation = train, validation
        self.steps, self.eval_batch_size, self.layout = steps, eval_batch_size, layout

    @classmethod
    def from_tasks(
        cls,
        tasks: Mapping[str, Source],
        tokenizer: Any,
        form: Form,
        *,
        batch_size: int = 32,
        max_length: int = 1024,
        validation_fraction: float = 0.1,
        seed: int = 0,
    ) -> "MixtureData":
        """Reads and tokenises tasks, in any format of docs/formats.md.

        Args:
            tasks: name to the path of a file, folder or hub data set; to a `TaskSpec`; or to rows, a list of dicts.
            tokenizer: of transformers.
            form: of the rows, as the objective needs them: `DPO().form`.
            max_length: tokens of a prompt and its longer completion.
            validation_fraction: share of the prompts that validate, where a task brings no validation rows.
            seed: of that cut, of the draws and of the order of rows.

        Raises:
            MixalignError: naming the task whose rows cannot be read.
        """
        tables: dict[str, list[TaskDataset]] = {"train": [], "validation": []}
        for task, source in tasks.items():
            spec, rows = _described(task, source)
            chat = tokenizer.chat_template is not None
            read = load_task(task, spec, validation_fraction=validation_fraction, seed=seed, chat=chat, rows=rows)
            for split, made in tables.items():
                table, _ = tokenise(
                    read[split],
                    tokenizer,
                    task=task,
                    form=form,
                    max_length=spec.max_length or max_length,
                    chat_template_kwargs=spec.chat_template_kwargs,
                    train_on=spec.train_on,
                    source=split,
                )
                made.append(table)
        return cls(tables["train"], tables["validation"], batch_size=batch_size, seed=seed)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in their order."""
        return [table.task for table in self.train]

    def draw_as(self, composition: Composition) -> None:
        """Makes batches up as a mixer asks for, where no sampler was given."""
        if self._as_mixer_asks:
            self.sampler.composition = composition

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
            self._num_steps(trainer),
            trainer.accumulate_grad_batches,
            trainer.global_rank,
            trainer.world_size,
            self.layout,
            sides=reads.sides,
            ahead=reads.reads_ahead(trainer.accumulate_grad_batches, self.train[0].num_completions),
        )

    def _num_steps(self, trainer: L.Trainer) -> int:
        steps = trainer.max_steps if self.steps is None else self.steps
        if steps < 1:
            raise MixalignError(
                f"`max_steps` of the Trainer is {steps}, but a mixture has no epochs: say how many optimizer steps it "
                "takes, Trainer(max_steps=500)."
            )
        return steps

    def val_dataloader(self) -> EvalLoader | EvenBatches:
        """Every validation row once, this rank's share of them, in as many batches as every rank has."""
        assert self.trainer is not None
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return even_loader(self.validation, self.eval_batch_size, rank, world, self.layout)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return on_device(batch, device)  # Lightning's own walks through every segment of a packed batch

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict() | {"tasks": self.tasks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check_same_tasks(state_dict.get("tasks"), self.tasks)
        self.sampler.load_state_dict(state_dict)


def _described(task: str, source: Source) -> tuple[TaskSpec, Sequence[Mapping[str, Any]] | None]:
    """Where the rows of a task are, or the rows."""
    if isinstance(source, TaskSpec):
        return source, None
    if isinstance(source, str | PathLike):
        return TaskSpec(path=fspath(source)), None
    if isinstance(source, Sequence) and not isinstance(source, str) and all(isinstance(x, Mapping) for x in source):
        return TaskSpec(), source
    raise MixalignError(
        f"`tasks`: task `{task}` is {type(source).__name__}, but must be a path, a TaskSpec, or a list of rows, each a "
        "dict such as {'prompt': ..., 'completion': ...}."
    )
