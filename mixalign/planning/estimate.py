"""What a run will take: how many trainings, how much time by what is known of its speed, and how much memory."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mixalign.course import Stage, clock, cost_of, span
from mixalign.errors import MixalignError
from mixalign.frozen.batch_sizes import Need, need_of
from mixalign.frozen.costs import speeds
from mixalign.jobs.job import Job
from mixalign.mixers.base import Rule
from mixalign.models.shapes import shapes_of
from mixalign.runs.stages import stages_of
from mixalign.together.trainer import probe_trainer
from mixalign.training.engine import likely_layout

if TYPE_CHECKING:  # a plan without `--time` need not wait for Lightning
    from mixalign.frozen.timed import Timed

__all__ = ["Estimate", "estimate", "estimate_lines"]

GB = 1e9
GROUPS = {"specialist": "specialists", "round": "rounds", "influence": "influence", "answers": "answers"}


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        trainings: models that are trained, the generalist's among them.
        seconds: by the clock, by stage; empty where nothing is known of the model's speed here.
        unknown: kinds of work that are not in these.
        stands_on: what the seconds follow from.
        need: of memory; None where nobody knows before the model is loaded.
        looked: whether what the cache has is left out.
    """

    trainings: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    unknown: Sequence[str] = ()
    stands_on: str = ""
    need: Need | None = None
    looked: bool = False


def estimate(job: Job, mixer: Rule, train_specialists: bool, timed: "Timed | None" = None) -> Estimate:
    """Counts the stages of a run and the tokens that they pass, and looks up how fast that goes.

    Args:
        train_specialists: whether missing ones are to be trained.
        timed: a few steps that were timed now, with the job as it is once the model is there; else speeds are those
            of earlier trainings whose costs the cache keeps.
    """
    stages = stages_of(timed.job if timed else job, mixer, train_specialists, look=timed is not None)
    found = speeds(job, _processes(job)) if timed is None else {}
    known = timed.speeds if timed else {kind: speed for kind, (speed, _) in found.items()}
    unknown = cost_of(stages, known.get)[1]
    records = sum(count for _, count in found.values())
    return Estimate(
        trainings=sum(stage.trainings for stage in stages),
        seconds=_by_group(stages, known) if known else {},
        unknown=sorted(unknown),
        stands_on=timed.text if timed else f"{records} trainings and readings of this model before, kept in the cache",
        need=timed.need if timed else _need(job),
        looked=timed is not None,
    )


def _processes(job: Job) -> int | None:
    """Of the run that is planned; None where this machine cannot have them."""
    with suppress(MixalignError, ImportError):
        probe = probe_trainer(job.settings.trainer)
        return 1 if probe is None else probe.world_size
    return None


def _need(job: Job) -> Need | None:
    model = shapes_of(job.settings.model, job.cache)
    tables = [table for _, _, table in job.all_datasets]
    job = replace(job, layout=likely_layout(job.settings.engine, tables))
    return None if model is None else need_of(job, model)


def _by_group(stages: Sequence[Stage], known: Mapping[str, float]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for stage in stages:
        first = stage.name.split()[0]
        group = GROUPS.get(first, stage.name if stage.trainings else "reading and evaluation")
        seconds[group] = seconds.get(group, 0.0) + cost_of([stage], known.get)[0]
    return {group: value for group, value in seconds.items() if value}


def estimate_lines(found: Estimate) -> list[str]:
    """Trainings, time and memory, a line each."""
    cached = "what the cache has is left out" if found.looked else "if the cache has none of them"
    lines = [f"trainings: {found.trainings} ({cached})"]
    if found.seconds:
        parts = ", ".join(f"{group} {clock(seconds)}" for group, seconds in found.seconds.items())
        without = f", without {' and '.join(found.unknown)} (not known before the first)" if found.unknown else ""
        total = span(sum(found.seconds.values()))
        lines.append(f"time: about {total} by the clock{without}: {parts}; by {found.stands_on}")
    else:
        lines.append(
            "time: not known before the first steps, as the cache has no training of this model on such a machine; "
            "`mixalign plan --time` times a few"
        )
    lines.append(_memory(found.need))
    return lines


def _memory(need: Need | None) -> str:
    if need is None:
        return "memory: not known before the model is loaded"
    rows = f"{need.rows} rows" if need.rows > 1 else "1 row"
    free = "how much is free is not told" if need.free is None else f"{need.free / GB:.1f} GB are free"
    return f"memory: at most about {need.peak / GB:.1f} GB, with {rows} in a forward pass of a training; {free}"
