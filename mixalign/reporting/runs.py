"""Run folders, read back: settings, final scores, the path of the mixture, the validation history.

Suffixes: `K` tasks, `N` recorded updates.
"""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mixalign.errors import MixalignError
from mixalign.reporting.cost import Cost, read_cost

__all__ = ["MixHistory", "Run", "differing_keys", "find_runs", "load_run", "number", "setting", "worst"]

IGNORED_KEYS = frozenset({"seed", "run_dir", "name", "paths", "hydra"})
LOWER_IS_WORSE = frozenset({"accuracy", "margin"})
Settings = dict[str, Any]


@dataclass(frozen=True)
class MixHistory:
    """What `mix.jsonl` says: one row an update, one column a task; NaN where the file has null.

    Attributes:
        sample_NK: Probability with which each task was drawn.
        loss_NK: Weight on each task's loss; all NaN in rows where the rule leaves the losses alone.
        excess_NK: Excess of the batch, in nats. `task_loss_NK`: its mean loss. `count_NK`: its samples.
    """

    tasks: tuple[str, ...]
    step_N: np.ndarray
    sample_NK: np.ndarray
    loss_NK: np.ndarray
    excess_NK: np.ndarray
    task_loss_NK: np.ndarray
    count_NK: np.ndarray

    @property
    def alpha_NK(self) -> np.ndarray:
        """The mixture as shares that sum to 1: the loss weights where there are any, else the sampling."""
        weight_NK = np.where(np.isnan(self.loss_NK).all(1, keepdims=True), self.sample_NK, self.loss_NK)
        weight_NK = np.nan_to_num(weight_NK)
        total_N1 = weight_NK.sum(1, keepdims=True)
        return weight_NK / np.where(total_N1 > 0, total_N1, 1.0)


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        label: The mixer's name and the settings that tell it from other runs of the same mixer.
        validation: `eval_excess/reverse` and the like -> (steps, values), both of shape (N,).
        cost: What it cost; None when its folder does not say.
        skipped: Why this run cannot be compared; empty when it can.
    """

    path: Path
    label: str
    mixer: str
    objective: str
    seed: int
    split: str = ""
    config: Settings = field(default_factory=dict)
    eval: Settings = field(default_factory=dict)
    mixture: Settings = field(default_factory=dict)
    mix_history: MixHistory | None = None
    validation: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    cost: Cost | None = None
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


def find_runs(paths: Iterable[str | Path]) -> list[Run]:
    """All runs at or below the given folders, labelled; those that cannot be compared say why in `skipped`.

    Raises:
        MixalignError: No folder holds a run.
    """
    given = [Path(path) for path in paths]
    folders = list(dict.fromkeys(folder for path in given for folder in _run_folders(path)))
    if not folders:
        where = ", ".join(f"`{path}`" for path in given) or "an empty list of folders"
        raise MixalignError(
            f"No run found in {where}. A run is a folder with config.yaml and eval.json or mix.jsonl; "
            "give run folders or a folder above them."
        )
    return _keep_newest(_label(_load_or_skip(folder) for folder in folders))


def load_run(path: str | Path) -> Run:
    """The run in this folder; its label is the mixer's name until `find_runs` has seen its neighbours.

    Raises:
        MixalignError: The folder has no config.yaml, or a file in it cannot be read.
    """
    path = Path(path)
    if not (path / "config.yaml").is_file():
        raise MixalignError(f"`{path}` is no run folder: it has no config.yaml.")
    config = _read_yaml(path / "config.yaml")
    scores, mixture = (_read_json(path / name) for name in ("eval.json", "mixture.json"))
    mixer, objective = (scores.get(key) or _name_of(config.get(key)) for key in ("mixer", "objective"))
    return Run(
        path,
        label=mixer,
        mixer=mixer,
        objective=objective,
        seed=_seed(path, scores.get("seed", config.get("seed", 0))),
        split=str(scores.get("split") or ""),
        config=config,
        eval=scores,
        mixture=mixture,
        mix_history=_read_history(path / "mix.jsonl", mixture.get("tasks") or list(scores.get("tasks") or [])),
        validation=_read_validation(path / "metrics.csv"),
        cost=read_cost(path, number(config.get("steps"))),
        skipped="" if scores.get("tasks") else "no eval.json: the run is unfinished or was not evaluated",
    )


def worst(tasks: Mapping[str, Mapping[str, Any]] | None, key: str) -> tuple[str, float]:
    """The task with the worst `key` and its value; ("", NaN) when no task has one."""
    sign = -1.0 if key in LOWER_IS_WORSE else 1.0
    found = [(name, number(row.get(key))) for name, row in (tasks or {}).items()]
    found = [(name, value) for name, value in found if not math.isnan(value)]
    return max(found, key=lambda pair: sign * pair[1], default=("", math.nan))


def number(value: object) -> float:
    """`value` as a finite float; NaN for null, text and infinities."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else math.nan  # type: ignore[arg-type]


