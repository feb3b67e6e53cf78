"""What a run is to do: frozen dataclasses with a field for each key of the configuration.

Every field says what its key may be and what it touches; `mixalign.config.parse` fills them from plain mappings.
Keys that are set to `auto` have their value here (see `mixalign.config.defaults`), but for what the model decides.
"""

import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, get_args

from mixalign.checks import (
    check_choice,
    check_date,
    check_duration,
    check_flag,
    check_list,
    check_number,
    check_pattern,
    check_text,
    or_word,
)
from mixalign.config.fields import (
    COUNT,
    COUNT_FROM_0,
    COUNT_OR_NULL,
    EPOCHS,
    LIST_OR_NULL,
    MAPPING_OR_NULL,
    RATE,
    SEED,
    SHARE_OR_NULL,
    TEXT_OR_NULL,
    Touches,
    anything,
    check_precision,
    check_target,
    part,
    setting,
    word,
)
from mixalign.data.read.sources import TaskSpec
from mixalign.errors import MixalignError
from mixalign.influence.settings import Influence
from mixalign.mixers.base import Composition, Rule
from mixalign.models.load import LoRA, ModelSource
from mixalign.models.reference import LIVE
from mixalign.objectives.base import Objective
from mixalign.training.callbacks.on_nan import OnNan
from mixalign.training.engine import Engine
from mixalign.training.optimizer import Optimizer

__all__ = [
    "DataSettings",
    "EvalSettings",
    "MergeSettings",
    "ProbeSettings",
    "ReferenceSettings",
    "RunSettings",
    "SpecialistsSettings",
    "Touches",
    "TrainerSettings",
    "names_a_run",
    "touches",
]


@dataclass(frozen=True)
class ProbeSettings:
    """How mixers measure that look at gradients, trial steps or validation rows between steps."""

    rows: int = setting(COUNT, default=8)
    validation_rows: int = setting(COUNT, default=64)
    weights: str | None = setting(check_pattern, default=None)


@dataclass(frozen=True)
class ReferenceSettings:
    """The policy that DPO stays close to, and that every training starts from."""

    sft_steps: int | None = setting(partial(COUNT_FROM_0, null=True))
    sft_epochs: float | None = setting(EPOCHS)
    sft_lr: float = setting(RATE)
    sft_batch_size: int = setting(COUNT)
    seed: int = setting(SEED)
    mode: str = setting(word("cached", *LIVE))


@dataclass(frozen=True)
class SpecialistsSettings:
    """One model a task, whose per-sample losses say how good is good enough.

    Attributes:
        trained_with: settings outside of this group that they are trained with, where `of` names a run: `optimizer`,
            `lora`, `precision`, maybe `steps` by task; see `mixalign.config.pin`.
    """

    train: str = setting(word("auto", "always", "never"))
    dir: str | None = setting(TEXT_OR_NULL)
    steps: int | None = setting(COUNT_OR_NULL)
    epochs: float | None = setting(EPOCHS)
    batch_size: int = setting(COUNT)
    lr: float = setting(RATE)
    seed: int = setting(SEED)
    folds: int = setting(COUNT, default=1)
    export: str = setting(word("best", "last"), default="last")
    patience: int | None = setting(COUNT_OR_NULL, default=None)
    of: str | None = setting(TEXT_OR_NULL, "place", default=None)
    trained_with: Mapping[str, Any] | None = setting(MAPPING_OR_NULL, "place", default=None)


@dataclass(frozen=True)
class MergeSettings:
    """Merges of the specialists that a run ends with."""

    methods: tuple[str, ...] = setting(check_list, default=())
    weights: tuple[float, ...] | None = setting(LIST_OR_NULL, default=None)
    scale: float = setting(check_number, default=1.0)
    density: float = setting(check_number, default=0.5)
    trials: int = setting(COUNT_FROM_0, default=0)


@dataclass(frozen=True)
class EvalSettings:
    """What is measured beside the losses of the result: those of the start model, and scores of answers of both.

    Attributes:
        start: whether the loss of the start model is measured on the rows of the results.
        generate: held-out prompts a task; 0: nothing is generated.
    """

    start: bool = setting(check_flag, "place", default=True)
    generate: int = setting(COUNT_FROM_0, default=0)
    max_new_tokens: int = setting(COUNT, default=64)
    temperature: float = setting(partial(check_number, low=0), default=0.0)


@dataclass(frozen=True)
class DataSettings:
    """Which rows there are, and how they become tokens.

    Attributes:
        tasks: what the configuration says of each task; None removes one that `root` has.
        date: what a chat template takes for today, `2026-01-31`; None: the day on which the cache was first asked.
        target: rows whose loss IDEAL lowers: None for every task's validation rows, names of tasks, or descriptions
            like those of tasks.
    """

    root: str | None = setting(TEXT_OR_NULL)
    tasks: Mapping[str, TaskSpec | None] = setting(MAPPING_OR_NULL)
    max_length: int = setting(partial(check_number, low=2, whole=True))
    validation_fraction: float = setting(partial(check_number, low=0, high=1))
    seed: int = setting(SEED)
    on_bad_row: str = setting(partial(check_choice, known=("raise", "skip")), default="raise")
    cache_tokens: bool = setting(check_flag, "speed", default=True)
    workers: int | None = setting(COUNT_OR_NULL, "speed", default=None)
    date: str | None = setting(partial(check_date, null=True), default=None)
    on_lost_text: str = setting(word("raise", "warn"), default="raise")
    target: tuple[str, ...] | Mapping[str, TaskSpec] | None = setting(check_target, default=None)
    recommended: Mapping[str, Any] | None = setting(MAPPING_OR_NULL, "place", default=None)


