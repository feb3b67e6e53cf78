"""Run folders, read back: settings, final scores, the path of the mixture, the validation history, the costs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mixalign.errors import MixalignError
from mixalign.reporting.read.costs import Cost, read_cost
from mixalign.reporting.read.files import RunConfig, number, read_object, read_settings
from mixalign.reporting.read.generations import Sample, read_generations
from mixalign.reporting.read.history import MixHistory, Series, read_mix_history, read_validation
from mixalign.reporting.read.log import read_warnings

__all__ = ["Method", "Run", "load_run", "run_folders", "worst"]

Method = Literal["static", "adaptive", "merge"]
LOWER_IS_WORSE = frozenset({"accuracy", "margin", "score", "score_before"})
OF_SPECIALISTS = ("eval_excess/", "eval_gap/", "eval_specialist_loss/", "eval/worst_excess", "eval/worst_gap")
MERGE = "merge_"  # how the mixer of a merge of specialists is named, which trains nothing


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        label: The mixer's name and the settings that tell it from other runs of the same mixer.
        method: Whether its mixture stays, is decided while it trains (or by trainings before it), or it is a merge.
        config: All of config.yaml. `settings`: by dotted key, those that are worth showing; `find_runs` fills it.
        command: Keys of the command that began it, with their values; None when its folder does not say.
        origin: What only its beginning knew, such as the name of the base model on a hub (`base_model`).
        validation: `eval_excess/reverse` and the like -> (steps, values), both of shape (N,).
        specialists: The recipe of each task's, over which its excess is; empty where its folder does not say.
        generations: Answers that it generated to held-out prompts.
        cost: What it cost; None when its folder does not say.
        warnings: What its log warns of, each once.
        group: What is called the group of runs that it can be compared with; `find_runs` fills it.
        skipped: Why this run cannot be compared; empty when it can.
    """

    path: Path
    label: str
    mixer: str
    objective: str
    seed: int
    split: str = ""
    method: Method = "adaptive"
    config: RunConfig = field(default_factory=dict)
    settings: RunConfig = field(default_factory=dict)
    command: Mapping[str, str] | None = None
    origin: RunConfig = field(default_factory=dict)
    eval: RunConfig = field(default_factory=dict)
    mixture: RunConfig = field(default_factory=dict)
    specialists: RunConfig = field(default_factory=dict)
    mix_history: MixHistory | None = None
    validation: dict[str, Series] = field(default_factory=dict)
    generations: tuple[Sample, ...] = ()
    cost: Cost | None = None
    warnings: tuple[str, ...] = ()
    group: str = ""
    skipped: str = ""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of the mixture."""
        if self.mix_history is not None:
            return self.mix_history.tasks
        return tuple(self.mixture.get("tasks") or self.eval.get("tasks") or ())

    def score(self, name: str) -> float:
        """A final score such as `worst_excess` (nats) or `mean_accuracy`; NaN when the run has none."""
        kind, key = name.split("_", 1)
        value = (self.eval.get(kind) or {}).get(key)
        if kind == "worst":
            value = value.get("value") if isinstance(value, dict) else None
        return number(value) if value is not None or kind == "mean" else worst(self.eval.get("tasks"), key)[1]

    def without_excess(self) -> "Run":
        """The run as one without specialists would be, for comparisons with runs that have other ones."""
        history = self.mix_history
        if history is not None:
            history = replace(history, excess_NK=np.full_like(history.excess_NK, np.nan))
        kept = {name: series for name, series in self.validation.items() if not name.startswith(OF_SPECIALISTS)}
        scores = {key: _without_excess(value) for key, value in self.eval.items()}
        return replace(self, eval=scores, validation=kept, mix_history=history)


def _without_excess(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {
        key: _without_excess(value) for key, value in node.items() if key not in ("excess", "gap", "specialist_loss")
    }


def run_folders(path: Path) -> list[Path]:
    """Run folders at or below `path`, sorted; a run is not searched for further runs.

    Raises:
        MixalignError: `path` is no folder.
    """
    if not path.is_dir():
        raise MixalignError(f"`{path}` is no folder. Give run folders or a folder that holds runs.")
    if (path / "config.yaml").is_file() and any((path / name).is_file() for name in ("eval.json", "mix.jsonl")):
        return [path]
    below = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return [folder for entry in below for folder in run_folders(entry)]


def load_run(path: str | Path) -> Run:
    """The run in this folder; its label is the mixer's name until `find_runs` has seen its neighbours.

    Raises:
        MixalignError: The folder has no config.yaml, or a file in it cannot be read.
    """
    path = Path(path)
    if not (path / "config.yaml").is_file():
        raise MixalignError(f"`{path}` is no run folder: it has no config.yaml.")
    config = read_settings(path / "config.yaml")
    scores, mixture = _read_scores(path / "eval.json"), _read_mixture(path / "mixture.json")
    mixer, objective = (str(scores.get(key) or _name_of(config.get(key))) for key in ("mixer", "objective"))
    origin = read_object(path / "identity.json").get("origin") or {}
    history = read_mix_history(path / "mix.jsonl", mixture.get("tasks") or list(scores.get("tasks") or []))
    return Run(
        path,
        label=mixer,
        mixer=mixer,
        objective=objective,
        seed=_seed(path, scores.get("seed", config.get("seed", 0))),
        split=str(scores.get("split") or ""),
        method=_method(mixer, scores, history),
        config=config,
        command=_command(origin),
        origin=origin,
        eval=scores,
        mixture=mixture,
        specialists=read_object(path / "specialists.json"),
        mix_history=history,
        validation=read_validation(path / "metrics.csv"),
        generations=read_generations(path / "generations.jsonl"),
        cost=read_cost(path, number(config.get("steps"))),
        warnings=read_warnings(path / "train.log"),
        skipped="" if scores.get("tasks") else "no eval.json: the run is unfinished or was not evaluated",
    )


def worst(tasks: Mapping[str, Mapping[str, Any]] | None, key: str) -> tuple[str, float]:
    """The task with the worst `key` and its value; ("", NaN) when no task has one."""
    sign = -1.0 if key in LOWER_IS_WORSE else 1.0
    values = {name: number(row.get(key)) for name, row in (tasks or {}).items()}
    known = [(name, value) for name, value in values.items() if not math.isnan(value)]
    return max(known, key=lambda pair: sign * pair[1], default=("", math.nan))


def _method(mixer: str, scores: RunConfig, history: MixHistory | None) -> Method:
    if mixer.startswith(MERGE):
        return "merge"
    if scores.keys() & {"rounds", "proxy"}:  # its mixture stayed in the end, after trainings that looked for it
        return "adaptive"
    static = scores.get("static")
    if not isinstance(static, bool):  # a run of an older version
        static = history is not None and not history.moved
    return "static" if static else "adaptive"


def _command(origin: RunConfig) -> dict[str, str] | None:
    overrides = origin.get("overrides")
    if not isinstance(overrides, list):
        return None
    pairs = (str(text).lstrip("+~").partition("=") for text in overrides)
    return {key: value for key, _, value in pairs}


def _read_scores(path: Path) -> RunConfig:
    """What eval.json holds, with objects where this package looks into them."""
    scores = read_object(path)
    for key in ("tasks", "mean", "worst"):
        if not isinstance(scores.get(key) or {}, dict):
            raise MixalignError(f"`{path}`: `{key}` holds {type(scores[key]).__name__}; an object is wanted.")
    for task, row in (scores.get("tasks") or {}).items():
        if not isinstance(row, dict):
            raise MixalignError(f"`{path}`: task `{task}` holds {type(row).__name__}; an object of numbers is wanted.")
    return scores


def _read_mixture(path: Path) -> RunConfig:
    """What mixture.json holds, with lists where this package looks into them."""
    mixture = read_object(path)
    for key in ("tasks", "rows_seen", "epochs_seen", "reads"):
        if not isinstance(mixture.get(key) or [], list):
            raise MixalignError(f"`{path}`: `{key}` holds {type(mixture[key]).__name__}; a list is wanted.")
    if not all(isinstance(task, str) for task in mixture.get("tasks") or []):
        raise MixalignError(f"`{path}`: `tasks` is {mixture['tasks']}; a list of names is wanted.")
    return mixture


def _name_of(group: object) -> str:
    name = group.get("name") if isinstance(group, dict) else group
    return str(name) if name else "unknown"


def _seed(path: Path, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise MixalignError(f"`{path}` has seed {value!r}; a whole number is wanted in config.yaml and eval.json.")
