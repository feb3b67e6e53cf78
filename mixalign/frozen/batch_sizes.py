"""How many rows a forward pass takes: as configured, or as many as the memory that is free lets it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from mixalign.config.defaults import AUTO
from mixalign.jobs.job import FEW, SIZES, Job
from mixalign.models.shapes import Shapes
from mixalign.together.agree import decide, world
from mixalign.training.average_share import share_of
from mixalign.training.engine import rows_within
from mixalign.training.memory import FLOAT, Footprint, footprint, free_memory, most_tokens, tokens_of_longest

__all__ = ["Need", "fit_batch_sizes", "micro_batch_size", "need_of", "with_sizes_of"]

log = logging.getLogger(__name__)

SHARE = {"cuda": 0.8, "cpu": 0.5}  # of the free memory; a CPU's is that of all other programs too
MOST_READ = 64  # rows that are read at a time; more are no faster
UNKNOWN = 4  # rows of a training's forward pass where the system does not say what is free
COPIES = {"frozen_copy": 2}  # of the weights, by `reference.mode`
GRADIENTS = frozenset({"gradient_KK", "noise_K"})  # what `GradientProbe` measures, with a gradient a task and four more
GB = 1e9


@dataclass(frozen=True)
class Need:
    """What a run takes of memory, by an upper estimate.

    Attributes:
        peak: bytes of a training, or of a reading where that takes more.
        rows: in a forward pass of a training.
        free: bytes that are free now; None where the system does not say.
    """

    peak: float
    rows: int
    free: float | None


def need_of(job: Job, model: Shapes) -> Need:
    """What a run takes of memory with the rows that it has, or would choose now, for its forward passes."""
    free, takes = free_memory(job.device), _footprint(job, model)
    sizes = _sizes(job, model)[0]
    chosen: dict[str, Any] = {key: sizes[key] for key in job.open_sizes}
    job = replace(job, **chosen)
    batch = job.settings.batch_size
    rows = micro_batch_size(job, batch) or batch // world()
    tables = [*(table for _, _, table in job.all_datasets), *job.targets]
    training = takes.training(most_tokens(job.layout, job.data["train"], batch, rows))
    return Need(max(training, takes.reading(tokens_of_longest(job.layout, tables, job.eval_batch_size))), rows, free)


def with_sizes_of(job: Job, saved: Mapping[str, Any]) -> Job:
    """The job with the sizes that its run began with, which decide how numbers are rounded.

    Args:
        saved: the run's config.yaml; empty for one that begins.
    """
    known = {key: saved[key] for key in job.open_sizes if saved.get(key, AUTO) != AUTO}
    return replace(job, **known, open_sizes=tuple(key for key in job.open_sizes if key not in known))


def fit_batch_sizes(job: Job, model: nn.Module) -> Job:
    """The job with the rows of forward passes that are still open, on all processes; the log says why so many.

    Args:
        model: the base model, without an adapter.
    """
    if not job.open_sizes:
        return job
    found, why = decide(partial(_sizes, job, Shapes.of(model)))
    chosen: dict[str, Any] = {key: found[key] for key in job.open_sizes}
    log.info("chosen: %s (%s)", ", ".join(f"{key}={rows}" for key, rows in chosen.items()), why)
    return replace(job, **chosen, open_sizes=())


def micro_batch_size(job: Job, batch_size: int) -> int | None:
    """Rows of one forward pass of a training: as configured, or as many as memory or `engine.max_tokens` allow.

    Returns:
        None takes all of a process's share of the batch at once.
    """
    if job.settings.engine.max_tokens:
        return rows_within(job.settings.engine.max_tokens, job.data["train"], batch_size, world())
    if job.settings.micro_batch_size != AUTO or job.micro_batch_size is None:
        return job.micro_batch_size
    most = job.micro_batch_size
    return max((n for n in _divisors(batch_size // world()) if n <= most), default=1)


def _sizes(job: Job, model: Shapes) -> tuple[dict[str, int], str]:
    """The most rows that fit, of trainings and of readings, and why."""
    free, device, batch = free_memory(job.device), job.device, job.settings.batch_size
    of_share = _divisors(batch // world())
    if free is None:
        few = max((n for n in of_share if n <= UNKNOWN), default=1)
        return dict(zip(SIZES, (few, FEW), strict=True)), "the system does not say how much memory is free"
    if device == "cpu":
        free /= max(1, world() // max(1, job.settings.trainer.num_nodes))
    takes, budget = _footprint(job, model), SHARE[device] * free
    train = job.data["train"]
    tables = [*(table for _, _, table in job.all_datasets), *job.targets]
    training = {n: takes.training(most_tokens(job.layout, train, batch, n)) for n in of_share}
    reading = {n: takes.reading(tokens_of_longest(job.layout, tables, n)) for n in _powers(MOST_READ)}
    micro, read = _most(training, budget), _most(reading, budget)
    need = max(training.get(micro, 0), reading[read])
    why = f"memory: at most about {need / GB:.1f} GB; free are {free / GB:.1f}, of which {SHARE[device]:.0%} are used"
    return dict(zip(SIZES, (micro, read), strict=True)), why


def _footprint(job: Job, model: Shapes) -> Footprint:
    settings = job.settings
    copies = COPIES.get(settings.reference.mode, 1) if job.objective.uses_reference else 1
    longest = max(int(table.length_N.max()) for _, _, table in job.all_datasets if len(table))
    takes = footprint(model, settings.lora, settings.engine, job.device, longest, copies)
    if share_of(settings.export, settings.average_last):
        takes = replace(takes, fixed=takes.fixed + FLOAT * takes.trained)  # the mean of the weights
    if settings.mixer.needs & GRADIENTS:
        takes = replace(takes, fixed=takes.fixed + 4 * (len(job.tasks) + 4) * takes.trained)
    return takes


def _most(needs: Mapping[int, float], budget: float) -> int:
    """The most rows whose need is within the budget; 1 where none is."""
    return max((rows for rows, need in needs.items() if need <= budget), default=1)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _powers(most: int) -> list[int]:
    return [2**n for n in range(most.bit_length())]