@dataclass(frozen=True)
class TrainerSettings:
    """Machines and precision; what Lightning's Trainer gets.

    Attributes:
        strategy: a name, or a mapping with `_target_`: a strategy serves one training, so each builds its own.
        timeout: minutes that a process waits for another one.
        profiler: of the generalist's training.
    """

    accelerator: str = setting(anything, "speed")
    devices: int | str | list[int] = setting(anything, "speed")
    num_nodes: int = setting(anything, "speed")
    strategy: str | Mapping[str, Any] = setting(anything, "speed")
    precision: str | int = setting(check_precision)
    timeout: float = setting(partial(check_number, low=0, open_low=True, why="Minutes."), "speed", default=30)
    deterministic: bool | str = setting(word(True, False, "warn"), "speed", default=False)
    benchmark: bool = setting(check_flag, "speed", default=False)
    detect_anomaly: bool = setting(check_flag, "place", default=False)
    profiler: str | None = setting(word("simple", "advanced", "pytorch", null=True), "place", default=None)

    def __post_init__(self) -> None:
        if self.benchmark and self.deterministic:
            raise MixalignError(
                "`trainer.benchmark=true` lets the time of a trial choose kernels, and `trainer.deterministic` wants "
                "the same ones every time. Leave one of them out."
            )

    def arguments(self) -> dict[str, Any]:
        """Those of Lightning's Trainer, with the strategy as it was configured."""
        names = ("accelerator", "devices", "num_nodes", "strategy", "precision")
        flags = ("benchmark", "detect_anomaly")
        return {name: getattr(self, name) for name in names} | {name: True for name in flags if getattr(self, name)}


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """One run.

    Attributes:
        logger, callbacks: name -> a mapping with `_target_`: each training builds its own.
        plain: all of it as plain data, every `auto` replaced: what config.yaml holds, and what recipes are taken from.
        chosen: what was chosen for keys that are `auto`, and why; a line a reason.
    """

    name: str = setting(check_text, "place")
    run_dir: str | None = setting(anything, "place")
    cache_dir: Path = setting(check_text, "place")
    seed: int = setting(SEED)
    steps: int | None = setting(COUNT_OR_NULL)
    epochs: float | None = setting(EPOCHS)
    batch_size: int = setting(COUNT)
    micro_batch_size: int | str | None = setting(or_word(COUNT_OR_NULL, "auto"), "speed")
    eval_batch_size: int | str = setting(or_word(COUNT, "auto"), "speed")
    val_every: int | None = setting(COUNT_OR_NULL)
    eval_rows: int | None = setting(COUNT_OR_NULL, default=None)
    save_every: int | None = setting(COUNT_OR_NULL, "place")
    max_time: Any = setting(check_duration, "place", default=None)
    composition: Composition | None = setting(word(*get_args(Composition), null=True))
    resume: Path | None = setting(TEXT_OR_NULL, "place")
    on_nan: OnNan = setting(word(*get_args(OnNan)))
    export: str = setting(word("best", "best_gap", "last", "averaged"))
    average_last: float | None = setting(SHARE_OR_NULL, default=None)
    log_every: int = setting(COUNT, "place")
    progress: bool = setting(check_flag, "place")
    fast_dev_run: bool = setting(check_flag, "place", default=False)
    debug: bool = setting(check_flag, "place")
    mixer: Rule = part()
    objective: Objective = part()
    model: ModelSource = part()
    lora: LoRA | None = part()
    optimizer: Optimizer = part()
    influence: Influence = part()
    engine: Engine = part("speed")
    probe: ProbeSettings = part()
    reference: ReferenceSettings = part()
    specialists: SpecialistsSettings = part()
    data: DataSettings = part()
    trainer: TrainerSettings = part()
    merge: MergeSettings = part("place")
    eval: EvalSettings = part("place", default=EvalSettings())
    logger: Mapping[str, Mapping[str, Any]] = part("place")
    callbacks: Mapping[str, Mapping[str, Any]] = part()
    plain: Mapping[str, Any] = field(repr=False)
    chosen: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        """`max_time`, the time of the whole command, in seconds."""
        return check_duration("max_time", self.max_time)

    @property
    def mixer_name(self) -> str:
        return str(self.plain["mixer"]["name"])

    @property
    def objective_name(self) -> str:
        return str(self.plain["objective"]["name"])


GROUPS: dict[str, type] = {
    "probe": ProbeSettings,
    "reference": ReferenceSettings,
    "specialists": SpecialistsSettings,
    "data": DataSettings,
    "trainer": TrainerSettings,
    "merge": MergeSettings,
    "eval": EvalSettings,
}
"""Keys with keys below them that a dataclass of this file describes."""

SCORER = re.compile(r"data\.tasks\..+\.scorer(\.regex)?")
"""Of a task; it judges answers of a model that is trained already."""


def touches(key: str) -> Touches:
    """What a dotted key of the configuration touches; an unknown one is taken to touch the weights."""
    if SCORER.fullmatch(key):
        return "place"
    name, _, inner = key.partition(".")
    if (entry := _field(RunSettings, name)) is None:
        return "weights"
    if inner and name in GROUPS and (below := _field(GROUPS[name], inner.partition(".")[0])):
        entry = below if entry.metadata["touches"] == "weights" else entry
    return entry.metadata["touches"]  # type: ignore[no-any-return]


def names_a_run(key: str) -> bool:
    """Whether runs that differ in this dotted key only are one run, made again: by place, seed or the memory there."""
    return touches(key) == "place" or key.rpartition(".")[2] in ("seed", "micro_batch_size", "eval_batch_size")


def _field(kind: type, name: str) -> Field[Any] | None:
    return next((entry for entry in fields(kind) if entry.name == name and "touches" in entry.metadata), None)
