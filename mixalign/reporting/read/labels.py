"""Runs with labels that tell different settings of one mixer apart; runs of one label differ by their seed only."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixalign.errors import MixalignError
from mixalign.reporting.read.differences import differing_keys, spelled
from mixalign.reporting.read.files import RunConfig
from mixalign.reporting.read.groups import grouped
from mixalign.reporting.read.runs import Run, load_run, run_folders

__all__ = ["Ignores", "find_runs"]

Ignores = Callable[[str], bool]  # dotted key -> whether a difference in it is not worth showing


def find_runs(paths: Iterable[str | Path], ignores: Ignores) -> list[Run]:
    """All runs at or below the given folders, grouped and labelled; those that cannot be compared say why in `skipped`.

    Labels tell runs of one group apart; the same one may be in several groups.

    Args:
        ignores: Settings in which runs of one label may differ, such as the seed and the folder.

    Raises:
        MixalignError: No folder holds a run.
    """
    places = [Path(path) for path in paths]
    folders = list(dict.fromkeys(folder for path in places for folder in run_folders(path)))
    if not folders:
        where = ", ".join(f"`{path}`" for path in places) or "an empty list of folders"
        raise MixalignError(
            f"No run found in {where}. A run is a folder with config.yaml and eval.json or mix.jsonl; "
            "give run folders or a folder above them."
        )
    runs = [_load_or_skip(folder) for folder in folders]
    runs = grouped([_worth_showing(run, ignores) for run in runs])
    labelled: dict[Path, Run] = {}
    for group in dict.fromkeys(run.group for run in runs):
        alike = _keep_newest(_label([run for run in runs if run.group == group]))
        labelled |= {run.path: run for run in alike}
    return [labelled[run.path] for run in runs]


def _load_or_skip(path: Path) -> Run:
    """The run, or a stand-in that carries the reason: one damaged folder must not hide the others."""
    try:
        return load_run(path)
    except MixalignError as error:
        return Run(path, label="?", mixer="?", objective="?", seed=0, skipped=str(error))


def _worth_showing(run: Run, ignores: Ignores) -> Run:
    command = run.command and {key: text for key, text in run.command.items() if not ignores(key)}
    settings = {key: value for key, value in _leaves(run.config) if not ignores(key)}
    return replace(run, settings=settings, command=command)


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _label(runs: Sequence[Run]) -> list[Run]:
    labels: dict[Path, str] = {}
    for mixer in dict.fromkeys(run.mixer for run in runs):
        labels |= _labels_of([run for run in runs if run.mixer == mixer])
    return [replace(run, label=labels[run.path]) for run in runs]


def _labels_of(runs: Sequence[Run]) -> dict[Path, str]:
    """The labels of runs of one mixer; unfinished runs add nothing to them."""
    finished = [run for run in runs if not run.skipped]
    differing = differing_keys(finished)
    keys = [key for key in differing if not _follows_name(key, differing, [run.settings for run in finished])]
    keys = _without_following(keys, finished)
    labels = {}
    for run in runs:
        parts = [f"{_short(key)}={spelled(run.settings[key])}" for key in keys if key in run.settings]
        labels[run.path] = " ".join([run.mixer, *parts])
    return labels


def _follows_name(key: str, keys: Sequence[str], settings: Sequence[RunConfig]) -> bool:
    """Whether the name of the key's group tells the same, as `objective.name` tells `objective.beta`."""
    name = f"{key.rpartition('.')[0]}.name"
    if key == name or name not in keys:
        return False
    pairs = {(spelled(flat.get(name)), spelled(flat.get(key))) for flat in settings}
    return len(pairs) == len({spelled(flat.get(name)) for flat in settings})


def _without_following(keys: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """The keys without those that follow from others, as `specialists.lr` does from a given `optimizer.lr`.

    That is known where the commands of the runs differ in single keys alone, and not in groups of them.
    """
    commands = [run.command for run in runs if run.command is not None]
    given = {key for command in commands for key in command if key != "mixer"}
    apart = {key for key in given if len({command.get(key) for command in commands}) > 1}
    told = [key for key in keys if key in apart]
    if len(commands) < len(runs) or not told or any(key not in run.settings for key in apart for run in runs):
        return [*keys]

    def kinds(names: Sequence[str]) -> int:
        return len({tuple(spelled(run.settings.get(name)) for name in names) for run in runs})

    return [key for key in keys if key in told or kinds([*told, key]) > kinds(told)]


def _short(key: str) -> str:
    return key.removesuffix(".name").removeprefix("mixer.")


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