def _run_folders(path: Path) -> list[Path]:
    """Run folders at or below `path`, sorted; a run is not searched for further runs."""
    if not path.is_dir():
        raise MixalignError(f"`{path}` is no folder. Give run folders or a folder that holds runs.")
    if (path / "config.yaml").is_file() and any((path / name).is_file() for name in ("eval.json", "mix.jsonl")):
        return [path]
    below = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return [folder for entry in below for folder in _run_folders(entry)]


def _load_or_skip(path: Path) -> Run:
    """The run, or a stand-in that carries the reason: one damaged folder must not hide the others."""
    try:
        return load_run(path)
    except MixalignError as error:
        return Run(path, label="?", mixer="?", objective="?", seed=0, skipped=str(error))


def _name_of(group: object) -> str:
    name = group.get("name") if isinstance(group, dict) else group
    return str(name) if name else "unknown"


def _seed(path: Path, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise MixalignError(f"`{path}` has seed {value!r}; a whole number is wanted in config.yaml and eval.json.")


def _read_yaml(path: Path) -> Settings:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise MixalignError(f"`{path}`{line} is not valid YAML: {_first_line(error)}.") from error
    if not isinstance(config, dict):
        raise MixalignError(f"`{path}` holds {type(config).__name__}; a mapping of settings is wanted.")
    return config


def _read_json(path: Path) -> Settings:
    """The object in this file; empty when there is no file."""
    return _parse(path.read_text(encoding="utf-8"), path) if path.is_file() else {}


def _parse(text: str, path: Path, first_line: int = 1) -> Settings:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise MixalignError(f"`{path}`, line {line}, is not valid JSON: {error.msg}. Remove or rewrite it.") from error
    if not isinstance(value, dict):
        raise MixalignError(f"`{path}`, line {first_line}, holds {type(value).__name__}; an object is wanted.")
    return value


def _first_line(error: Exception) -> str:
    return (str(getattr(error, "problem", "") or error).splitlines() or ["unreadable"])[0]


def _read_history(path: Path, tasks: Sequence[str]) -> MixHistory | None:
    """The mixture's path; None when the file is absent or empty."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = [(index, line) for index, line in enumerate(text.splitlines(), 1) if line.strip()]
    if lines and not text.endswith("\n") and not lines[-1][1].rstrip().endswith("}"):
        lines.pop()  # a writer that was killed leaves half a line
    updates = [(index, _parse(line, path, index)) for index, line in lines]
    if not updates:
        return None
    num_tasks = len(tasks) or len(updates[0][1].get("sample") or [])
    names = tuple(tasks) or tuple(f"task {index}" for index in range(num_tasks))

    def matrix(key: str) -> np.ndarray:
        return np.array([_row(path, index, key, update.get(key), num_tasks) for index, update in updates])

    keys = ("sample", "loss", "excess", "task_loss", "count")
    step_N = np.array([number(update.get("step", index)) for index, update in updates])
    return MixHistory(names, step_N, *(matrix(key) for key in keys))


def _row(path: Path, line: int, key: str, values: object, num_tasks: int) -> list[float]:
    if values is None:
        return [math.nan] * num_tasks
    if not isinstance(values, list) or len(values) != num_tasks:
        got = f"{len(values)} numbers" if isinstance(values, list) else repr(values)
        raise MixalignError(f"`{path}`, line {line}: `{key}` has {got}; the run has {num_tasks} tasks.")
    return [number(value) for value in values]


def _read_validation(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Every `eval...` column of the metrics file, empty cells left out; at equal steps the last one wins."""
    history: dict[str, dict[int, float]] = {}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, cell in row.items():
                    if name and name.startswith(("eval_", "eval/")) and cell and row.get("step"):
                        history.setdefault(name, {})[int(float(row["step"]))] = _cell(cell)
    return {
        name: (np.array(sorted(values), float), np.array([values[step] for step in sorted(values)]))
        for name, values in history.items()
    }


def _cell(text: str) -> float:
    try:
        return number(float(text))
    except ValueError:
        return math.nan


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys -> values, without the keys that name a run instead of describing it."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if not prefix and key in IGNORED_KEYS:
            continue
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif key != "seed":
            flat[f"{prefix}{key}"] = value
    return flat


def _label(runs: Iterable[Run]) -> list[Run]:
    """The runs with labels that tell different settings of one mixer apart."""
    runs = list(runs)
    labels: dict[Path, str] = {}
    for mixer in dict.fromkeys(run.mixer for run in runs):
        labels |= _labels_of([run for run in runs if run.mixer == mixer])
    return [replace(run, label=labels[run.path]) for run in runs]


def _labels_of(runs: Sequence[Run]) -> dict[Path, str]:
    finished = [run for run in runs if not run.skipped]
    settings = [_flatten(run.config) for run in finished]
    keys = differing_keys(finished)
    keys = [key for key in keys if not _follows_name(key, keys, settings)]
    labels = {}
    for run in runs:
        flat = _flatten(run.config)
        parts = [f"{_short(key)}={_text(flat[key])}" for key in keys if key in flat]
        labels[run.path] = " ".join([run.mixer, *parts])
    return labels


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """Dotted settings that differ between these runs, in the order of the files, and not merely by seed."""
    settings = [_flatten(run.config) for run in runs]
    seeds = [run.seed for run in runs]
    keys = dict.fromkeys(key for flat in settings for key in flat)
    return [key for key in keys if _tells(key, settings, seeds)]


def setting(run: Run, key: str) -> Any:
    """The value of a dotted key in the run's settings; None when it has none."""
    return _flatten(run.config).get(key)


def _tells(key: str, settings: Sequence[Settings], seeds: Sequence[int]) -> bool:
    """Whether the key differs, and not merely with the seed, as a path to that seed's model does."""
    values = [_text(flat.get(key)) for flat in settings]
    texts = all(isinstance(flat.get(key), str) for flat in settings)
    if len(set(values)) < 2 or not texts or key.endswith(".name"):
        return len(set(values)) > 1
    return len(set(zip(seeds, values, strict=True))) > len(set(seeds))


def _follows_name(key: str, keys: Sequence[str], settings: Sequence[Settings]) -> bool:
    """Whether the name of the key's group tells the same, as `objective.name` tells `objective.beta`."""
    name = f"{key.rpartition('.')[0]}.name"
    if key == name or name not in keys:
        return False
    pairs = {(_text(flat.get(name)), _text(flat.get(key))) for flat in settings}
    return len(pairs) == len({_text(flat.get(name)) for flat in settings})


def _short(key: str) -> str:
    return key.removesuffix(".name").removeprefix("mixer.")


def _text(value: object) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _keep_newest(runs: Sequence[Run]) -> list[Run]:
    """Of runs with one label and one seed, all but the newest are marked as skipped."""
    finished = sorted((run for run in runs if not run.skipped), key=_age)
    newest = {(run.label, run.seed): run for run in finished}

    def mark(run: Run) -> Run:
        other = newest.get((run.label, run.seed), run)
        reason = f"seed {run.seed} of {run.label} was run again: the newer {other.path.name} is used"
        return run if run.skipped or other is run else replace(run, skipped=reason)

    return [mark(run) for run in runs]


def _age(run: Run) -> tuple[float, str]:
    return (run.path / "eval.json").stat().st_mtime, run.path.name
